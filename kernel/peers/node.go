package peers

import (
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A node is a row of the table.
type node struct {
	floor
	id    sdk.NodeID
	name  sdk.CellName
	wire  uint8
	donor bool
	gone  bool // it said goodbye, or nobody sees it any more

	ttl     time.Duration
	heard   time.Time // when the last news came
	forget  time.Time // when it leaves the table
	pins    int       // live links
	refused uint64    // announcements of other boots

	parts   []part
	origins []origin
	marks   map[string]mark

	shown map[sdk.CellName]Endpoint // what the index has of it
}

// fresh reports whether a beat is still believed.
func (n *node) fresh(now time.Time) bool { return n.until().After(now) }

// until returns when the last beat is not believed any more.
func (n *node) until() time.Time {
	var last time.Time
	for i := range n.parts {
		if p := &n.parts[i]; p.until.After(last) {
			last = p.until
		}
	}
	return last
}

// size returns how many cells all parts have.
func (n *node) size() int {
	sum := 0
	for _, p := range n.parts {
		sum += len(p.cells)
	}
	return sum
}

// advance expires what has expired by now.
func (t *Table) advance(now time.Time) {
	if t.next.IsZero() || now.Before(t.next) {
		return
	}
	t.next = time.Time{}
	for _, n := range t.nodes {
		t.settle(n, now)
	}
}

// by makes sure that the table is looked at again at a deadline.
func (t *Table) by(at time.Time) {
	if t.next.IsZero() || at.Before(t.next) {
		t.next = at
		t.poke()
	}
}

// settle expires what of n has expired. While something holds n nothing does.
func (t *Table) settle(n *node, now time.Time) {
	if !n.gone && (n.pins > 0 || t.unheard(n)) {
		return
	}
	if !now.Before(n.forget) {
		t.remove(n, now)
		return
	}
	changed := t.loseOld(n)
	for i := range n.parts {
		p := &n.parts[i]
		if !p.arrived.IsZero() && !now.Before(p.until) {
			t.cells -= len(p.cells)
			*p = part{}
			changed = true
		}
	}
	if len(n.origins) == 0 && !n.gone {
		t.drop(n)
		n.gone = true
	}
	if changed {
		t.publish(n)
	}
	t.by(n.forget)
	for i := range n.parts {
		if p := &n.parts[i]; !p.arrived.IsZero() {
			t.by(p.until)
		}
	}
}

// publish brings the index in line with what n offers.
func (t *Table) publish(n *node) {
	offers := t.offers(n)
	for cell, was := range n.shown {
		if is, ok := offers[cell]; !ok {
			delete(t.index[cell], n)
			if len(t.index[cell]) == 0 {
				delete(t.index, cell)
			}
			t.touch(cell)
		} else if is != was {
			t.touch(cell)
		}
	}
	for cell := range offers {
		if _, ok := n.shown[cell]; ok {
			continue
		}
		if t.index[cell] == nil {
			t.index[cell] = map[*node]struct{}{}
		}
		t.index[cell][n] = struct{}{}
		t.touch(cell)
	}
	n.shown = offers
}

// offers returns what can be routed to at n.
func (t *Table) offers(n *node) map[sdk.CellName]Endpoint {
	if n.gone || n.wire != t.opt.Wire || len(n.origins) == 0 {
		return nil
	}
	offers := map[sdk.CellName]Endpoint{}
	for name, s := range n.serves() {
		if t.dialable(s.part, s.cell) {
			offers[name] = Endpoint{Node: n.id, Name: n.name, Replicas: s.cell.Replicas, Donor: n.donor}
		}
	}
	return offers
}

// served is a cell and the part that told of it.
type served struct {
	part *part
	cell Cell
}

// serves returns the cells of all parts. A cell that has moved between parts
// is in two while one of them is late: the later one counts.
func (n *node) serves() map[sdk.CellName]served {
	all := make(map[sdk.CellName]served, n.size())
	for i := range n.parts {
		p := &n.parts[i]
		for _, c := range p.cells {
			if s, ok := all[c.Name]; !ok || p.seq > s.part.seq {
				all[c.Name] = served{p, c}
			}
		}
	}
	return all
}

// dialable reports whether a cell listens where we can dial.
func (t *Table) dialable(p *part, c Cell) bool {
	for i, l := range p.listeners {
		if _, ok := t.rank[l.Scheme]; ok && c.Listeners&(1<<i) != 0 {
			return true
		}
	}
	return false
}
