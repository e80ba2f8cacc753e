package cell

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A writer for whom others append as fast as it writes hands over after some
// turns, and every byte is written, once and in order.
func TestNobodyWritesForOthersWithoutEnd(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		defer ends[i].Close()
	}
	w, err := newWriter(ends[0])
	if err != nil {
		t.Fatal(err)
	}
	// What is written next is sealed first: a moment at which to append more.
	var next, last atomic.Uint32
	last.Store(1 << 31)
	more := func() { // the caller holds the lock
		if n := next.Load(); n < last.Load() {
			w.buf = append(w.buf, byte(n))
			next.Add(1)
		}
	}
	release, turns := make(chan struct{}), 0
	w.seal = func(dst, plain []byte) []byte {
		if turns++; turns == maxTurns+2 {
			<-release // by now it is another goroutine's turn
		}
		w.mu.Lock()
		more()
		w.mu.Unlock()
		return append(dst, plain...)
	}
	received := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(ends[1]) // until the test closes the other end
		received <- b
	}()
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		if err := w.lock(); err != nil {
			t.Error(err)
			return
		}
		more()
		w.unlock(alone)
	}()
	select {
	case <-flushed:
	case <-time.After(20 * time.Second):
		t.Error("it still writes for others")
	}
	close(release)
	last.Store(next.Load() + 100) // others stop: the goroutine must end, too
	<-flushed
	w.wg.Wait()
	w.fail(errLinkClosed)
	b := <-received
	var want bytes.Buffer
	for n := range next.Load() {
		want.WriteByte(byte(n))
	}
	if len(b) <= maxTurns || !bytes.Equal(b, want.Bytes()) {
		t.Errorf("%d bytes arrived, %d were appended", len(b), want.Len())
	}
}
