package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk/rawio"
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
	pumpSmall  = 4 << 10 // of a link that never carried more at once
	pumpBuffer = 64 << 10
	pumpStall  = 5 * time.Second  // a cell that reads nothing for so long is cut, at most
	pumpSlack  = time.Second      // later than that, so that a deadline serves many writes
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
	s.tasks.Go(func() { pump(s.ctx, near, c) })
	return far, nil
}

func socketPair() (*localEnd, *os.File, error) {
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
	cell := os.NewFile(uintptr(fds[1]), "pump")
	s, err := rawio.NewStream(c)
	if err != nil {
		c.Close()
		cell.Close()
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return &localEnd{Stream: s, halfCloser: c.(*net.UnixConn)}, cell, nil
}

// A localEnd is the pump's end of the socket whose other end a cell has.
type localEnd struct {
	*rawio.Stream
	halfCloser
}

// A halfCloser can end one direction and keep the other.
type halfCloser interface {
	CloseRead() error
	CloseWrite() error
}

// pump copies both ways and returns when both connections are closed. The end
// of input of one is passed on after all bytes before it; a reader that closed
// makes the writer's writes fail and takes nothing from the other direction.
// When one has ended the other has pumpLinger to end, too, because links know
// no half-close.
func pump(ctx context.Context, local *localEnd, remote net.Conn) {
	end := func() {
		local.Close()
		remote.Close()
	}
	defer end()
	defer context.AfterFunc(ctx, end)()
	linger := sync.OnceValue(func() *time.Timer { return time.AfterFunc(pumpLinger, end) })
	var up sync.WaitGroup
	up.Go(func() {
		if !pumpUp(local, remote) {
			end()
		}
		linger()
	})
	if !pumpDown(local, remote) {
		end()
	}
	linger()
	up.Wait()
	linger().Stop()
}

// pumpDown carries what the other end wrote to the cell. It reports false when
// both directions are over.
func pumpDown(local *localEnd, remote net.Conn) bool {
	rerr, werr := copyTo(local, remote, pumpStall)
	h, half := remote.(halfCloser)
	a, aborts := remote.(Aborter)
	switch {
	case errors.Is(werr, os.ErrDeadlineExceeded) && aborts:
		a.Abort()
		return false
	case rerr == io.EOF:
		local.CloseWrite()
		return true
	case werr != nil && half: // the cell closed; what it wrote before is still on its way
		h.CloseRead()
		return true
	}
	return false
}

// pumpUp carries what the cell wrote to the other end. It reports false when
// both directions are over.
func pumpUp(local *localEnd, remote net.Conn) bool {
	rerr, werr := copyTo(remote, local, 0)
	h, half := remote.(halfCloser)
	switch {
	case !half:
		return false // Close delivers what was written, as every transport must
	case rerr == io.EOF:
		h.CloseWrite()
		return true
	case werr != nil: // nobody reads there; what was written there is still on its way
		local.CloseRead()
		return true
	}
	return false
}

// copyTo copies until src or dst fails and tells which. With a stall, each
// write must make progress within it.
func copyTo(dst, src net.Conn, stall time.Duration) (rerr, werr error) {
	buf := make([]byte, pumpSmall)
	w := pacedWriter{conn: dst, stall: stall}
	n := 0
	for {
		if n < pumpSmall {
			runtime.Gosched() // whoever has more for src goes first: fewer and longer writes
		}
		var err error
		n, err = src.Read(buf)
		if n > 0 {
			if werr := w.write(buf[:n]); werr != nil {
				return nil, werr
			}
		}
		if err != nil {
			return err, nil
		}
		if n == len(buf) && n < pumpBuffer {
			buf = make([]byte, pumpBuffer)
		}
	}
}

// A pacedWriter gives each write of conn at least stall, and at most pumpSlack
// more, to make progress.
type pacedWriter struct {
	conn  net.Conn
	stall time.Duration // 0 for no limit
	armed time.Time     // when the deadline was set
}

func (w *pacedWriter) write(p []byte) error {
	for {
		if w.stall > 0 {
			if now := time.Now(); now.Sub(w.armed) > pumpSlack {
				w.armed = now
				w.conn.SetWriteDeadline(now.Add(w.stall + pumpSlack))
			}
		}
		n, err := w.conn.Write(p)
		if err == nil {
			return nil
		}
		if p = p[n:]; n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}
