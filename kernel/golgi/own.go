package golgi

import (
	"maps"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const (
	maxOwn      = 4096           // nodes whose cells were called that are remembered
	maxOwnPairs = 1024           // callers and called of one of them
	ownLife     = 24 * time.Hour // for which a node that is not called any more is
	// lateCounters is how old what a process has said of its calls may be, and for
	// how long handlers may go on whose link has ended.
	lateCounters = time.Second
)

// A Pair is a cell of this node, and one of another that it has called.
type Pair struct{ From, Cell sdk.CellName }

// Own is what the cells of this kernel have had those of another node do, by
// their own counters and since the kernel began.
type Own struct {
	Busy  time.Duration   // during which at least one call was in flight
	Calls map[Pair]uint64 // that were begun
	// Changed is closed when there is something new.
	Changed <-chan struct{}
}

// An own is what is remembered of one node.
type own struct {
	busy    time.Duration
	wall    time.Duration // that has passed and is not counted as busy: links overlap
	at      time.Time     // up to here wall is counted
	until   time.Time     // handlers may go on whose link has ended
	lasted  time.Time     // up to here that is counted
	calls   map[Pair]uint64
	seen    time.Time
	changed chan struct{}
}

// add counts busy time of one link that has come together since a moment. Of
// several links that were busy at once the time counts once.
func (o *own) add(busy time.Duration, since, now time.Time) {
	o.wall = min(o.wall+now.Sub(o.at), max(lateCounters, now.Sub(since)))
	o.at, o.seen = now, now
	busy = min(max(0, busy), o.wall)
	o.wall -= busy
	o.busy += busy
}

// linger notes that handlers may go on whose link has ended.
func (o *own) linger(now time.Time) {
	o.pass(now)
	if o.lasted.Before(now) {
		o.lasted = now
	}
	o.until = now.Add(lateCounters)
}

// pass counts the time that linger has noted and that has passed.
func (o *own) pass(now time.Time) {
	end := now
	if o.until.Before(end) {
		end = o.until
	}
	if end.After(o.lasted) {
		o.busy += end.Sub(o.lasted)
		o.lasted = end
	}
}

func (o *own) tell() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// Own returns what is known of calls to a node. A call that is in flight counts
// up to now.
func (g *Golgi) Own(node sdk.NodeID) Own {
	g.mu.Lock()
	defer g.mu.Unlock()
	o, now, running := g.ownOf(node), time.Now(), time.Duration(0)
	o.pass(now)
	out := Own{Busy: o.busy, Calls: maps.Clone(o.calls), Changed: o.changed}
	for _, l := range g.links {
		if l.counts() && l.foreign.node == node && l.out.Running {
			running = max(running, now.Sub(l.outAt))
		}
	}
	out.Busy += running
	return out
}

// ownOf returns what is remembered of a node. The caller holds mu.
func (g *Golgi) ownOf(node sdk.NodeID) *own {
	if o := g.owns[node]; o != nil {
		return o
	}
	now := time.Now()
	if len(g.owns) >= maxOwn {
		g.forgetOwn(now)
	}
	o := &own{at: now, lasted: now, until: now, seen: now, calls: make(map[Pair]uint64), changed: make(chan struct{})}
	g.owns[node] = o
	return o
}

// forgetOwn makes room: for what was not called for a day, and if that is none,
// for who was not for the longest time. Who pays notices that its counters began
// anew, and allows less.
func (g *Golgi) forgetOwn(now time.Time) {
	oldest := sdk.NodeID("")
	for n, o := range g.owns {
		if now.Sub(o.seen) > ownLife {
			delete(g.owns, n)
		} else if oldest == "" || o.seen.Before(g.owns[oldest].seen) {
			oldest = n
		}
	}
	if len(g.owns) >= maxOwn {
		delete(g.owns, oldest)
	}
}

// counts reports whether calls over a link are such that another node may charge
// for: a cell of this kernel has dialled one of another machine.
func (l *link) counts() bool {
	f := l.foreign
	return f != nil && f.admitted && !f.near && l.to == nil && l.caller != nil && f.addr.Scheme != "" && f.cell != sdk.GolgiName
}

// begun notes that calls may go over a link now. A process that does not count
// its calls is taken to be calling all the time. The caller holds mu.
func (g *Golgi) begun(l *link) {
	if !l.counts() {
		return
	}
	l.outAt = time.Now()
	if l.out.Running = !l.caller.callsCounted; l.out.Running {
		g.ownOf(l.foreign.node).count(Pair{l.from, l.foreign.cell}, 1)
	}
}

// called takes what a process says of the links it has dialled, for the last
// time if they are over. The caller holds mu.
func (g *Golgi) called(s *seat, list []channel.OutStats, over bool) {
	now := time.Now()
	for _, st := range list {
		l := g.links[st.ID]
		if l == nil || l.caller != s || !l.counts() || !s.callsCounted {
			continue
		}
		o := g.ownOf(l.foreign.node)
		o.add(time.Duration(st.BusyNS-l.out.BusyNS), l.outAt, now)
		o.count(Pair{l.from, l.foreign.cell}, st.Calls-min(st.Calls, l.out.Calls))
		l.out, l.outAt, l.outLast = st, now, over
		o.tell()
	}
}

// count adds calls of a pair, if there were any.
func (o *own) count(p Pair, calls uint64) {
	if _, known := o.calls[p]; calls > 0 && (known || len(o.calls) < maxOwnPairs) {
		o.calls[p] += calls
	}
}

// lastCalls counts what a process has not said of a link that is over: the time
// since it said something, if a call was in flight then, and a moment for what
// goes on. The caller holds mu.
func (g *Golgi) lastCalls(l *link) {
	if !l.counts() || l.outLast && !l.out.Running {
		return
	}
	now := time.Now()
	unsaid := now.Sub(l.outAt)
	if !l.out.Running { // it would have said so soon
		unsaid = min(unsaid, lateCounters)
	}
	o := g.ownOf(l.foreign.node)
	o.add(unsaid, l.outAt, now)
	o.linger(now)
	if p := (Pair{l.from, l.foreign.cell}); o.calls[p] == 0 {
		o.count(p, 1) // it may have called, and not have said so
	}
	o.tell()
}
