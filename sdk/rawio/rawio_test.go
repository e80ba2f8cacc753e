package rawio_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/rawio"
	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *rawio.Stream) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	if a, err = rawio.NewStream(near); err != nil {
		t.Fatal(err)
	}
	if b, err = rawio.NewStream(far); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// More than fits into a socket arrives whole, then the end of input.
func TestStream(t *testing.T) {
	a, b := pair(t)
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		n, err := a.Write(sent)
		if n != len(sent) && err == nil {
			err = io.ErrShortWrite
		}
		a.Close()
		wrote <- err
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(sent), err)
	}
	if err := <-wrote; err != nil {
		t.Errorf("write: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	a, _ := pair(t)
	a.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read that nobody answers: %v", err)
	}
	big := make([]byte, 16<<20)
	n, err := a.Write(big) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == len(big) {
		t.Errorf("a write that nobody reads: %d bytes, %v", n, err)
	}
	a.SetDeadline(time.Time{})
	if n == 0 { // the deadline was over before the first byte
		if n, err := a.Write(big[:1]); n != 1 || err != nil {
			t.Errorf("a write after the deadline: %d bytes, %v", n, err)
		}
	}
}

func TestBrokenPipe(t *testing.T) {
	a, b := pair(t)
	b.Close()
	if _, err := a.Write([]byte{1}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("a write to nobody: %v", err)
	}
	if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("a read from nobody: %d bytes, %v", n, err)
	}
	a.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of a closed stream: %v", err)
	}
}

func TestNoDescriptor(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := rawio.NewStream(a); err == nil {
		t.Error("a pipe in memory became a stream")
	}
}
