package plugin

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Detacher is a connection that can give up its descriptor: a connected
// stream socket that holds all bytes not yet read, none of them buffered
// elsewhere. After Detach the connection is not used any more; the file is
// the caller's.
type Detacher interface {
	net.Conn
	Detach() (*os.File, error)
}

// An Aborter is a connection that can be ended without delivering what was
// written to it. A pump aborts when the cell at its other end reads nothing
// for 5 s, so that one stuck cell does not hold what others share.
type Aborter interface {
	Abort()
}

const (
	pumpBuffer = 32 << 10
	pumpStall  = 5 * time.Second  // a cell that reads nothing for so long is cut
	pumpLinger = 10 * time.Second // from the end of one direction to that of the other
)

// handOver returns the descriptor to give away for c and forgets c. The
// concrete type decides, not the interface: a type that embeds *net.TCPConn
// may have read ahead.
func (s *server) handOver(c net.Conn) (*os.File, error) {
	var f *os.File
	var err error
	switch c := c.(type) {
	case *net.UnixConn:
		f, err = c.File()
	case *net.TCPConn:
		f, err = c.File()
	case Detacher:
		f, err = c.Detach()
		if err != nil {
			c.Close()
		}
		return f, err
	default:
		return s.startPump(c)
	}
	c.Close()
	return f, err
}

// startPump makes a socket pair and copies between one end and c until either
// ends. It returns the other end.
func (s *server) startPump(c net.Conn) (*os.File, error) {
	near, far, err := socketPair()
	if err != nil {
		c.Close()
		return nil, err
	}
	s.tasks.Go(func() { pump(s.ctx.Done(), near, c) })
	return far, nil
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "pump")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return c.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "pump"), nil
}

// pump copies both ways and returns when both connections are closed. The end
// of input of one is passed on after all bytes before it; then the other has
// pumpLinger to end, too, because links know no half-close.
func pump(stop <-chan struct{}, local *net.UnixConn, remote net.Conn) {
	var once sync.Once
	ended := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		defer once.Do(func() { close(ended) })
		if err := copyTo(local, remote, pumpStall); err != nil {
			if a, ok := remote.(Aborter); ok && errors.Is(err, os.ErrDeadlineExceeded) {
				a.Abort()
			}
			local.Close()
			remote.Close()
			return
		}
		local.CloseWrite()
	})
	both.Go(func() {
		defer once.Do(func() { close(ended) })
		if err := copyTo(remote, local, 0); err != nil {
			local.Close()
			remote.Close()
			return
		}
		if h, ok := remote.(interface{ CloseWrite() error }); ok {
			h.CloseWrite()
			return
		}
		remote.Close() // delivers what was written, as every transport must
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ended:
		case <-stop:
		}
		closeAfter(stop, &both, local, remote)
	}()
	both.Wait()
	local.Close()
	remote.Close()
	<-done
}

// closeAfter closes both unless all copying ends before.
func closeAfter(stop <-chan struct{}, both *sync.WaitGroup, local, remote net.Conn) {
	copied := make(chan struct{})
	go func() {
		both.Wait()
		close(copied)
	}()
	timer := time.NewTimer(pumpLinger)
	defer timer.Stop()
	select {
	case <-copied:
	case <-timer.C:
	case <-stop:
	}
	local.Close()
	remote.Close()
	<-copied
}

// copyTo copies until the end of input, which is no error. With a stall, each
// write must make progress within it.
func copyTo(dst net.Conn, src net.Conn, stall time.Duration) error {
	buf := make([]byte, pumpBuffer)
	for {
		n, err := src.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			if stall > 0 {
				dst.SetWriteDeadline(time.Now().Add(stall))
			}
			w, werr := dst.Write(rest)
			rest = rest[w:]
			if werr != nil && (w == 0 || !errors.Is(werr, os.ErrDeadlineExceeded)) {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
