package golgi

import (
	"maps"
	"math"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// maxMethodName bounds what a process calls a method, in bytes.
const maxMethodName = 256

// A Count is what a process says of one link it serves. Counters are absolute.
type Count struct {
	Link    uint64
	Node    sdk.NodeID // of the caller; empty for this one
	From    sdk.CellName
	Methods []channel.MethodStats
	Over    bool // the link has ended, and all its handlers
}

// tally tells whoever meters what a process has said of its links, and keeps
// what each node has used of it. The caller holds mu.
func (g *Golgi) tally(s *seat, stats *channel.Stats, counts []Count) {
	for _, c := range counts {
		if c.Node != "" {
			l := g.links[c.Link]
			weight := int64(0)
			for _, m := range c.Methods {
				weight += max(0, m.WeightNS)
			}
			s.used[c.Node] += max(0, weight-l.billed)
			l.billed = max(l.billed, weight)
		}
	}
	if g.opt.Counted != nil && stats.Split != "" {
		g.opt.Counted(s.id, *stats, counts)
	}
}

// countOf is what a process said of a link. Methods that are too many or have
// impossible names are none.
func (l *link) countOf(st channel.LinkStats, over bool) Count {
	c := Count{Link: l.id, From: l.from, Methods: st.Methods, Over: over}
	if l.foreign != nil && !l.foreign.near { // a junction joins what one user has
		c.Node = l.foreign.node
	}
	if len(c.Methods) > channel.MaxMethods+1 {
		c.Methods = nil
	}
	for _, m := range c.Methods {
		if len(m.Method) > maxMethodName {
			c.Methods = nil
			break
		}
	}
	return c
}

// A grant is what one node may use of all cells together.
type grant struct {
	cpu   sdk.ATP
	until time.Time
	why   string
	more  bool
}

// A share is how much of what a node may use one process needs.
type share struct {
	seen   int64 // ns of weight that it had used, in all, at the last look
	recent int64 // ns: what it used lately, the more the later
}

// look takes what a process has used by now.
func (s *share) look(used int64) {
	s.recent = s.recent*4/5 + max(0, used-s.seen)
	s.seen = used
}

// A usage is what the calls of other nodes have used, in ns of weight, by node.
type usage struct {
	used   map[sdk.NodeID]int64
	billed map[sdk.NodeID]int64 // of that, what is on a bill
}

func newUsage() *usage { return &usage{used: make(map[sdk.NodeID]int64)} }

// unbilled is what a node has used that is on no bill.
func (u *usage) unbilled(node sdk.NodeID) int64 { return max(0, u.used[node]-u.billed[node]) }

// inherit takes over what is on no bill of a process that is gone.
func (u *usage) inherit(of *usage) {
	for node := range of.used {
		if n := of.unbilled(node); n > 0 {
			u.used[node] += n
		}
	}
}

// Lease says how much more CPU the calls of another node may use of the cells
// of this one, all together, and until when new calls are taken. It replaces
// what was said before. The cells see to it themselves, also while this kernel
// is stopped: new calls beyond it are refused with [sdk.CodeNoATP], at once or,
// if there may be more soon, after they have waited for that; and calls that run
// are ended when it is used up. A node that was never given a lease has no limit.
//
// What a cell has reported and is not on a bill yet, and what it has used since
// it reported, counts as used of the lease: see [Golgi.Reading].
func (g *Golgi) Lease(node sdk.NodeID, cpu sdk.ATP, until time.Time, why string, more bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leases[node] = grant{max(0, cpu), until, clip(why), more}
	g.sendLeases(node)
}

// Reading is for whoever meters: it is called before meters are read, and what it
// returns when the charges that came of the reading are on a bill. Leases count
// from there on, so that nothing is let be done twice while it is on its way.
func (g *Golgi) Reading() (billed func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.metered = true
	at := map[*usage]map[sdk.NodeID]int64{g.gone: maps.Clone(g.gone.used)}
	for s := range g.seats {
		if len(s.used) > 0 {
			at[s.usage] = maps.Clone(s.used)
		}
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for u, used := range at {
			u.billed = used
		}
		// Who has gone since the reading counts until the next one. A reading
		// that has begun meanwhile has the old one, of which nothing is left.
		if maps.Equal(g.gone.used, g.gone.billed) {
			g.gone = newUsage()
		}
	}
}

// clip keeps a text short enough for a message.
func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), 1<<10)], "") }

// Unlease takes the limit off a node.
func (g *Golgi) Unlease(node sdk.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.leases[node]; !ok {
		return
	}
	delete(g.leases, node)
	for s := range g.seats {
		delete(s.grants, node)
		s.put(channel.Message{Type: channel.TypeLease, Lease: &channel.Lease{Node: node, Free: true}}, nil)
	}
}

// sendLeases shares what a node may use among the processes that serve it: a
// quarter in equal parts, so that each can begin, and the rest by what each has
// used lately. The caller holds mu.
func (g *Golgi) sendLeases(node sdk.NodeID) {
	grant, ok := g.leases[node]
	if !ok {
		return
	}
	serving := make(map[*seat]bool)
	for _, l := range g.links {
		if l.to != nil && l.foreign != nil && l.foreign.admitted && !l.foreign.near && l.foreign.node == node {
			serving[l.to] = true
		}
	}
	if len(serving) == 0 {
		return
	}
	left := min(int64(grant.cpu), math.MaxInt64/1000/4) * 1000 // µs → ns
	if g.metered {                                             // else nothing is charged here
		left -= g.unbilled(node)
	}
	recent := int64(0)
	for s := range g.seats {
		if serving[s] {
			recent += s.share(node)
		}
	}
	left = max(0, left)
	lease := channel.Lease{Node: node, ForMS: max(0, time.Until(grant.until).Milliseconds()), Why: grant.why, More: grant.more}
	for s := range serving {
		part := 1 / float64(len(serving))
		if recent > 0 {
			part = part/4 + float64(s.shares[node].recent)/float64(recent)*3/4
		}
		lease := lease
		lease.LimitNS = s.used[node] + int64(float64(left)*part)
		if lease.LimitNS < s.used[node] {
			lease.LimitNS = math.MaxInt64
		}
		s.putLease(lease)
	}
}

// unbilled is what a node has used of all processes, also of those that are
// gone, that is on no bill. The caller holds mu.
func (g *Golgi) unbilled(node sdk.NodeID) int64 {
	sum := g.gone.unbilled(node)
	for s := range g.seats {
		sum += s.unbilled(node)
	}
	return sum
}

// share returns what a process has used for a node lately. The caller holds
// Golgi.mu.
func (s *seat) share(node sdk.NodeID) int64 {
	sh := s.shares[node]
	if sh == nil {
		sh = &share{seen: s.used[node]}
		s.shares[node] = sh
	}
	sh.look(s.used[node])
	return sh.recent
}

// putLease queues a lease. Those of a node that wait to be sent are replaced:
// a process that is stopped has one of each to read. The caller holds Golgi.mu.
func (s *seat) putLease(l channel.Lease) {
	_, waits := s.grants[l.Node]
	s.grants[l.Node] = l
	if !waits {
		s.put(channel.Message{Type: channel.TypeLease, Lease: &channel.Lease{Node: l.Node}}, nil)
	}
}

// takeLease returns the latest lease of a node.
func (s *seat) takeLease(m channel.Message) channel.Message {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	if m.Lease.Free {
		return m
	}
	l, ok := s.grants[m.Lease.Node]
	if !ok { // taken back meanwhile
		l = channel.Lease{Node: m.Lease.Node, Free: true}
	}
	delete(s.grants, l.Node)
	m.Lease = &l
	return m
}
