package multicastdiscovery

import (
	"container/list"
	"net/netip"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of a queue.
const (
	maxLane   = 96   // events of one source
	maxRank   = 1024 // events of one rank
	maxSample = 8    // lanes looked at for the longest
)

// A rank is how much the past of a source, and its tag, speak for it.
type rank int

const (
	rankSettled  rank = iota // heard for some beats, with our tag
	rankKin                  // not heard before, with our tag
	rankStranger             // all others
	ranks
)

// turns is how the ranks share a watcher that is slower than the network.
func turns() [7]rank {
	return [7]rank{rankSettled, rankKin, rankSettled, rankStranger, rankSettled, rankKin, rankSettled}
}

// A queue holds what one watcher has not seen yet. It is bounded and fair:
// ranks take turns, in a rank its sources do, and what does not fit is the
// oldest of a source that has much.
type queue struct {
	turn  int
	ranks [ranks]ring
}

// A ring serves its lanes in turn.
type ring struct {
	order *list.List // of *lane
	lanes map[netip.AddrPort]*list.Element
	count int
}

// A lane is what waits of one source, oldest first; it is never empty.
type lane struct {
	origin netip.AddrPort
	events []sdk.Event
}

func newQueue() *queue {
	q := &queue{}
	for i := range q.ranks {
		q.ranks[i] = ring{order: list.New(), lanes: map[netip.AddrPort]*list.Element{}}
	}
	return q
}

// put adds an event and reports whether another was lost for it.
func (q *queue) put(r rank, origin netip.AddrPort, e sdk.Event) (lost bool) {
	return q.ranks[r].put(origin, e)
}

// next takes the next event.
func (q *queue) next() (sdk.Event, bool) {
	order := turns()
	for range order {
		r := order[q.turn]
		q.turn = (q.turn + 1) % len(order)
		if e, ok := q.ranks[r].next(); ok {
			return e, true
		}
	}
	return sdk.Event{}, false
}

func (r *ring) put(origin netip.AddrPort, e sdk.Event) (lost bool) {
	at := r.lanes[origin]
	switch {
	case at != nil && len(at.Value.(*lane).events) >= maxLane:
		r.shorten(at)
		lost = true
	case r.count >= maxRank:
		r.shorten(r.longest())
		lost = true
	}
	if at = r.lanes[origin]; at == nil { // it may have been shortened to nothing
		at = r.order.PushBack(&lane{origin: origin})
		r.lanes[origin] = at
	}
	l := at.Value.(*lane)
	l.events = append(l.events, e)
	r.count++
	return lost
}

// longest returns the longest of a few lanes chosen at random.
func (r *ring) longest() *list.Element {
	var found *list.Element
	n := 0
	for _, at := range r.lanes {
		if found == nil || len(at.Value.(*lane).events) > len(found.Value.(*lane).events) {
			found = at
		}
		if n++; n == maxSample {
			break
		}
	}
	return found
}

// shorten removes the oldest event of a lane.
func (r *ring) shorten(at *list.Element) sdk.Event {
	l := at.Value.(*lane)
	e := l.events[0]
	l.events[0] = sdk.Event{} // or its envelope stays in memory
	l.events = l.events[1:]
	r.count--
	if len(l.events) == 0 {
		r.order.Remove(at)
		delete(r.lanes, l.origin)
	}
	return e
}

func (r *ring) next() (sdk.Event, bool) {
	at := r.order.Front()
	if at == nil {
		return sdk.Event{}, false
	}
	r.order.MoveToBack(at)
	return r.shorten(at), true
}
