package gauge

import (
	"cmp"
	"slices"

	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of what is kept apart.
const (
	maxTotals = 4096  // callers
	maxOwed   = 16384 // callers and methods; beyond it, methods are put together
)

// A Total is what one caller has used of one cell since this kernel started,
// whether or not anybody pays for it.
type Total struct {
	Node       sdk.NodeID   // of the caller; empty for this one
	From, Cell sdk.CellName // who called; empty for nobody
	CPU        sdk.ATP
}

// A pair is who called whom.
type pair struct {
	node       sdk.NodeID
	from, cell sdk.CellName
}

// An entry is what charges that nobody has taken yet are summed by.
type entry struct {
	pair
	method, source string
}

// add keeps what was charged. The caller holds mu.
func (g *Gauge) add(charges []meter.Charge) {
	for _, c := range charges {
		e := entry{pair{c.Node, c.From, c.Cell}, c.Method, c.Source}
		if g.owed[e] == nil && len(g.owed) >= maxOwed {
			e.method = "…"
			c.Method = e.method
		}
		if o := g.owed[e]; o != nil {
			o.Calls, o.CPU = o.Calls+c.Calls, o.CPU+c.CPU
		} else {
			g.owed[e] = &c
		}
		k := pair{c.Node, c.From, c.Cell}
		if _, known := g.totals[k]; known || len(g.totals) < maxTotals {
			g.totals[k] += c.CPU
		}
	}
}

// Totals lists what callers have used, those of one cell together.
func (g *Gauge) Totals() []Total {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Total, 0, len(g.totals))
	for k, cpu := range g.totals {
		list = append(list, Total{k.node, k.from, k.cell, cpu})
	}
	slices.SortFunc(list, func(a, b Total) int {
		return cmp.Or(cmp.Compare(a.Cell, b.Cell), cmp.Compare(a.Node, b.Node), cmp.Compare(a.From, b.From))
	})
	return list
}

// Charges returns what callers have used since it was called last. taken is to be
// called when that is on their bills: see [Options.Reading].
func (g *Gauge) Charges() (list []meter.Charge, taken func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list = make([]meter.Charge, 0, len(g.owed))
	for _, c := range g.owed {
		list = append(list, *c)
	}
	clear(g.owed)
	taken, g.taken = g.taken, nil
	if taken == nil {
		taken = func() {}
	}
	return list, taken
}
