package memplugin

import (
	"context"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
)

type envelope = sdk.Envelope

// A hub is the medium: what every node announces, and who watches.
type hub struct {
	mu       sync.Mutex // guards the fields below, and those of watchers
	nodes    map[*discovery][]envelope
	watchers map[*watcher]bool
}

// A watcher gets events in a queue that does not grow with time: of each
// node only the newest announcement waits.
type watcher struct {
	wake  chan struct{} // of capacity 1
	order []*discovery  // nodes with something new, oldest first
	gone  map[*discovery]envelope
}

type discovery struct{ hub *hub }

// Announce tells every watcher.
func (d *discovery) Announce(ctx context.Context, self []sdk.Envelope) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h := d.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.nodes[d]
	if len(self) == 0 {
		delete(h.nodes, d)
	} else {
		h.nodes[d] = slices.Clone(self)
	}
	if len(self) == 0 && len(old) == 0 {
		return nil
	}
	for w := range h.watchers {
		if len(self) == 0 {
			w.gone[d] = old[len(old)-1]
		} else {
			delete(w.gone, d)
		}
		w.put(d)
	}
	return nil
}

// Close says goodbye.
func (d *discovery) Close() error { return d.Announce(context.Background(), nil) }

func (w *watcher) put(d *discovery) {
	if !slices.Contains(w.order, d) {
		w.order = append(w.order, d)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch yields what all nodes announce, its own included.
func (d *discovery) Watch(ctx context.Context, saw func(sdk.Event)) error {
	h := d.hub
	w := &watcher{wake: make(chan struct{}, 1), gone: map[*discovery]envelope{}}
	h.mu.Lock()
	for node := range h.nodes {
		w.put(node)
	}
	h.watchers[w] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	}()
	h.drain(w, saw)
	saw(sdk.Event{Kind: sdk.EventSynced})
	for {
		select {
		case <-w.wake:
			h.drain(w, saw)
		case <-ctx.Done():
			return nil
		}
	}
}

// drain reports all that waits, without the lock.
func (h *hub) drain(w *watcher, saw func(sdk.Event)) {
	h.mu.Lock()
	var events []sdk.Event
	for _, node := range w.order {
		for _, e := range h.nodes[node] {
			events = append(events, sdk.Event{Kind: sdk.EventSeen, Envelope: e, Origin: "mem"})
		}
		if last, ok := w.gone[node]; ok {
			events = append(events, sdk.Event{Kind: sdk.EventGone, Envelope: last, Origin: "mem"})
			delete(w.gone, node)
		}
	}
	w.order = w.order[:0]
	h.mu.Unlock()
	for _, e := range events {
		saw(e)
	}
}
