// Package channel is the side channel between the kernel and its children:
// one AF_UNIX SEQPACKET socket that carries small messages with file
// descriptors (SCM_RIGHTS), and whose end of input means that the other side
// died. It is never read by anything but ReadMsgUnix: buffered readers lose
// the descriptors that travel with a byte.
//
// Messages are bounded ([MaxMessage], [MaxFiles]); received descriptors are
// close-on-exec from the moment they exist, and truncation is an error, never
// a shorter message.
package channel

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

// Limits of one message.
const (
	MaxMessage = 64 << 10 // bytes
	MaxFiles   = 4        // descriptors
)

// A Conn is one end of a side channel. Any number of goroutines may Send;
// one at a time may Recv.
type Conn struct {
	c   *net.UnixConn
	oob []byte // of the reader
	wmu sync.Mutex
}

// Pair makes a channel: ours for this process, theirs for a child to inherit.
// The caller closes theirs once the child has started.
func Pair() (ours *Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make side channel: %w", err)
	}
	ours, err = FromFD(uintptr(fds[0]))
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return ours, os.NewFile(uintptr(fds[1]), "channel"), nil
}

// FromFD takes ownership of descriptor fd, which must be a connected
// SEQPACKET socket. The descriptor is closed in any case.
func FromFD(fd uintptr) (*Conn, error) {
	// The duplicate below is close-on-exec; the inherited one must be, too.
	unix.CloseOnExec(int(fd))
	f := os.NewFile(fd, "channel")
	if f == nil {
		return nil, fmt.Errorf("open side channel: descriptor %d is not open", fd)
	}
	defer f.Close()
	return FromFile(f)
}

// FromFile makes a Conn of f, which must be a connected SEQPACKET socket. f
// stays the caller's and may be closed at once.
func FromFile(f *os.File) (*Conn, error) {
	if err := checkSocket(f, unix.SOCK_SEQPACKET); err != nil {
		return nil, fmt.Errorf("open side channel: %w", err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open side channel: %w", err)
	}
	return New(c.(*net.UnixConn)), nil
}

// New wraps a "unixpacket" connection and takes ownership of it.
func New(c *net.UnixConn) *Conn {
	return &Conn{c: c, oob: make([]byte, unix.CmsgSpace(4*MaxFiles))}
}

// Send writes one message with its descriptors. It blocks while the other
// side's queue is full, until the write deadline. The files stay the caller's
// and may be closed once Send has returned.
func (c *Conn) Send(msg []byte, files ...*os.File) error {
	if len(msg) == 0 || len(msg) > MaxMessage || len(files) > MaxFiles {
		return fmt.Errorf("send on side channel: message of %d bytes and %d descriptors: want 1 to %d bytes, at most %d descriptors", len(msg), len(files), MaxMessage, MaxFiles)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if len(files) == 0 {
		if _, err := c.c.Write(msg); err != nil {
			return fmt.Errorf("send on side channel: %w", err)
		}
		return nil
	}
	return withFDs(files, nil, func(fds []int) error {
		if _, _, err := c.c.WriteMsgUnix(msg, unix.UnixRights(fds...), nil); err != nil {
			return fmt.Errorf("send on side channel: %w", err)
		}
		return nil
	})
}

// withFDs calls f with the descriptors of files, all held open meanwhile.
// (os.File.Fd would set them to blocking mode, and with them the description
// that other processes share.)
func withFDs(files []*os.File, fds []int, f func([]int) error) error {
	if len(files) == 0 {
		return f(fds)
	}
	rc, err := files[0].SyscallConn()
	if err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	var inner error
	if err := rc.Control(func(fd uintptr) {
		inner = withFDs(files[1:], append(fds, int(fd)), f)
	}); err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	return inner
}

// ErrTruncated is returned by [Conn.Recv] for a message, or a set of
// descriptors, that did not fit. What had arrived is closed and dropped.
var ErrTruncated = errors.New("receive on side channel: message or descriptors truncated")

// Recv reads one message into buf, which should be [MaxMessage] bytes long.
// The files are the caller's. io.EOF means that the other side is gone.
func (c *Conn) Recv(buf []byte) (n int, files []*os.File, err error) {
	n, oobn, flags, _, err := c.c.ReadMsgUnix(buf, c.oob)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			err = io.EOF
		}
		return 0, nil, err
	}
	files, err = parseFiles(c.oob[:oobn])
	if err == nil && (flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(files) > MaxFiles) {
		err = ErrTruncated
	}
	if err != nil {
		closeAll(files)
		return 0, nil, err
	}
	if n == 0 && oobn == 0 {
		return 0, nil, io.EOF
	}
	return n, files, nil
}

func parseFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive on side channel: %w", err)
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // not descriptors: nothing of ours
		}
		for _, fd := range fds {
			// Go's ReadMsgUnix asks for MSG_CMSG_CLOEXEC.
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// SetReadDeadline bounds Recv; the zero time means no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.c.SetReadDeadline(t) }

// SetWriteDeadline bounds Send; the zero time means no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.c.SetWriteDeadline(t) }

// Close closes this end; the other side reads io.EOF.
func (c *Conn) Close() error { return c.c.Close() }

// PeerCred returns the process and user that made the other end. For a pair
// that is this process, whoever holds the other end now.
func (c *Conn) PeerCred() (pid int32, uid uint32, err error) { return PeerCred(c.c) }

// PeerCred returns the process and user at the other end of a Unix socket, as
// the operating system recorded them when it was connected (SO_PEERCRED).
func PeerCred(c *net.UnixConn) (pid int32, uid uint32, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("read peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	err = rc.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, inner); err != nil {
		return 0, 0, fmt.Errorf("read peer credentials: %w", err)
	}
	return cred.Pid, cred.Uid, nil
}

// IsStream checks that f is a connected stream socket and sets it to
// non-blocking mode, as the runtime's poller needs.
func IsStream(f *os.File) error {
	if err := checkSocket(f, unix.SOCK_STREAM); err != nil {
		return err
	}
	return control(f, func(fd int) error {
		if _, err := unix.Getpeername(fd); err != nil {
			return fmt.Errorf("descriptor is not connected: %w", err)
		}
		return unix.SetNonblock(fd, true)
	})
}

func checkSocket(f *os.File, want int) error {
	return control(f, func(fd int) error {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if err != nil {
			return fmt.Errorf("descriptor is not a socket: %w", err)
		}
		if got != want {
			return fmt.Errorf("socket type %d: want %d", got, want)
		}
		return nil
	})
}

func control(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}
