package cell

import (
	"context"
	"errors"
	"os"
	"time"
)

// Who reads an outgoing link. With many calls in flight it is the link's own
// goroutine, the keeper. With one, it is the caller itself: waking another
// goroutine, which wakes another thread, takes longer than the rest of a call.
// So the keeper steps aside whenever nothing is in flight, the next caller
// reads until it has its reply, and gives the turn back if others wait by then.
const (
	turnFree   = iota // nobody reads; nothing is in flight, or the keeper is being woken
	turnKeeper        // the link's goroutine reads
	turnCaller        // a caller reads
)

// idleAfter is how long after the last call nobody may be reading, and so the
// end of a link stay unnoticed.
const idleAfter = 20 * time.Millisecond

// keep reads whenever no caller does. It returns why the link ended.
func (l *outLink) keep() error {
	for {
		err := l.step()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // meant for a caller that has left
		case err != nil:
			return err
		case l.inflight.Load() > 0:
			l.r.eager = true // more answers will come soon
		case l.greeted():
			l.stepAside()
		}
	}
}

// step reads once and handles all that came. A deadline that interrupted it is
// cleared; nothing is lost by that.
func (l *outLink) step() error {
	for {
		h, body, err := l.r.next()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return errors.Join(err, l.w.conn.SetReadDeadline(time.Time{}))
			}
			return err
		}
		l.received.Add(1)
		if err := l.handle(h, body); err != nil {
			return err
		}
		if !l.r.buffered() {
			return nil
		}
	}
}

// stepAside lets callers read until it is the keeper's turn again.
func (l *outLink) stepAside() {
	l.giveTurn()
	l.m.reaper.lower(&l.next, nanos()+int64(idleAfter))
	done := l.w.done
	for {
		select {
		case <-l.takeOver:
		case <-done:
			done = nil // a caller that reads now will see it, and give the turn back
		}
		if l.turn.CompareAndSwap(turnFree, turnKeeper) {
			return
		}
	}
}

// giveTurn ends a turn, and wakes the keeper if somebody waits for a reply.
// Whoever found the turn taken was counted in flight before it looked.
func (l *outLink) giveTurn() {
	l.turn.Store(turnFree)
	if l.inflight.Load() > 0 || l.w.ended() {
		wakeUp(l.takeOver)
	}
}

// lead reads in the place of the keeper until the call of s has ended. A caller
// whose context can end does so only while it need not sleep: the keeper it
// can leave at any time.
func (l *outLink) lead(ctx context.Context, s *slot) {
	l.r.eager = true
	for len(s.done) == 0 {
		if ctx.Done() != nil && !l.r.buffered() {
			if !l.r.glance() {
				break
			}
			continue
		}
		if err := l.step(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			l.w.fail(ended(err))
			break
		}
	}
	l.giveTurn()
}

// rest is the reaper's look at a link without calls in flight: if there was
// none for a while the keeper reads again, to notice the link's end.
func (l *outLink) rest(now int64) int64 {
	switch l.turn.Load() {
	case turnKeeper:
		return noNext // it asks for a visit when it steps aside
	case turnCaller:
		return now + int64(idleAfter)
	}
	if n := l.received.Load(); n != l.rested {
		l.rested = n
		return now + int64(idleAfter)
	}
	wakeUp(l.takeOver)
	return noNext
}

// soon is when the reaper should look again at a link with calls in flight.
func (l *outLink) soon(now int64) int64 {
	if l.turn.Load() == turnKeeper {
		return now + int64(pingAfter)
	}
	return now + int64(idleAfter)
}

// interrupt ends a read that is under way. If the one it is meant for reads no
// more, another reader just goes on.
func (l *outLink) interrupt() {
	_ = l.w.conn.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed link, whose reads have ended
}
