package cell

import (
	"context"
	"sync"
	"sync/atomic"
)

// A tally is what the handlers of one method have done for one link: calls
// that have ended, and the time in handlers without that which they waited
// inside the sdk, for a stream or for a call of their own. Time counts while
// it passes, so that a handler that runs for an hour is seen during it.
//
// A handler that runs at time b adds now−b, and one that ran from b to e adds
// e−b. So it is enough to know how many run, and the sum of all those times
// with their signs: every beginning is taken off, every end is added.
type tally struct {
	calls atomic.Uint64
	quick atomic.Int64 // ns in handlers that the reader ran from beginning to end

	mu   sync.Mutex
	run  int64 // handlers that run; those that the reader runs and that wait count as −1
	ends int64 // ns: sum of ends less sum of beginnings
}

// enter notes that a handler runs on.
func (t *tally) enter(now int64) {
	t.mu.Lock()
	t.run++
	t.ends -= now
	t.mu.Unlock()
}

// leave notes that a handler has ended, or waits.
func (t *tally) leave(now int64) {
	t.mu.Lock()
	t.run--
	t.ends += now
	t.mu.Unlock()
}

// busy returns the ns in handlers. It may be a little below what it was a
// moment ago, while a handler passes from the reader to another goroutine.
func (t *tally) busy(now int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.quick.Load() + t.ends + t.run*now
}

// tallyOf returns where the time of a call's handler is counted.
func (l *inLink) tallyOf(m *method) *tally { return &l.tallies[m.index] }

// pause notes that a handler waits inside the sdk; resume that it does not any
// more. Several goroutines of one handler may wait at once: the handler waits
// from the first to the last of them. Of a nil context nothing is noted.
func (c *callContext) pause(now int64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.method == nil {
		return // it has returned: what waits is no handler any more
	}
	if c.waits++; c.waits == 1 {
		c.link.tallyOf(c.method).leave(now)
	}
}

func (c *callContext) resume() {
	if c == nil {
		return
	}
	now := nanos()
	c.mu.Lock()
	if c.method == nil {
		c.mu.Unlock()
		return // leave has settled it
	}
	if c.waits--; c.waits == 0 {
		c.link.tallyOf(c.method).enter(now)
	}
	c.mu.Unlock()
	c.link.m.touch()
}

// wait notes that the handler waits from now on.
func (c *callContext) wait() *callContext {
	if c != nil {
		c.pause(nanos())
	}
	return c
}

// handlerOf returns the handler's context that ctx comes from, nil if it is
// none's.
func handlerOf(ctx context.Context) *callContext {
	if ctx == context.Background() {
		return nil
	}
	c, _ := ctx.Value(incomingKey{}).(*callContext)
	return c
}

// handlerTime sums the tallies of a link up.
func (l *inLink) handlerTime() (calls uint64, busy int64) {
	now := nanos()
	for i := range l.tallies {
		calls += l.tallies[i].calls.Load()
		busy += l.tallies[i].busy(now)
	}
	return calls, max(0, busy)
}
