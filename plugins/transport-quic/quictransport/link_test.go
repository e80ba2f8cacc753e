package quictransport_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/plugins/transport-quic/quictransport"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
	"go.uber.org/goleak"
)

// open serves the transport in this process. All goroutines must be gone when
// the test has ended.
func open(t *testing.T, config map[string]any) *plugin.Client {
	t.Helper()
	c, err := plugin.Pipe(t.Context(), quictransport.Plugin(), plugin.Options{Config: config, Certify: plugintest.Certify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	return c
}

func transport(t *testing.T, c *plugin.Client) sdk.Transport {
	t.Helper()
	tr, err := c.Transport()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// noLeaks checks that the goroutines of the test end with it.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
	})
}

func listenAt(t *testing.T, tr sdk.Transport, host string) net.Listener {
	t.Helper()
	l, err := tr.Listen(t.Context(), sdk.Addr{Scheme: "quic", Host: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func pass(t *testing.T, from, to net.Conn) {
	t.Helper()
	passWithin(t, 10*time.Second, from, to)
}

func passWithin(t *testing.T, limit time.Duration, from, to net.Conn) {
	t.Helper()
	to.SetReadDeadline(time.Now().Add(limit))
	if _, err := from.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(to, got); err != nil || string(got) != "ping" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// Every way to write an address reaches the listener, from a socket of its
// own and from that of the listener itself.
func TestAddressesReach(t *testing.T) {
	noLeaks(t)
	tr := transport(t, open(t, nil))
	for _, c := range []struct{ listen, dial string }{
		{"127.0.0.1:0", "127.0.0.1"}, {"[::1]:0", "[::1]"}, {"localhost:0", "localhost"},
		{"0.0.0.0:0", "127.0.0.1"}, {"[::]:0", "[::1]"}, {"[::]:0", "127.0.0.1"}, {":0", "127.0.0.1"}, {":0", "[::1]"},
	} {
		l := listenAt(t, tr, c.listen)
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil || port == "0" {
			t.Fatalf("%s: listens at %v", c.listen, l.Addr())
		}
		near, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: c.dial + ":" + port, Hint: l.(sdk.Hinter).Hint()})
		if err != nil {
			t.Fatalf("%s from %s: %v", c.listen, c.dial, err)
		}
		far, err := l.Accept() // before anything is written
		if err != nil {
			t.Fatal(err)
		}
		pass(t, near, far)
		pass(t, far, near)
		if host, _, err := net.SplitHostPort(far.RemoteAddr().String()); err != nil || host == "" {
			t.Errorf("%s: the accepted end is at %q", c.listen, far.RemoteAddr())
		}
		near.Close()
		far.Close()
		l.Close()
	}
}

func TestImpossibleAddresses(t *testing.T) {
	tr := transport(t, open(t, nil))
	for _, host := range []string{"127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":9000", "127.0.0.1:0", "a b:1"} {
		if _, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: host}); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("dial %q: %v, want invalid", host, err)
		}
	}
	if _, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: "127.0.0.1:1", Hint: []byte{1}}); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a hint of one byte: %v, want invalid", err)
	}
	_, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: "nosuch.invalid:1"})
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), `resolve "nosuch.invalid"`) {
		t.Errorf("a name nobody has: %v", err)
	}
}

// Nobody at the port: the operating system of the peer says so, and the
// dialler need not wait for a timeout.
func TestNobodyIsNoticedAtOnce(t *testing.T) {
	noLeaks(t)
	tr := transport(t, open(t, nil))
	l := listenAt(t, tr, "127.0.0.1:0")
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // less than the handshake's
	defer cancel()
	_, err := tr.Dial(ctx, sdk.Addr{Scheme: "quic", Host: l.Addr().String()})
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v, want connection refused", err)
	}
}

func TestHintIsTheCertificatesHash(t *testing.T) {
	noLeaks(t)
	var der atomic.Pointer[[]byte]
	server, err := plugin.Pipe(t.Context(), quictransport.Plugin(), plugin.Options{Certify: func(ctx context.Context, spki []byte) ([]byte, error) {
		b, err := plugintest.Certify(ctx, spki)
		der.Store(&b)
		return b, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Kill() })
	l := listenAt(t, transport(t, server), "127.0.0.1:0")
	hint := l.(sdk.Hinter).Hint()
	if want := sha256.Sum256(*der.Load()); !bytes.Equal(hint, want[:]) {
		t.Fatalf("the hint is %x, want %x", hint, want)
	}
	tr := transport(t, open(t, nil))
	addr := sdk.Addr{Scheme: "quic", Host: l.Addr().String(), Hint: bytes.Repeat([]byte{7}, 32)}
	_, err = tr.Dial(t.Context(), addr)
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "certificate is not the announced one") {
		t.Errorf("another hint: %v, want unavailable: it may be old", err)
	}
	for _, hint := range [][]byte{nil, hint} {
		addr.Hint = hint
		c, err := tr.Dial(t.Context(), addr)
		if err != nil {
			t.Fatalf("hint %x: %v", hint, err)
		}
		c.Close()
	}
}

// Links share a connection: all have one channel binding, and one handshake
// serves dials that begin together. Another dialler has another.
func TestLinksShareAConnection(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, nil))
	l := listenAt(t, server, "127.0.0.1:0")
	var mu sync.Mutex
	bindings := map[[32]byte]int{}
	remotes := map[string]bool{}
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			c, err := tr.Dial(t.Context(), addrOf(l))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			mu.Lock()
			defer mu.Unlock()
			bindings[c.(sdk.Binder).ChannelBinding()]++
		})
		all.Go(func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			mu.Lock()
			defer mu.Unlock()
			bindings[c.(sdk.Binder).ChannelBinding()]++
			remotes[c.RemoteAddr().String()] = true
		})
	}
	all.Wait()
	if len(bindings) != 1 || len(remotes) != 1 {
		t.Errorf("%d channel bindings, %d remote addresses: want 1", len(bindings), len(remotes))
	}
	other, err := transport(t, open(t, nil)).Dial(t.Context(), addrOf(l))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if bindings[other.(sdk.Binder).ChannelBinding()] != 0 {
		t.Error("another dialler has the same channel binding")
	}
}

// The 257th link makes a second connection; the 1025th is refused.
func TestLinksBeyondOneConnection(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, nil))
	l := listenAt(t, server, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	bindings := map[[32]byte]int{}
	for range 300 {
		c, err := tr.Dial(t.Context(), addrOf(l))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		bindings[c.(sdk.Binder).ChannelBinding()]++
	}
	if len(bindings) != 2 {
		t.Errorf("300 links over %d connections, want 2: %v", len(bindings), bindings)
	}
}

// A connection without links ends, and the next dial makes another.
func TestIdleConnectionsEnd(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, map[string]any{"idle": "1s"}))
	l := listenAt(t, server, "127.0.0.1:0")
	near, far := connectTo(t, tr, l)
	first := near.(sdk.Binder).ChannelBinding()
	near.Close()
	far.Close()
	near, far = connectTo(t, tr, l)
	if near.(sdk.Binder).ChannelBinding() != first {
		t.Error("the connection was not kept for the next link")
	}
	near.Close()
	far.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		<-time.After(1500 * time.Millisecond) // idle passes
		near, far = connectTo(t, tr, l)
		again := near.(sdk.Binder).ChannelBinding()
		near.Close()
		far.Close()
		if again != first {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the idle connection does not end")
		}
	}
}

func connectTo(t *testing.T, tr sdk.Transport, l net.Listener) (near, far net.Conn) {
	t.Helper()
	near, err := tr.Dial(t.Context(), addrOf(l))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

// A listener that closes leaves its links alone. New ones are refused, and
// reach the listener that follows at the same address.
func TestLinksOutliveTheirListener(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, nil))
	l := listenAt(t, server, "127.0.0.1:0")
	near, far := connectTo(t, tr, l)
	l.Close()
	pass(t, near, far)
	refused, err := tr.Dial(t.Context(), addrOf(l))
	if err == nil { // the refusal is on its way
		defer refused.Close()
		refused.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := refused.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a link to a closed listener: %v", err)
		}
	}
	again := listenAt(t, server, l.Addr().String())
	pass(t, near, far)
	near2, far2 := connectTo(t, tr, again)
	pass(t, near2, far2)
	pass(t, far, near)
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// DESIGN §11: cells that do not read must not freeze a node pair. Of 64 links
// 50 are written to without being read; the others go on, and the stuck ones
// are cut.
func TestUnreadLinksHoldUpNoOther(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, nil))
	l := listenAt(t, server, "127.0.0.1:0")
	const links, unread = 64, 50
	var near, far [links]net.Conn
	for i := range links {
		near[i], far[i] = connectTo(t, tr, l)
	}
	var cut sync.WaitGroup
	deadline := time.Now().Add(40 * time.Second)
	for i := range unread {
		near[i].SetWriteDeadline(deadline)
		cut.Go(func() {
			for buf := make([]byte, 64<<10); ; {
				if _, err := near[i].Write(buf); err != nil {
					if isTimeout(err) {
						t.Errorf("link %d is stuck for ever", i)
					}
					return
				}
			}
		})
	}
	stuck := make(chan struct{})
	go func() { cut.Wait(); close(stuck) }()
	rounds := 0
	for done := false; !done; {
		select {
		case <-stuck:
			done = true
		default:
		}
		for i := unread; i < links; i++ {
			passWithin(t, 4*time.Second, near[i], far[i]) // before the stuck ones are cut
			passWithin(t, 4*time.Second, far[i], near[i])
		}
		rounds++
	}
	if rounds < 10 {
		t.Errorf("%d rounds over the links that are read while the others were stuck", rounds)
	}
}
