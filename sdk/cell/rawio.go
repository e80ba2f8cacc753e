package cell

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of a link do not block, and most of them are short. The
// scheduler is not told of those: it would give the processor of a thread that
// is in a system call for 20 µs, or that the machine does not run meanwhile, to
// another thread of this process, which then competes for what one had done.

// rawLen is the most that is sent without telling the scheduler, in bytes: the
// garbage collector waits for such a call.
const rawLen = 64 << 10

func rawRead(fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func rawSend(fd uintptr, b []byte) (int, error) {
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if len(b) > rawLen {
		return unix.SendmsgN(int(fd), b, nil, nil, flags)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// A source is the reading half of a socket. It belongs to one goroutine at a time.
type source struct {
	raw  syscall.RawConn
	wait bool // for bytes, if there are none
	b    []byte
	n    int
	err  error
	do   func(fd uintptr) bool // kept because a closure would be allocated for each
}

func newSource(raw syscall.RawConn) *source {
	s := &source{raw: raw}
	s.do = func(fd uintptr) bool {
		s.n, s.err = rawRead(fd, s.b)
		return !s.wait || s.err != unix.EAGAIN
	}
	return s
}

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	n, err := s.read(b, true)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// glance reads what is there. It returns unix.EAGAIN if that is nothing.
func (s *source) glance(b []byte) (int, error) { return s.read(b, false) }

func (s *source) read(b []byte, wait bool) (int, error) {
	s.b, s.wait, s.n = b, wait, 0
	err := s.raw.Read(s.do)
	s.b = nil
	if err == nil {
		err = s.err
	}
	return s.n, err
}
