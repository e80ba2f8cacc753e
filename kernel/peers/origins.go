package peers

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A sighting is that a source saw a node at an address.
type sighting struct {
	source string
	at     netip.AddrPort
	seen   time.Time
}

// An origin is an IP address at which a node was seen.
type origin struct {
	ip netip.Addr
	// led is when it last brought news. Who replays an envelope from an
	// address of his own comes second, so what leads is dialled first.
	led   time.Time
	seen  time.Time
	sight []sighting // one for each source that sees it there
}

// A mark is what dialling an address has shown.
type mark struct {
	used   bool
	failed time.Time
}

// saw notes a sighting and reports whether it was new in this beat.
func (t *Table) saw(n *node, s sighting, leads bool) bool {
	i := slices.IndexFunc(n.origins, func(o origin) bool { return o.ip == s.at.Addr() })
	if i < 0 {
		if len(n.origins) >= MaxOrigins && !t.makeRoom(n, s.seen) {
			return false
		}
		t.perIP[s.at.Addr()]++
		i = len(n.origins)
		n.origins = append(n.origins, origin{ip: s.at.Addr()})
	}
	o := &n.origins[i]
	if o.seen = s.seen; leads {
		o.led = s.seen
	}
	j := slices.IndexFunc(o.sight, func(x sighting) bool { return x.source == s.source })
	if j < 0 {
		o.sight = append(o.sight, s)
		return true
	}
	fresh := o.sight[j].seen.Before(n.heard)
	o.sight[j] = s
	return fresh
}

// makeRoom loses the origin that was not seen for longest. A live one never
// makes room: whoever replays from many addresses pushes nothing out.
func (t *Table) makeRoom(n *node, now time.Time) bool {
	oldest := 0
	for i, o := range n.origins {
		if o.seen.Before(n.origins[oldest].seen) {
			oldest = i
		}
	}
	if now.Sub(n.origins[oldest].seen) < n.ttl {
		return false
	}
	t.lose(n, oldest)
	return true
}

// lose removes an origin.
func (t *Table) lose(n *node, i int) {
	ip := n.origins[i].ip
	if t.perIP[ip]--; t.perIP[ip] == 0 {
		delete(t.perIP, ip)
	}
	n.origins = slices.Delete(n.origins, i, i+1)
}

// loseOld removes origins that nobody sees any more, though the node is seen
// elsewhere, and reports whether none is left of some.
func (t *Table) loseOld(n *node) bool {
	had := len(n.origins) > 0
	for i := len(n.origins) - 1; i >= 0; i-- {
		if o := &n.origins[i]; len(o.sight) == 0 || n.heard.Sub(o.seen) >= Keep {
			t.lose(n, i)
		}
	}
	return had && len(n.origins) == 0
}

// Used says that a link was made over an address of a node.
func (t *Table) Used(id sdk.NodeID, addr sdk.Addr) { t.mark(id, addr, true) }

// Failed says that dialling an address of a node failed. It goes last for
// [Retry], or until a link is made over it.
func (t *Table) Failed(id sdk.NodeID, addr sdk.Addr) { t.mark(id, addr, false) }

func (t *Table) mark(id sdk.NodeID, addr sdk.Addr, worked bool) {
	now := t.lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return
	}
	known := map[string]bool{}
	for i := range n.parts {
		for _, a := range t.addrs(n, &n.parts[i], 0xff) {
			known[a.String()] = true
		}
	}
	for key := range n.marks {
		if !known[key] {
			delete(n.marks, key)
		}
	}
	if !known[addr.String()] {
		return
	}
	if n.marks == nil {
		n.marks = map[string]mark{}
	}
	if worked {
		n.marks[addr.String()] = mark{used: true}
	} else {
		n.marks[addr.String()] = mark{failed: now}
	}
}

// Addrs returns where a cell of a node can be dialled, the best first: what
// failed lately goes last, then the order of transports counts, then whether a
// link was made over it, then how lately it brought news of the node.
func (t *Table) Addrs(id sdk.NodeID, cell sdk.CellName) []sdk.Addr {
	now := t.lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return nil
	}
	if _, ok := n.shown[cell]; !ok {
		return nil
	}
	s := n.serves()[cell]
	list := t.addrs(n, s.part, s.cell.Listeners)
	slices.SortStableFunc(list, func(a, b sdk.Addr) int { // addrs has sorted by news
		x, y := n.marks[a.String()], n.marks[b.String()]
		return cmp.Or(
			cmp.Compare(x.fails(now), y.fails(now)),
			cmp.Compare(t.rank[a.Scheme], t.rank[b.Scheme]),
			cmp.Compare(x.unused(), y.unused()),
		)
	})
	return list
}

func (m mark) fails(now time.Time) int {
	if m.failed.IsZero() || now.Sub(m.failed) >= Retry {
		return 0
	}
	return 1
}

func (m mark) unused() int {
	if m.used {
		return 0
	}
	return 1
}

// addrs returns all addresses of some listeners that we can dial, those that
// brought the latest news first.
func (t *Table) addrs(n *node, p *part, listeners uint8) []sdk.Addr {
	origins := slices.Clone(n.origins)
	slices.SortFunc(origins, func(a, b origin) int {
		return cmp.Or(b.led.Compare(a.led), b.seen.Compare(a.seen), a.ip.Compare(b.ip))
	})
	var list []sdk.Addr
	for _, o := range origins {
		for i, l := range p.listeners {
			if _, ok := t.rank[l.Scheme]; ok && listeners&(1<<i) != 0 {
				list = append(list, sdk.Addr{Scheme: l.Scheme, Host: netip.AddrPortFrom(o.ip, l.Port).String(), Hint: l.Hint})
			}
		}
	}
	return list
}
