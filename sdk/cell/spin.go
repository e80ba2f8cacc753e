package cell

import (
	"runtime"
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
	src  *source
	luck int // > 0: spins that may still be in vain; < 0: reads to rest
}

func newSpinner(src *source) *spinner { return &spinner{src: src, luck: spinLuck} }

// read returns how many bytes came while it was spinning. None means to read
// as usual, which also tells about ends and errors.
func (s *spinner) read(b []byte) int {
	if s.luck <= 0 {
		if s.luck++; s.luck == 0 {
			s.luck = 1 // one more try
		}
		return 0
	}
	for until := nanos() + int64(spinFor); nanos() < until; {
		n, err := s.src.glance(b)
		if n > 0 {
			s.luck = min(s.luck+1, spinLuck)
			return n
		}
		if err != unix.EAGAIN {
			return 0
		}
		runtime.Gosched() // others first
	}
	if s.luck--; s.luck == 0 {
		s.luck = -spinRest
	}
	return 0
}
