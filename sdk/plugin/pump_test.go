package plugin_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

// A wrapped connection embeds a real one and has read ahead: its descriptor
// must not be handed over.
type wrapped struct {
	*net.UnixConn
	ahead   []byte
	aborted *atomic.Bool
}

func (w *wrapped) Read(p []byte) (int, error) {
	if len(w.ahead) > 0 {
		n := copy(p, w.ahead)
		w.ahead = w.ahead[n:]
		return n, nil
	}
	return w.UnixConn.Read(p)
}

func (w *wrapped) ChannelBinding() [32]byte { return [32]byte{1} }

func (w *wrapped) Abort() {
	if w.aborted != nil {
		w.aborted.Store(true)
	}
	w.UnixConn.Close()
}

// plain hides everything but net.Conn: no CloseWrite, no descriptor.
type plain struct{ net.Conn }

// A detached connection gives its descriptor up.
type detached struct{ *wrapped }

func (d *detached) Detach() (*os.File, error) {
	defer d.UnixConn.Close()
	return d.UnixConn.File()
}

func wraps() map[string]func(net.Conn) net.Conn {
	return map[string]func(net.Conn) net.Conn{
		"bare":     nil,
		"embedded": func(c net.Conn) net.Conn { return &wrapped{UnixConn: c.(*net.UnixConn)} },
		"plain":    func(c net.Conn) net.Conn { return plain{c} },
		"detached": func(c net.Conn) net.Conn { return &detached{&wrapped{UnixConn: c.(*net.UnixConn)}} },
	}
}

// The contract holds however a connection is handed over.
func TestEveryHandOver(t *testing.T) {
	for name, wrap := range wraps() {
		t.Run(name, func(t *testing.T) {
			check := noLeaks(t)
			plugintest.Test(t, plugintest.InProcess(unixPlugin(wrap)), plugintest.Options{})
			check()
		})
	}
}

// connectVia dials through a plugin whose connections are wrapped.
func connectVia(t *testing.T, wrap func(net.Conn) net.Conn) (near, far net.Conn) {
	t.Helper()
	c, err := plugin.Pipe(t.Context(), unixPlugin(wrap), plugin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	tr, err := c.Transport()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path) // the far end is no plugin's
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = tr.Dial(t.Context(), sdk.Addr{Scheme: "unix", Host: path})
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// A type that embeds a socket may hold bytes of it: they must arrive.
func TestBytesReadAheadAreNotLost(t *testing.T) {
	near, _ := connectVia(t, func(c net.Conn) net.Conn {
		return &wrapped{UnixConn: c.(*net.UnixConn), ahead: []byte("read ahead")}
	})
	got := make([]byte, 10)
	if _, err := io.ReadFull(near, got); err != nil || string(got) != "read ahead" {
		t.Errorf("got %q, %v", got, err)
	}
	if b, ok := near.(sdk.Binder); !ok || b.ChannelBinding() != [32]byte{1} {
		t.Errorf("the channel binding is lost: %T", near)
	}
}

func TestBareConnectionHasNoBinding(t *testing.T) {
	near, _ := connectVia(t, nil)
	if _, ok := near.(sdk.Binder); ok {
		t.Error("a Unix socket has a channel binding")
	}
	if near.RemoteAddr().String() == "" {
		t.Error("no remote address")
	}
}

// A cell that reads nothing is cut after 5 s, so that what others share is
// not held by it.
func TestStalledReaderIsAborted(t *testing.T) {
	t.Parallel()
	var aborted atomic.Bool
	_, far := connectVia(t, func(c net.Conn) net.Conn {
		return &wrapped{UnixConn: c.(*net.UnixConn), aborted: &aborted}
	})
	buf := make([]byte, 64<<10)
	far.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, err := far.Write(buf); err != nil {
			break
		}
	}
	if !aborted.Load() {
		t.Error("the connection was not aborted")
	}
}

// A cell that closes while the other end still writes: what it wrote before
// arrives whole, although nobody takes what comes back.
func TestBytesBeforeACloseArriveWhileTheOtherEndWrites(t *testing.T) {
	near, far := connectVia(t, func(c net.Conn) net.Conn { return &wrapped{UnixConn: c.(*net.UnixConn)} })
	deadline := time.Now().Add(20 * time.Second)
	far.SetDeadline(deadline)
	wrote := make(chan struct{})
	go func() { // until nobody reads
		defer close(wrote)
		for buf := make([]byte, 64<<10); ; {
			if _, err := far.Write(buf); err != nil {
				return
			}
		}
	}()
	near.SetDeadline(deadline)
	if _, err := io.ReadFull(near, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, 150<<10) // fits into the buffers, so that nothing waits for a reader
	for i := range msg {
		msg[i] = byte(i * 7)
	}
	if _, err := near.Write(msg); err != nil {
		t.Fatal(err)
	}
	near.Close()
	<-wrote
	got, err := io.ReadAll(far) // a reset after the last byte is fair: much was never read
	if !bytes.Equal(got, msg) {
		t.Errorf("got %d bytes, %v: want the %d written before the close", len(got), err, len(msg))
	}
}

// The end of input passes with all bytes before it, and the way back stays
// open for what was asked.
func TestAnswersFollowTheEndOfInput(t *testing.T) {
	near, far := connectVia(t, func(c net.Conn) net.Conn { return &wrapped{UnixConn: c.(*net.UnixConn)} })
	f, err := near.(plugin.Filer).File()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.FileConn(f)
	f.Close()
	near.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cell := c.(*net.UnixConn)
	cell.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := cell.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	cell.CloseWrite()
	if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := far.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if got, err := io.ReadAll(cell); string(got) != "answer" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
