package lighthousediscovery

import (
	"sync"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

// maxQueue is how many events wait for one watcher.
const maxQueue = 16384

// A view is the union of what all lighthouses say.
type view struct {
	mu       sync.Mutex // guards the fields below and those of watchers
	seen     map[sighting]*entry
	refs     map[datagram.Hash]int // of sightings in seen, by envelope
	watchers map[*watcher]bool
}

// A sighting is one envelope from one origin.
type sighting struct {
	hash   datagram.Hash
	origin string
}

// An entry counts how many lighthouses tell of a sighting.
type entry struct {
	envelope sdk.Envelope
	n        int
}

// A watcher has the events that it was not yet told.
type watcher struct {
	wake  chan struct{} // of capacity 1
	queue []sdk.Event
	full  bool
}

func newView() *view {
	return &view{seen: map[sighting]*entry{}, refs: map[datagram.Hash]int{}, watchers: map[*watcher]bool{}}
}

// A node is what one lighthouse says of one registration.
type node struct {
	version   uint64
	origin    string
	hashes    []datagram.Hash
	envelopes []sdk.Envelope
	doubtful  bool // not confirmed since the lighthouse lost its memory
}

// replace puts what one lighthouse says of a node in place of what it said;
// either may be nil.
func (v *view) replace(old, now *node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now != nil {
		v.add(now)
	}
	v.drop(old)
	if now == nil && old != nil && len(old.hashes) > 0 {
		last := len(old.hashes) - 1
		if v.refs[old.hashes[last]] == 0 { // no other lighthouse has it
			v.tell(sdk.Event{Kind: sdk.EventGone, Envelope: old.envelopes[last], Origin: old.origin})
		}
	}
}

// forget drops what a lighthouse said without telling anybody: no news is no
// goodbye.
func (v *view) forget(old *node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drop(old)
}

func (v *view) add(n *node) {
	for i, h := range n.hashes {
		key := sighting{h, n.origin}
		e := v.seen[key]
		if e == nil {
			e = &entry{envelope: n.envelopes[i]}
			v.seen[key] = e
			v.refs[h]++
			v.tell(sdk.Event{Kind: sdk.EventSeen, Envelope: e.envelope, Origin: n.origin})
		}
		e.n++
	}
}

func (v *view) drop(n *node) {
	if n == nil {
		return
	}
	for _, h := range n.hashes {
		key := sighting{h, n.origin}
		e := v.seen[key]
		if e.n--; e.n > 0 {
			continue
		}
		delete(v.seen, key)
		if v.refs[h]--; v.refs[h] == 0 {
			delete(v.refs, h)
		}
	}
}

func (v *view) tell(e sdk.Event) {
	for w := range v.watchers {
		if len(w.queue) >= maxQueue {
			w.full = true
		} else {
			w.queue = append(w.queue, e)
		}
		w.wakeUp()
	}
}

func (w *watcher) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// watch begins with everything that is there.
func (v *view) watch() *watcher {
	v.mu.Lock()
	defer v.mu.Unlock()
	w := &watcher{wake: make(chan struct{}, 1)}
	for key, e := range v.seen {
		w.queue = append(w.queue, sdk.Event{Kind: sdk.EventSeen, Envelope: e.envelope, Origin: key.origin})
	}
	v.watchers[w] = true
	return w
}

func (v *view) leave(w *watcher) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.watchers, w)
}

// drain tells all that waits, without the lock.
func (v *view) drain(w *watcher, saw func(sdk.Event)) error {
	v.mu.Lock()
	events, full := w.queue, w.full
	w.queue = nil
	v.mu.Unlock()
	for _, e := range events {
		saw(e)
	}
	if full {
		return sdk.Errorf(sdk.CodeOverloaded, "more than %d events wait: watch again", maxQueue)
	}
	return nil
}
