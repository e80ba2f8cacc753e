package peers

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// maxDirty is up to how many changed cells are named one by one.
const maxDirty = 1024

// An Endpoint is a cell at a node.
type Endpoint struct {
	Node     sdk.NodeID
	Name     sdk.CellName // of the node, for people
	Replicas uint16
	Donor    bool
}

// Lookup returns who serves a cell now, by node id.
func (t *Table) Lookup(cell sdk.CellName) []Endpoint {
	t.lock()
	defer t.mu.Unlock()
	if len(t.index[cell]) == 0 {
		return nil
	}
	list := make([]Endpoint, 0, len(t.index[cell]))
	for n := range t.index[cell] {
		list = append(list, n.shown[cell])
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// Watch calls changed whenever the answer of [Table.Lookup] may have changed,
// with the cells for which it may, sorted; nil means all. It begins with what
// has changed since the table was made or the last Watch ended, and blocks
// until ctx is done. It calls moved with a node that has live links and was
// seen at a further address, and where it can be dialled there. Neither is
// called concurrently and both may call the table. There is one Watch at a time.
func (t *Table) Watch(ctx context.Context, changed func(cells []sdk.CellName), moved func(id sdk.NodeID, addrs []sdk.Addr)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		for id, addrs := range t.moves() {
			moved(id, addrs)
		}
		cells, some, next := t.drain()
		if some {
			changed(cells)
			continue
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
		case <-t.wake:
		case <-timer.C:
		}
	}
}

// moves returns the nodes that were seen at a further address, and where they
// can be dialled there.
func (t *Table) moves() map[sdk.NodeID][]sdk.Addr {
	t.lock()
	defer t.mu.Unlock()
	all := make(map[sdk.NodeID][]sdk.Addr)
	for id, ip := range t.roamed {
		if n := t.nodes[id]; n != nil {
			all[id] = slices.DeleteFunc(t.where(n, sdk.GolgiName), func(a sdk.Addr) bool {
				at, err := netip.ParseAddrPort(a.Host)
				return err != nil || at.Addr() != ip
			})
		}
	}
	clear(t.roamed)
	return all
}

// drain returns what has changed and when something may expire.
func (t *Table) drain() (cells []sdk.CellName, some bool, next time.Time) {
	t.lock()
	defer t.mu.Unlock()
	some = t.all || len(t.dirty) > 0
	if !t.all {
		cells = slices.Sorted(maps.Keys(t.dirty))
	}
	clear(t.dirty)
	t.all = false
	return cells, some, t.next
}

// touch notes that the answer for a cell has changed.
func (t *Table) touch(cell sdk.CellName) {
	if len(t.dirty) < maxDirty {
		t.dirty[cell] = struct{}{}
	} else if _, ok := t.dirty[cell]; !ok {
		t.all = true
	}
	t.poke()
}

func (t *Table) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
