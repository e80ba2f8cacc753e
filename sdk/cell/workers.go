package cell

import (
	"sync"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	maxIdle  = 256  // handler goroutines kept for later
	maxQueue = 4096 // calls that wait for their turn when concurrency is limited
)

// workers runs handlers. Goroutines are used again: growing a new stack for
// each call costs more than most calls.
type workers struct {
	limit int // handlers at once; 0 is no limit
	work  chan *Call
	idle  atomic.Int32
	wg    sync.WaitGroup

	mu      sync.Mutex // guards the rest, used only with a limit
	running int
	queue   []*Call
}

// do runs c in a handler goroutine, now or when its turn comes. It never blocks.
func (w *workers) do(c *Call) {
	if w.limit > 0 && !w.admit(c) {
		return
	}
	select {
	case w.work <- c:
	default:
		w.wg.Go(func() { w.loop(c) })
	}
}

// admit reports whether c may run now. If not, it was queued or refused.
func (w *workers) admit(c *Call) bool {
	w.mu.Lock()
	if w.running < w.limit {
		w.running++
		w.mu.Unlock()
		return true
	}
	full := len(w.queue) >= maxQueue
	if !full {
		w.queue = append(w.queue, c)
	}
	w.mu.Unlock()
	if full {
		c.turnAway(sdk.Errorf(sdk.CodeOverloaded, "route to %q: %d calls are waiting", c.link.m.welcome.Cell, maxQueue))
	}
	return false
}

// next returns the call whose turn it is, nil if none waits.
func (w *workers) next() *Call {
	if w.limit == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.running--
		return nil
	}
	c := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	return c
}

// run serves one call.
func (w *workers) run(c *Call) {
	l, t, begun := c.link, c.link.tallyOf(c.method), nanos()
	l.label()
	t.enter(begun)
	t.leave(begun + c.run(begun))
	l.away()
}

func (w *workers) loop(c *Call) {
	for {
		for ; c != nil; c = w.next() {
			w.run(c)
		}
		if w.idle.Add(1) > maxIdle {
			w.idle.Add(-1)
			return
		}
		var ok bool
		c, ok = <-w.work
		w.idle.Add(-1)
		if !ok {
			return
		}
	}
}
