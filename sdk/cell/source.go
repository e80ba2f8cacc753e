package cell

import (
	"io"
	"syscall"

	"github.com/cellkernel/cellkernel/sdk/rawio"
	"golang.org/x/sys/unix"
)

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
		s.n, s.err = rawio.Read(fd, s.b)
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
