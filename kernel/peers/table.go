package peers

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Times.
const (
	MaxFresh = 10 * time.Second // a silent node is out of routing after this
	Keep     = 60 * time.Second // and out of the table after this
	SameBeat = time.Second      // how long after its first arrival a beat may add addresses
	Remember = time.Hour        // how long replays of a node that left are known
	Retry    = 30 * time.Second // how long an address that failed goes last
)

// Limits.
const (
	MaxNodes     = 4096      // in the table
	MaxPerIP     = 64        // new nodes at one IP address
	MaxOrigins   = 8         // addresses of a node
	MaxNodeCells = 512       // cells of a node
	MaxCells     = 64 * 1024 // cells of all nodes
	MaxPast      = 8192      // nodes whose replays are known after they left
	MaxSources   = 16        // discoveries
)

// Options are what a [Table] is made for.
type Options struct {
	Self sdk.NodeID // is never a peer
	Wire uint8      // the major version of the wire format that can be routed to
	// Transports are the schemes that can be dialled, the preferred first. A
	// cell that listens on none of them is shown but not routed to.
	Transports []string
}

// A Table is who was seen. It is made by [New].
type Table struct {
	opt  Options
	rank map[string]int // of transports

	wake chan struct{} // of capacity 1: there is something to do for Watch

	mu         sync.Mutex // guards all below
	nodes      map[sdk.NodeID]*node
	past       map[sdk.NodeID]left
	pins       map[sdk.NodeID]int
	denied     map[sdk.NodeID]sdk.CellName // and what they call themselves; "" is not known
	generation uint64                      // how often it was cleared
	sources    map[string]*source
	foreign    foreign

	index map[sdk.CellName]map[*node]struct{} // who is routed to
	perIP map[netip.Addr]int                  // nodes with an origin there
	cells int                                 // in all parts of all nodes

	next   time.Time // nothing expires before; zero: never
	dirty  map[sdk.CellName]struct{}
	all    bool                      // more cells are dirty than are listed
	roamed map[sdk.NodeID]netip.Addr // nodes with live links, and where they are seen now
	counts [verdicts]uint64
}

// left is what is kept of a node that is not in the table.
type left struct {
	floor
	since time.Time
}

// New returns an empty table.
func New(opt Options) *Table {
	t := &Table{
		opt: opt, rank: map[string]int{}, wake: make(chan struct{}, 1),
		nodes: map[sdk.NodeID]*node{}, past: map[sdk.NodeID]left{}, pins: map[sdk.NodeID]int{}, sources: map[string]*source{},
		index: map[sdk.CellName]map[*node]struct{}{}, perIP: map[netip.Addr]int{}, dirty: map[sdk.CellName]struct{}{}, roamed: map[sdk.NodeID]netip.Addr{},
	}
	for i, scheme := range opt.Transports {
		t.rank[scheme] = i
	}
	return t
}

// Generation returns how often the table was cleared.
func (t *Table) Generation() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.generation
}

// lock locks the table and brings it to the present, which it returns.
func (t *Table) lock() time.Time {
	t.mu.Lock()
	now := time.Now()
	t.advance(now)
	return now
}

// See takes an announcement that was verified. source is the instance of the
// discovery that saw it, origin the IP address and port it came from, with a
// zone where needed: "[fe80::1%eth0]:9099"; behind it " nat:51000" if the port
// was another one before a NAT. It is dialled at this address.
func (t *Table) See(source, origin string, a Announcement) Verdict {
	at := parseOrigin(origin)
	now := t.lock()
	defer t.mu.Unlock()
	v := t.see(sighting{source, at, now}, &a)
	t.counts[v]++
	return v
}

func (t *Table) see(s sighting, a *Announcement) Verdict {
	switch {
	case !t.heardFrom(s.source, s.seen) || !s.at.IsValid() || !a.valid():
		return VerdictInvalid
	case a.Node == t.opt.Self:
		return VerdictSelf
	case a.Generation != t.generation:
		return VerdictOld
	}
	if _, out := t.denied[a.Node]; out {
		t.denied[a.Node] = a.Name
		return VerdictDenied
	}
	n := t.nodes[a.Node]
	switch t.compare(n, a, s.seen) {
	case stepBack:
		if n != nil {
			n.refused++
		}
		return VerdictReplayed
	case stepOld:
		return VerdictOld
	case stepSame:
		if n == nil {
			return VerdictOld
		}
		return t.echo(n, s, a)
	case stepReborn:
		return t.begin(n, s, a)
	}
	if n == nil {
		return t.begin(n, s, a)
	}
	return t.take(n, s, a)
}

// compare tells how a stands to what is known of its node, if anything.
func (t *Table) compare(n *node, a *Announcement, now time.Time) step {
	if n != nil {
		return n.compare(a, n.fresh(now))
	}
	if l, ok := t.past[a.Node]; ok && now.Sub(l.since) < Remember {
		return l.compare(a, false)
	}
	return stepReborn
}

// begin takes the first announcement of a node or of a new boot of it.
func (t *Table) begin(n *node, s sighting, a *Announcement) Verdict {
	switch {
	case a.Goodbye && n == nil:
		t.remember(a.Node, floor{a.Boot, a.Seq}, s.seen)
		return VerdictLeft
	case n != nil:
		if t.cells-n.size()+len(a.Cells) > MaxCells {
			return VerdictFull
		}
		t.drop(n)
		n.marks = nil
	case len(t.nodes) >= MaxNodes || t.perIP[s.at.Addr()] >= MaxPerIP || t.cells+len(a.Cells) > MaxCells:
		return VerdictFull
	default:
		n = &node{id: a.Node, pins: t.pins[a.Node]}
		t.nodes[a.Node] = n
		delete(t.past, a.Node)
	}
	n.floor = floor{boot: a.Boot}
	if v := t.take(n, s, a); v != VerdictRefreshed {
		return v
	}
	return VerdictNew
}

// take takes a part that is news: the first of its beat, or a further one.
func (t *Table) take(n *node, s sighting, a *Announcement) Verdict {
	if a.Goodbye {
		n.seq = a.Seq
		t.leave(n, s.seen)
		return VerdictLeft
	}
	if v := t.fits(n, a); v != VerdictRefreshed {
		return v
	}
	same := n.name == a.Name && n.donor == a.Donor && n.wire == a.Wire && int(a.Parts) == len(n.parts) && len(n.origins) > 0
	n.seq, n.name, n.donor, n.wire, n.gone = a.Seq, a.Name, a.Donor, a.Wire, false
	n.ttl, n.heard, n.forget = min(a.TTL, MaxFresh), s.seen, s.seen.Add(Keep)
	t.resize(n, int(a.Parts))
	p := part{seq: a.Seq, arrived: s.seen, until: s.seen.Add(n.ttl), listeners: a.Listeners, cells: a.Cells}
	old := &n.parts[a.Part]
	same = same && old.says(p)
	t.cells += len(p.cells) - len(old.cells)
	*old = p
	t.saw(n, s, true)
	if !same {
		t.publish(n)
	}
	t.settle(n, s.seen)
	return VerdictRefreshed
}

// fits reports whether the cells of a are within the limits.
func (t *Table) fits(n *node, a *Announcement) Verdict {
	kept := 0
	for i, p := range n.parts {
		if i < int(a.Parts) && i != int(a.Part) {
			kept += len(p.cells)
		}
	}
	switch total := kept + len(a.Cells); {
	case total > MaxNodeCells:
		return VerdictInvalid
	case t.cells-n.size()+total > MaxCells:
		return VerdictFull
	}
	return VerdictRefreshed
}

// echo takes a part of the beat that is known: a part that was still missing,
// or one that has come by another way.
func (t *Table) echo(n *node, s sighting, a *Announcement) Verdict {
	switch {
	case n.gone || a.Goodbye:
		return VerdictOld
	case int(a.Parts) != len(n.parts):
		return VerdictInvalid
	}
	p := &n.parts[a.Part]
	if p.arrived.IsZero() || p.seq != a.Seq {
		return t.take(n, s, a)
	}
	if s.seen.Sub(p.arrived) > SameBeat || !t.saw(n, s, false) {
		return VerdictOld
	}
	t.settle(n, s.seen)
	return VerdictAdded
}

// leave takes a node out of routing that said goodbye.
func (t *Table) leave(n *node, now time.Time) {
	t.drop(n)
	n.gone, n.forget = true, now.Add(Keep)
	t.publish(n)
	t.settle(n, now)
}

// drop forgets all that n serves, but not yet what is published of it.
func (t *Table) drop(n *node) { t.resize(n, 0) }

func (t *Table) resize(n *node, parts int) {
	for i := parts; i < len(n.parts); i++ {
		t.cells -= len(n.parts[i].cells)
	}
	old := n.parts[:min(parts, len(n.parts))]
	n.parts = make([]part, parts)
	copy(n.parts, old)
}

// remove takes n out of the table. What it said last is remembered.
func (t *Table) remove(n *node, now time.Time) {
	t.drop(n)
	t.publish(n)
	for len(n.origins) > 0 {
		t.lose(n, 0)
	}
	delete(t.nodes, n.id)
	t.remember(n.id, n.floor, now)
}

func (t *Table) remember(id sdk.NodeID, f floor, now time.Time) {
	if _, ok := t.past[id]; !ok && len(t.past) >= MaxPast {
		oldest, since := id, now
		for other, l := range t.past {
			if !l.since.After(since) {
				oldest, since = other, l.since
			}
		}
		delete(t.past, oldest)
	}
	t.past[id] = left{f, now}
}

// Pin says that there is one more live link to a node. It stays routable
// until its links end, it says goodbye or is denied.
func (t *Table) Pin(id sdk.NodeID) { t.pin(id, 1) }

// Unpin says that a link to a node has ended.
func (t *Table) Unpin(id sdk.NodeID) { t.pin(id, -1) }

func (t *Table) pin(id sdk.NodeID, by int) {
	now := t.lock()
	defer t.mu.Unlock()
	links := max(t.pins[id]+by, 0)
	if t.pins[id] = links; links == 0 {
		delete(t.pins, id)
	}
	if n := t.nodes[id]; n != nil {
		n.pins = links
		t.settle(n, now)
	}
}

// Deny replaces the set of nodes that are kept out, and takes out those that
// are in.
func (t *Table) Deny(ids []sdk.NodeID) {
	now := t.lock()
	defer t.mu.Unlock()
	before := t.denied
	t.denied = make(map[sdk.NodeID]sdk.CellName, len(ids))
	for _, id := range ids {
		t.denied[id] = before[id]
		if n := t.nodes[id]; n != nil {
			t.denied[id] = n.name
			t.remove(n, now)
		}
	}
}

// Denied returns the nodes that are kept out, and what they call themselves as
// far as that was heard.
func (t *Table) Denied() map[sdk.NodeID]sdk.CellName {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.denied)
}

// Clear takes out all members, for another mesh. Whoever is of that, too, is in
// again at its next announcement. What was opened before does not count any
// more: see [Announcement].Generation.
func (t *Table) Clear() {
	now := t.lock()
	defer t.mu.Unlock()
	t.generation++
	for _, n := range t.nodes {
		t.remove(n, now)
	}
}
