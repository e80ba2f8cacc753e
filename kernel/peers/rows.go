package peers

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A State says what a [Row] is worth.
type State string

// The states.
const (
	StateVerified     State = "verified"     // a member, heard lately
	StateStale        State = "stale"        // a member, not heard lately; see Row.Routable
	StateIncompatible State = "incompatible" // a member that speaks another wire format
	StateGone         State = "gone"         // a member that has left
	StateForeign      State = "foreign"      // of another mesh, or made up
)

// A Row is a line of the table, for people.
type Row struct {
	Node     sdk.NodeID // "" if foreign
	Tag      [8]byte    // of the mesh, if foreign
	Name     sdk.CellName
	State    State
	Routable bool
	Donor    bool
	Wire     uint8
	Boot     [16]byte
	Seq      uint64
	Links    int           // live links to it
	Heard    time.Duration // age of the last news
	Fresh    time.Duration // how long that is still believed, 0 if it is not
	Refused  uint64        // announcements of earlier or rival boots
	Cells    []Cell        // by name; their Listeners mean nothing here
	Origins  []Origin      // the latest first; those of sources that are used
	Addrs    []sdk.Addr    // where its kernel is dialled, as [Table.Addrs] has them
}

// An Origin is by whom and where a node was seen.
type Origin struct {
	Source string
	Addr   netip.AddrPort
	Age    time.Duration
	// Port is what the node's socket had where a NAT has replaced it, else 0.
	Port uint16
}

// Nodes returns the table: members by name and id, then foreign ones by
// address.
func (t *Table) Nodes() []Row {
	now := t.lock()
	defer t.mu.Unlock()
	rows := make([]Row, 0, len(t.nodes)+len(t.foreign.rows))
	for _, n := range t.nodes {
		rows = append(rows, t.row(n, now))
	}
	slices.SortFunc(rows, func(a, b Row) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node)) })
	members := len(rows)
	for _, s := range t.foreign.rows {
		if age := now.Sub(s.seen); age < Keep {
			rows = append(rows, Row{Tag: s.tag, State: StateForeign, Heard: age, Origins: []Origin{{Source: s.source, Addr: s.at, Age: age}}})
		}
	}
	slices.SortStableFunc(rows[members:], func(a, b Row) int {
		return cmp.Or(a.Origins[0].Addr.Compare(b.Origins[0].Addr), slices.Compare(a.Tag[:], b.Tag[:]))
	})
	return rows
}

// Donor returns whether a node charges for its work, and whether it was heard
// to say so, or not to.
func (t *Table) Donor(id sdk.NodeID) (donor, known bool) {
	t.lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	return n != nil && n.donor, n != nil
}

func (t *Table) row(n *node, now time.Time) Row {
	r := Row{
		Node: n.id, Name: n.name, State: t.state(n, now), Donor: n.donor, Wire: n.wire, Boot: n.boot, Seq: n.seq,
		Links: n.pins, Heard: now.Sub(n.heard), Fresh: max(n.until().Sub(now), 0), Refused: n.refused, Routable: len(n.shown) > 0,
	}
	for _, s := range n.serves() {
		r.Cells = append(r.Cells, s.cell)
	}
	slices.SortFunc(r.Cells, func(a, b Cell) int { return cmp.Compare(a.Name, b.Name) })
	for _, o := range n.origins {
		for _, s := range o.sight {
			if t.sources[s.source] == nil {
				continue // it was exchanged; where it saw the node is dialled all the same
			}
			r.Origins = append(r.Origins, Origin{s.source, s.at, now.Sub(s.seen), s.port})
		}
	}
	slices.SortFunc(r.Origins, func(a, b Origin) int {
		return cmp.Or(cmp.Compare(a.Age, b.Age), a.Addr.Compare(b.Addr), cmp.Compare(a.Source, b.Source))
	})
	r.Addrs = t.best(n, sdk.GolgiName, now)
	return r
}

func (t *Table) state(n *node, now time.Time) State {
	switch {
	case n.gone:
		return StateGone
	case n.wire != t.opt.Wire:
		return StateIncompatible
	case n.fresh(now) && !t.unheard(n):
		return StateVerified
	}
	return StateStale
}

// Verified returns how many members were heard lately.
func (t *Table) Verified() int {
	now := t.lock()
	defer t.mu.Unlock()
	sum := 0
	for _, n := range t.nodes {
		if t.state(n, now) == StateVerified {
			sum++
		}
	}
	return sum
}

// Counts are how many announcements there were, since the table was made.
type Counts struct {
	Verdicts map[Verdict]uint64 // all of them
	Foreign  uint64
}

// Counts returns how many announcements there were of each kind.
func (t *Table) Counts() Counts {
	t.lock()
	defer t.mu.Unlock()
	c := Counts{Verdicts: make(map[Verdict]uint64, verdicts), Foreign: t.foreign.total}
	for v, sum := range t.counts {
		c.Verdicts[Verdict(v)] = sum
	}
	return c
}
