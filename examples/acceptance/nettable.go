package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

// A tableWatch looks at the tables of kernels again and again, and counts the
// looks in which one of the nodes that are up is not routed to.
type tableWatch struct {
	kernels []*lab.Kernel
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex // guards all below
	nodes map[string]bool
	seen  tableSeen
	err   error
}

// A tableSeen is what a watch has found.
type tableSeen struct {
	looks, missing int
	fewest         int           // nodes that one look found, the one that looks among them
	most           int           // rows of one
	gap            time.Duration // the longest between two looks at one table
}

func watchTables(ctx context.Context, each time.Duration, kernels ...*lab.Kernel) *tableWatch {
	ctx, stop := context.WithCancel(ctx)
	w := &tableWatch{kernels: kernels, stop: stop, nodes: map[string]bool{}, seen: tableSeen{fewest: 1 << 20}}
	for _, k := range kernels {
		w.wg.Go(func() {
			for last := time.Now(); pause(ctx, each) == nil; last = time.Now() {
				if err := w.look(ctx, k, last); err != nil {
					w.fail(ctx, err)
					return
				}
			}
		})
	}
	return w
}

// up says that a node may not be missing from now on; down, that it may.
func (w *tableWatch) up(node string)   { w.set(node, true) }
func (w *tableWatch) down(node string) { w.set(node, false) }

func (w *tableWatch) set(node string, up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[node] = up
}

// look judges by the nodes that are up before and after it.
func (w *tableWatch) look(ctx context.Context, k *lab.Kernel, last time.Time) error {
	w.mu.Lock()
	before := maps.Clone(w.nodes)
	w.mu.Unlock()
	self, list, err := peersOf(ctx, k)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	found, lacks := 1, false
	for node, up := range w.nodes {
		switch {
		case node == self.Name:
		case slices.ContainsFunc(list, func(p peer) bool { return p.serves(node) }):
			found++
		case up && before[node]:
			lacks = true
		}
	}
	w.seen.looks++
	w.seen.most = max(w.seen.most, len(list))
	w.seen.fewest = min(w.seen.fewest, found)
	w.seen.gap = max(w.seen.gap, time.Since(last))
	if lacks {
		w.seen.missing++
	}
	return nil
}

// fail notes an error that is not the end of the watch.
func (w *tableWatch) fail(ctx context.Context, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() == nil {
		w.err = err
	}
}

// end ends the watch and returns what it has found.
func (w *tableWatch) end() (tableSeen, error) {
	w.stop()
	w.wg.Wait()
	return w.seen, w.err
}
