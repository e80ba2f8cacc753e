package rawio

import (
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Stream is a connected stream socket whose reads and writes are those of
// this package: one goroutine may read and one write at a time. Everything
// else, deadlines included, is the connection's own.
type Stream struct {
	net.Conn
	in, out half
}

// NewStream returns c, which must be a socket that does not block, as those of
// package net are. It fails if c gives no access to its descriptor.
func NewStream(c net.Conn) (*Stream, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("open stream: %T has no descriptor", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	s := &Stream{Conn: c}
	s.in.init(raw, Read)
	s.out.init(raw, Write)
	return s, nil
}

// Read waits for bytes and returns those that are there.
func (s *Stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := s.in.do(s.in.raw.Read, b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write writes all of b, or says how much of it before an error.
func (s *Stream) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = s.out.do(s.out.raw.Write, b[n:])
		n += m
	}
	return n, err
}

// A half is one direction of a socket. Its closure is kept, because one would
// be allocated for each call.
type half struct {
	raw  syscall.RawConn
	b    []byte
	n    int
	err  error
	turn func(fd uintptr) bool
}

func (h *half) init(raw syscall.RawConn, call func(fd uintptr, b []byte) (int, error)) {
	h.raw = raw
	h.turn = func(fd uintptr) bool {
		h.n, h.err = call(fd, h.b)
		return h.err != unix.EAGAIN
	}
}

// do waits until the socket is ready and makes one call.
func (h *half) do(wait func(func(fd uintptr) bool) error, b []byte) (int, error) {
	h.b, h.n, h.err = b, 0, nil
	err := wait(h.turn)
	h.b = nil
	if err != nil {
		return 0, err
	}
	return h.n, h.err
}
