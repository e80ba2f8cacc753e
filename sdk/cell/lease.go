package cell

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// An allowance is how much one node may use of this cell, until its kernel says
// more. A kernel that is stopped says nothing: then new calls are refused when
// the time is over, and calls that run are ended when the rest is used up.
type allowance struct {
	limit, until atomic.Int64 // ns of weight; nanos
	used         atomic.Int64 // ns of weight that the kernel was told
	open         atomic.Int64 // and of what is not decided yet
	// At the last look it was used at this rate, in ns of weight for each ms: new
	// calls count what has probably been used since.
	looked, rate atomic.Int64
	seen         int64 // used and open then; guarded by the account's mu
	why          atomic.Pointer[string]
	more         atomic.Bool // there may be more soon: calls may wait for it

	mu      sync.Mutex
	granted chan struct{} // closed with the next lease; nil while nobody waits
	running atomic.Int32  // handlers of all its links, those that have lost their call counted
}

// nodeCalls is how many handlers run at once for one node that pays, unless the
// genome says otherwise. Each may be one that does not heed its context, and go
// on when nobody pays for it any more.
const nodeCalls = 256

// full reports whether as many handlers run for a node that is charged as may.
// A node without a limit is charged nothing.
func (l *allowance) full(most int) bool {
	return l != nil && l.limit.Load() != math.MaxInt64 && int(l.running.Load()) >= most
}

// run counts a handler that begins, or ends.
func (l *allowance) run(n int32) {
	if l != nil {
		l.running.Add(n)
	}
}

// over reports whether a new call must be refused. A nil allowance has no limit.
func (l *allowance) over(now int64) bool {
	return l != nil && (now >= l.until.Load() || l.used.Load()+l.open.Load()+l.since(now) >= l.limit.Load())
}

// spent reports whether all was used up at the last look.
func (l *allowance) spent() bool { return l.used.Load()+l.open.Load() >= l.limit.Load() }

// maxSince is the longest time for which a rate is believed: two looks are not
// further apart while handlers run.
const maxSince = int64(150 * time.Millisecond)

// since is what has probably been used since the last look.
func (l *allowance) since(now int64) int64 {
	return l.rate.Load() * min(max(now-l.looked.Load(), 0), maxSince) / int64(time.Millisecond)
}

// look takes the rate: at every look, when used and open are known.
func (l *allowance) look(now int64) {
	all := l.used.Load() + l.open.Load()
	if d := (now - l.looked.Load()) / int64(time.Millisecond); d > 0 {
		l.rate.Store(max(0, all-l.seen) / d)
	}
	l.looked.Store(now)
	l.seen = all
}

func (l *allowance) refusal(node sdk.NodeID) *sdk.Error {
	why := "what it may use before it has agreed to more is used up"
	if said := l.why.Load(); said != nil && *said != "" {
		why = *said
	}
	return sdk.Errorf(sdk.CodeNoATP, "bill node %s: %s", node.Short(), why)
}

// leaseOf returns the allowance of a node, a new one without limit if there is none.
func (a *account) leaseOf(node sdk.NodeID) *allowance {
	a.leasing.Lock()
	defer a.leasing.Unlock()
	l := a.leases[node]
	if l == nil {
		l = &allowance{}
		l.limit.Store(math.MaxInt64)
		l.until.Store(math.MaxInt64)
		a.leases[node] = l
	}
	return l
}

// grant takes a lease from the kernel.
func (a *account) grant(g *channel.Lease) {
	if g == nil {
		return
	}
	l := a.leaseOf(g.Node)
	if g.Free {
		l.limit.Store(math.MaxInt64)
		l.until.Store(math.MaxInt64)
		l.tell()
		return
	}
	l.why.Store(&g.Why)
	l.more.Store(g.More)
	l.limit.Store(g.LimitNS)
	l.until.Store(nanos() + g.ForMS*int64(time.Millisecond))
	l.tell()
}

// next returns what is closed when there is another lease.
func (l *allowance) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.granted == nil {
		l.granted = make(chan struct{})
	}
	return l.granted
}

func (l *allowance) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.granted != nil {
		close(l.granted)
		l.granted = nil
	}
}

// leaseWait is how long a call waits until its node may use more: signatures
// are late where disks are slow. It costs nothing meanwhile.
const leaseWait = 3 * time.Second

// park holds a call back that has used nothing yet until its node may use more,
// at most for leaseWait or until its deadline. Those of a node are at most
// nodeCalls, because they count as running.
func (l *inLink) park(c *Call) {
	timer := time.NewTimer(leaseWait)
	defer timer.Stop()
	var err error
	for over := false; err == nil; {
		next := l.lease.next()
		if !l.lease.over(nanos()) {
			c.ctx.parked.Store(false)
			l.m.workers.do(c)
			return
		}
		if over || !l.lease.more.Load() {
			err = l.lease.refusal(l.peer.Node)
			break
		}
		select {
		case <-next:
		case <-timer.C:
			over = true
		case <-c.ctx.Done():
			err = c.given()
			if c.ctx.Err() == context.DeadlineExceeded {
				err = sdk.Errorf(sdk.CodeDeadline, "route to %q: deadline passed while it waited: %v", l.m.welcome.Cell, l.lease.refusal(l.peer.Node))
			}
		}
	}
	c.turnAway(err)
}

// turnAway ends a call whose handler never ran, so that nobody is charged for it.
func (c *Call) turnAway(err error) {
	l, ctx := c.link, c.ctx
	c.fail(err)
	ctx.cancel(context.Canceled)
	if ctx.stream != nil {
		ctx.stream.drop()
	}
	c.recycle()
	l.away()
}

// evict ends the calls that run for a node that may not use any more.
func (l *inLink) evict() {
	e := l.lease.refusal(l.peer.Node)
	e.Executed = sdk.ExecutedYes
	l.eachRunning(func(id uint32, ctx *callContext) {
		if ctx.parked.Load() {
			return
		}
		if ctx.stream != nil {
			ctx.stream.finish(Vesicle{}, e) // its handler sends the end
			l.stop(ctx, context.Canceled)
		} else if l.take(id, ctx) {
			l.stop(ctx, context.Canceled)
			l.refuse(id, e)
		}
	})
}
