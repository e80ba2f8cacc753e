package channel_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/channel"
	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *channel.Conn) {
	t.Helper()
	a, theirs, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	// Hand over a descriptor number, as exec would.
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	b, err = channel.FromFD(uintptr(fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessagesKeepTheirBordersAndFiles(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send([]byte("one"), w); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(bytes.Repeat([]byte("x"), channel.MaxMessage)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	buf := make([]byte, channel.MaxMessage)
	n, files, err := b.Recv(buf)
	if err != nil || string(buf[:n]) != "one" || len(files) != 1 {
		t.Fatalf("got %q, %d files, %v", buf[:n], len(files), err)
	}
	flags, err := unix.FcntlInt(files[0].Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("received descriptor: flags %d, %v: want close-on-exec", flags, err)
	}
	files[0].WriteString("through")
	files[0].Close()
	if got, _ := io.ReadAll(r); string(got) != "through" {
		t.Errorf("got %q through the received descriptor", got)
	}
	if n, files, err := b.Recv(buf); n != channel.MaxMessage || files != nil || err != nil {
		t.Errorf("got %d bytes, %v, %v", n, files, err)
	}
}

func TestEndOfInputMeansTheOtherSideDied(t *testing.T) {
	a, b := pair(t)
	a.Close()
	if _, _, err := b.Recv(make([]byte, 10)); err != io.EOF {
		t.Errorf("got %v, want io.EOF", err)
	}
}

func TestTruncationIsAnError(t *testing.T) {
	a, b := pair(t)
	if err := a.Send([]byte("longer than four")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Recv(make([]byte, 4)); !errors.Is(err, channel.ErrTruncated) {
		t.Errorf("got %v, want ErrTruncated", err)
	}
}

func TestTooManyDescriptorsAreClosed(t *testing.T) {
	ours, theirs, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	for range channel.MaxFiles + 3 {
		fds = append(fds, int(w.Fd()))
	}
	if err := unix.Sendmsg(int(theirs.Fd()), []byte("x"), unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, _, err := ours.Recv(make([]byte, 10)); !errors.Is(err, channel.ErrTruncated) {
		t.Errorf("got %v, want ErrTruncated", err)
	}
	r.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("a stray descriptor stayed open: %v", err)
	}
	theirs.Close()
}

func TestSendRefusesWhatRecvWould(t *testing.T) {
	a, _ := pair(t)
	for _, n := range []int{0, channel.MaxMessage + 1} {
		if err := a.Send(make([]byte, n)); err == nil {
			t.Errorf("sent %d bytes: want an error", n)
		}
	}
}

func TestFullQueueIsBoundedByTheDeadline(t *testing.T) {
	a, _ := pair(t)
	if err := a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, channel.MaxMessage)
	for range 10_000 {
		if err := a.Send(msg); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want a deadline error", err)
			}
			return
		}
	}
	t.Error("10 000 messages fit into nobody's queue")
}

func TestIsStream(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, g := os.NewFile(uintptr(fds[0]), "f"), os.NewFile(uintptr(fds[1]), "g")
	defer f.Close()
	defer g.Close()
	if err := channel.IsStream(f); err != nil {
		t.Errorf("stream socket: %v", err)
	}
	r, w, _ := os.Pipe()
	defer r.Close()
	defer w.Close()
	if err := channel.IsStream(r); err == nil {
		t.Error("a pipe passed as a stream socket")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/l", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lf, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer lf.Close()
	if err := channel.IsStream(lf); err == nil {
		t.Error("a listening socket passed as a connected one")
	}
}

func TestFromFDRefusesOtherDescriptors(t *testing.T) {
	r, w, _ := os.Pipe()
	defer w.Close()
	fd, _ := unix.FcntlInt(r.Fd(), unix.F_DUPFD, 0)
	r.Close()
	if _, err := channel.FromFD(uintptr(fd)); err == nil {
		t.Error("a pipe passed as a side channel")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
		t.Error("the refused descriptor is still open")
	}
}
