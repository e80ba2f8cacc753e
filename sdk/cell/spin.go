package cell

import (
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An answer that comes within a few microseconds is here sooner than a thread
// that sleeps can be woken: an idle core of a virtual machine takes 100 µs and
// more. So readers that expect an answer ask the socket again and again for
// spinFor before they sleep, as long as that is worth it: a lone caller, a link
// with calls in flight, a server whose handlers are quick.
const (
	spinFor  = 50 * time.Microsecond
	spinLuck = 8  // spins in vain, at most, before it rests
	spinRest = 64 // reads that then go without
)

// A spinner reads from a socket without sleeping. It belongs to the reader.
type spinner struct {
	raw  syscall.RawConn
	luck int // > 0: spins that may still be in vain; < 0: reads to rest
	b    []byte
	n    int
	err  error
	do   func(fd uintptr) bool // kept because a closure would be allocated for each
}

func newSpinner(raw syscall.RawConn) *spinner {
	s := &spinner{raw: raw, luck: spinLuck}
	s.do = func(fd uintptr) bool {
		s.n, s.err = unix.Read(int(fd), s.b) // the socket does not block
		return true
	}
	return s
}

// read returns how many bytes came while it was spinning. None means to read
// as usual, which also tells about ends and errors.
func (s *spinner) read(b []byte) int {
	if s.luck <= 0 {
		if s.luck++; s.luck == 0 {
			s.luck = 1 // one more try
		}
		return 0
	}
	s.b = b
	defer func() { s.b = nil }()
	for until := nanos() + int64(spinFor); nanos() < until; {
		if err := s.raw.Read(s.do); err != nil {
			return 0
		}
		if s.err == nil && s.n > 0 {
			s.luck = min(s.luck+1, spinLuck)
			return s.n
		}
		if s.err != unix.EAGAIN {
			return 0
		}
		runtime.Gosched() // others first
	}
	if s.luck--; s.luck == 0 {
		s.luck = -spinRest
	}
	return 0
}
