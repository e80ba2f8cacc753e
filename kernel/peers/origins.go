package peers

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A sighting is that a source saw a node at an address.
type sighting struct {
	source string
	place
	seen time.Time
}

// A place is an origin as a source tells it.
type place struct {
	at netip.AddrPort
	// port is that of the node's own socket where something on the way, a NAT,
	// has replaced it, else 0. Such a node may not be reachable from outside.
	port uint16
}

// natMark begins what may stand behind an address that was seen: the port that
// the node's socket had, "203.0.113.7:40123 nat:51000".
const natMark = "nat:"

// parseOrigin reads where a source saw something; what is no address of one
// host is the zero place. What follows the address and is no port of a NAT is
// for people.
func parseOrigin(s string) place {
	seen, rest, _ := strings.Cut(s, " ")
	at, err := netip.ParseAddrPort(seen)
	if ip := at.Addr(); err != nil || ip.IsUnspecified() || ip.IsMulticast() {
		return place{}
	}
	p := place{at: netip.AddrPortFrom(at.Addr().Unmap(), at.Port())}
	if had, ok := strings.CutPrefix(rest, natMark); ok {
		if n, err := strconv.ParseUint(had, 10, 16); err == nil {
			p.port = uint16(n)
		}
	}
	return p
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
		if leads && n.pins > 0 {
			t.roamed[n.id] = s.at.Addr()
			t.poke()
		}
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

// Addrs returns where a cell of a node can be dialled; the cell "golgi", which
// no node announces because every one has it, at all its listeners. The best
// come first: what
// failed lately goes last, then the order of transports counts, then whether a
// link was made over it, then how lately it brought news of the node.
func (t *Table) Addrs(id sdk.NodeID, cell sdk.CellName) []sdk.Addr {
	now := t.lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		return nil
	}
	return t.best(n, cell, now)
}

// best is Addrs of a node that is known.
func (t *Table) best(n *node, cell sdk.CellName, now time.Time) []sdk.Addr {
	list := t.where(n, cell)
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

// where returns at which addresses n offers a cell, in no order that counts.
func (t *Table) where(n *node, cell sdk.CellName) []sdk.Addr {
	if cell != sdk.GolgiName {
		if _, ok := n.shown[cell]; !ok {
			return nil
		}
		s := n.serves()[cell]
		return t.addrs(n, s.part, s.cell.Listeners)
	}
	if n.gone || n.wire != t.opt.Wire {
		return nil
	}
	var latest *part
	for i := range n.parts {
		if p := &n.parts[i]; !p.arrived.IsZero() && (latest == nil || p.seq > latest.seq) {
			latest = p // every part has the listeners of all
		}
	}
	if latest == nil {
		return nil
	}
	return t.addrs(n, latest, 0xff)
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
