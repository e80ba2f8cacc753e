package netlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxFrame  = 1518    // bytes of Ethernet, with a VLAN tag: taps get no larger ones
	maxQueued = 1 << 14 // frames: 100 ms of 160 000 a second
	maxBatch  = 64      // frames taken before what is due is sent
)

// A pipe is one direction of a box: it takes frames from one descriptor and
// writes them to another when they are due. One thread does both, so there is
// nothing to lock, and waits for frames and time in one system call, which is
// precise where timers of the Go runtime are good for a millisecond.
type pipe struct {
	in, out, stop int
	cable         atomic.Pointer[Cable]
	lost          atomic.Uint64 // frames that found the queue full or the other side closed

	queue fifo
	sway  sway
	last  time.Duration // when the last frame of the queue is due
	begin time.Time     // zero of all times
	frame [maxFrame]byte
}

func newPipe(in, out, stop int) *pipe {
	p := &pipe{in: in, out: out, stop: stop, begin: time.Now()}
	p.sway.random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	p.cable.Store(&Cable{})
	return p
}

// run moves frames until stop is signalled or a side is gone. What is in the
// queue is lost then.
func (p *pipe) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer setSlack(0)
	setSlack(1)
	for more := false; ; {
		ready, stopped := p.wait(more)
		if stopped {
			return
		}
		more = false
		if ready {
			n, err := p.take()
			if err != nil {
				return
			}
			more = n == maxBatch
		}
		p.send()
	}
}

// setSlack says by how many nanoseconds the calling thread may be woken late,
// on purpose, to save power; 0 is the default, 50 000.
func setSlack(ns uintptr) {
	// prctl(2) knows the option since Linux 2.6.28; without it delays are less exact.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, ns, 0, 0, 0)
}

// wait waits until there are frames to take or one to send; not at all if it
// is known that there is more.
func (p *pipe) wait(more bool) (ready, stopped bool) {
	fds := []unix.PollFd{{Fd: int32(p.in), Events: unix.POLLIN}, {Fd: int32(p.stop), Events: unix.POLLIN}}
	var timeout *unix.Timespec // nil: for ever
	if due, ok := p.queue.due(); ok || more {
		left := due - time.Since(p.begin)
		if more {
			left = 0
		}
		ts := unix.NsecToTimespec(int64(max(0, left)))
		timeout = &ts
	}
	if _, err := unix.Ppoll(fds, timeout, nil); err != nil {
		return false, !errors.Is(err, unix.EINTR)
	}
	return fds[0].Revents != 0, fds[1].Revents != 0
}

// take moves a batch of frames to the queue, or past it if they overtake, and
// returns how many.
func (p *pipe) take() (n int, err error) {
	cable := p.cable.Load()
	for n < maxBatch {
		size, err := unix.Read(p.in, p.frame[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return n, fmt.Errorf("read frame: %w", err)
		}
		n++
		if cable.Reorder > 0 && rand.Float64() < cable.Reorder {
			p.write(p.frame[:size])
			continue
		}
		now := time.Since(p.begin)
		// The maximum keeps the order when the cable is replaced by a shorter one.
		p.last = max(p.last, now+max(0, cable.Delay+p.sway.at(now, cable.Jitter)))
		if !p.queue.push(p.frame[:size], p.last) {
			p.lost.Add(1)
		}
	}
	return n, nil
}

// send writes what is due.
func (p *pipe) send() {
	for now := time.Since(p.begin); ; {
		due, ok := p.queue.due()
		if !ok || due > now {
			return
		}
		p.write(p.queue.pop())
	}
}

// write writes a frame. A full or closed card loses it, as cards do.
func (p *pipe) write(frame []byte) {
	if _, err := unix.Write(p.out, frame); err != nil {
		p.lost.Add(1)
	}
}

// A fifo is a queue of frames in memory that is used in turn. Unused pages of
// it cost nothing.
type fifo struct {
	slots      []slot
	head, size int
}

type slot struct {
	due    time.Duration
	length int
	data   [maxFrame]byte
}

// push appends a frame; false if there is no room.
func (q *fifo) push(frame []byte, due time.Duration) bool {
	if q.slots == nil {
		q.slots = make([]slot, maxQueued)
	}
	if q.size == maxQueued {
		return false
	}
	s := &q.slots[(q.head+q.size)%maxQueued]
	s.due, s.length = due, copy(s.data[:], frame)
	q.size++
	return true
}

// due is the time of the first frame.
func (q *fifo) due() (time.Duration, bool) {
	if q.size == 0 {
		return 0, false
	}
	return q.slots[q.head].due, true
}

// pop removes the first frame, which is valid until the next push.
func (q *fifo) pop() []byte {
	s := &q.slots[q.head]
	q.head, q.size = (q.head+1)%maxQueued, q.size-1
	if q.size == 0 {
		q.head = 0 // the same memory again, which the processor has at hand
	}
	return s.data[:s.length]
}

// A sway is a delay that wanders: straight from one random value to the next,
// uniform in ± jitter. It falls by at most a fifth of the time that passes, so
// what is sent later arrives later.
type sway struct {
	random     *rand.Rand
	from, to   float64       // -1 to 1
	start, end time.Duration // of the way from one to the other
}

// at returns the deviation at a time; times do not go back.
func (s *sway) at(now, jitter time.Duration) time.Duration {
	if jitter == 0 {
		return 0
	}
	if now >= s.end {
		s.from, s.to = s.to, 2*s.random.Float64()-1
		if s.end == 0 || now > s.end+10*jitter { // nothing was sent for long
			s.from = 2*s.random.Float64() - 1
		}
		s.start, s.end = now, now+10*jitter
	}
	part := float64(now-s.start) / float64(s.end-s.start)
	return time.Duration(float64(jitter) * (s.from + part*(s.to-s.from)))
}
