package cell

import (
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// expect makes sure that the reaper looks at this link in time.
func (l *outLink) expect(at *moment) {
	next := l.soon(at.now)
	if at.deadline != 0 && at.deadline < next {
		next = at.deadline
	}
	if next < l.next.Load() {
		l.m.reaper.lower(&l.next, next)
	}
}

// visit is the reaper's: it ends what is past its deadline, pings a silent
// other side and returns when to come back.
func (l *outLink) visit(now int64) int64 {
	next := int64(noNext)
	busy := false
	l.slots.each(func(s *slot) {
		if s.state.Load() != slotWaiting {
			return
		}
		busy = true
		d := s.deadline.Load()
		if d == 0 {
			return
		}
		if d > now {
			next = min(next, d)
		} else if s.state.CompareAndSwap(slotWaiting, slotExpired) {
			if s.stream != nil {
				s.stream.finish(Vesicle{}, &sdk.Error{Code: sdk.CodeDeadline, Text: "stream: deadline passed"})
			}
			s.done <- struct{}{}
			if l.turn.Load() == turnCaller {
				l.interrupt()
			}
		}
	})
	if !busy {
		l.look = silence{}
		return min(next, l.rest(now))
	}
	ping, err := l.look.step(now, l.received.Load())
	if err != nil {
		l.w.fail(err)
	} else if ping {
		l.control(wire.Header{Kind: wire.KindPing}, "")
	}
	return min(next, l.soon(now))
}
