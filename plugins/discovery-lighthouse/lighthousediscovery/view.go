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
	known    map[datagram.Hash]*known
	watchers map[*watcher]bool
}

// A sighting is one envelope from one origin.
type sighting struct {
	hash   datagram.Hash
	origin string
}

// A known envelope is in sightings of one node.
type known struct {
	n   int // sightings
	kin *kin
}

// A kin is one node as all lighthouses know it. They have different names for
// it, but at some time told of the same envelope.
type kin struct{ n int } // lighthouses that answer and know it

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
	return &view{seen: map[sighting]*entry{}, known: map[datagram.Hash]*known{}, watchers: map[*watcher]bool{}}
}

// A node is what one lighthouse says of one registration.
type node struct {
	version   uint64
	origin    string
	hashes    []datagram.Hash
	envelopes []sdk.Envelope
	doubtful  bool // not confirmed since the lighthouse lost its memory
	kin       *kin // this and mute are guarded by the view's mu
	mute      bool // its lighthouse does not answer: it has no say in who is gone
}

// replace puts what one lighthouse says of a node in place of what it said;
// either may be nil.
func (v *view) replace(old, now *node) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now != nil {
		if old != nil {
			now.kin = old.kin
			now.kin.n++
		}
		v.add(now)
	}
	if old == nil {
		return
	}
	v.drop(old)
	if last := len(old.hashes) - 1; now == nil && old.kin.n == 0 { // no other lighthouse knows it
		v.tell(sdk.Event{Kind: sdk.EventGone, Envelope: old.envelopes[last], Origin: old.origin})
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
	for _, h := range n.hashes {
		if k := v.known[h]; k != nil && k.kin != n.kin {
			if n.kin != nil {
				n.kin.n--
			}
			n.kin = k.kin
			n.kin.n++
		}
	}
	if n.kin == nil {
		n.kin = &kin{n: 1}
	}
	for i, h := range n.hashes {
		key := sighting{h, n.origin}
		e := v.seen[key]
		if e == nil {
			e = &entry{envelope: n.envelopes[i]}
			v.seen[key] = e
			if v.known[h] == nil {
				v.known[h] = &known{kin: n.kin}
			}
			v.known[h].n++
			v.tell(sdk.Event{Kind: sdk.EventSeen, Envelope: e.envelope, Origin: n.origin})
		}
		e.n++
	}
}

func (v *view) drop(n *node) {
	if !n.mute {
		n.kin.n--
	}
	for _, h := range n.hashes {
		key := sighting{h, n.origin}
		e := v.seen[key]
		if e.n--; e.n > 0 {
			continue
		}
		delete(v.seen, key)
		if v.known[h].n--; v.known[h].n == 0 {
			delete(v.known, h)
		}
	}
}

// setMute notes whether the lighthouse that told of n answers.
func (v *view) setMute(n *node, mute bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case mute && !n.mute:
		n.kin.n--
	case !mute && n.mute:
		n.kin.n++
	}
	n.mute = mute
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
