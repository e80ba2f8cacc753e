package lighthouse

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
)

// Limits bound what a lighthouse keeps and does. Sources are IPv4 addresses
// and IPv6 /64 networks, prefixes IPv4 /24 and IPv6 /48 networks. Whoever is
// beyond a limit is refused, with one exception: when the table or a mesh is
// full, the prefix that takes most of it makes room for one that would still
// take less, so that no network can keep the others out.
type Limits struct {
	Nodes      int // registrations in all, and subscriptions in all
	PerSource  int // of them from one source
	PerPrefix  int // of them from one prefix
	PerMesh    int // of them with one tag
	Envelopes  int // of all registrations
	SourceSize int // of them from one source
	PrefixSize int // of them from one prefix
	MeshSize   int // of them with one tag

	Datagrams  float64 // a second from one source, after its cookie
	Signatures float64 // a second from one source that are verified
	Cookies    float64 // a second in all
}

// DefaultLimits keep what is stored below 32 MiB.
func DefaultLimits() Limits {
	return Limits{
		Nodes: 4096, PerSource: 64, PerPrefix: 256, PerMesh: 1024,
		Envelopes: 8192, SourceSize: 512, PrefixSize: 1024, MeshSize: 4096,
		Datagrams: 2000, Signatures: 100, Cookies: 20_000,
	}
}

func source(a netip.Addr) netip.Prefix  { return prefix(a, 32, 64) }
func network(a netip.Addr) netip.Prefix { return prefix(a, 24, 48) }

func prefix(a netip.Addr, v4, v6 int) netip.Prefix {
	bits := v6
	if a.Is4() {
		bits = v4
	}
	p, _ := a.WithZone("").Prefix(bits) // both are in range
	return p
}

// A load is what somebody takes of the table.
type load struct{ nodes, envelopes int }

func (l load) add(m load) load { return load{l.nodes + m.nodes, l.envelopes + m.envelopes} }
func (l load) minus() load     { return load{-l.nodes, -l.envelopes} }

// A quota counts loads by who causes them.
type quota struct {
	limits Limits
	all    load
	places map[netip.Prefix]load // of sources and prefixes, whose lengths differ
	tags   map[datagram.Tag]load
}

func newQuota(l Limits) *quota {
	return &quota{limits: l, places: map[netip.Prefix]load{}, tags: map[datagram.Tag]load{}}
}

// refuses says which limit does not allow more of l, or nothing.
func (q *quota) refuses(from netip.Addr, tag datagram.Tag, l load) string {
	m := q.limits
	all, src, net, mesh := q.all.add(l), q.places[source(from)].add(l), q.places[network(from)].add(l), q.tags[tag].add(l)
	switch {
	case l.nodes > 0 && src.nodes > m.PerSource, l.envelopes > 0 && src.envelopes > m.SourceSize:
		return "source"
	case l.nodes > 0 && net.nodes > m.PerPrefix, l.envelopes > 0 && net.envelopes > m.PrefixSize:
		return "prefix"
	case l.nodes > 0 && mesh.nodes > m.PerMesh, l.envelopes > 0 && mesh.envelopes > m.MeshSize:
		return "mesh"
	case l.nodes > 0 && all.nodes > m.Nodes, l.envelopes > 0 && all.envelopes > m.Envelopes:
		return "table"
	}
	return ""
}

// short reports whether it is nodes that a mesh or the table has no room for;
// else it is envelopes.
func (q *quota) short(tag datagram.Tag, l load) (nodes bool) {
	return q.tags[tag].nodes+l.nodes > q.limits.PerMesh || q.all.nodes+l.nodes > q.limits.Nodes
}

// crowding returns, of the prefix that takes most of what all list, the source
// that does; ok is false if from's own prefix would take as much with n
// more. It looks at everything: only a full table asks.
func crowding(all iter.Seq2[netip.Addr, int], from netip.Addr, n int) (src netip.Prefix, ok bool) {
	nets, sources := map[netip.Prefix]int{}, map[netip.Prefix]int{}
	for a, k := range all {
		nets[network(a)] += k
		sources[source(a)] += k
	}
	net := most(nets, func(netip.Prefix) bool { return true })
	src = most(sources, func(p netip.Prefix) bool { return network(p.Addr()) == net })
	return src, nets[network(from)]+n < nets[net]
}

// most returns the greatest of some of m; of equal ones, the first.
func most(m map[netip.Prefix]int, some func(netip.Prefix) bool) (best netip.Prefix) {
	for p, n := range m {
		if some(p) && (!best.IsValid() || n > m[best] || n == m[best] && p.Compare(best) < 0) {
			best = p
		}
	}
	return best
}

// count adds l, which may be negative.
func (q *quota) count(from netip.Addr, tag datagram.Tag, l load) {
	q.all = q.all.add(l)
	for _, p := range []netip.Prefix{source(from), network(from)} {
		if n := q.places[p].add(l); n == (load{}) {
			delete(q.places, p)
		} else {
			q.places[p] = n
		}
	}
	if n := q.tags[tag].add(l); n == (load{}) {
		delete(q.tags, tag)
	} else {
		q.tags[tag] = n
	}
}

// A bucket holds tokens: one second's worth at most twice.
type bucket struct {
	tokens float64
	filled time.Time
}

func (b *bucket) take(now time.Time, rate float64) bool {
	if b.filled.IsZero() {
		b.tokens = 2 * rate
	} else {
		b.tokens = min(2*rate, b.tokens+rate*now.Sub(b.filled).Seconds())
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// rates limits how often sources may do something, in memory that does not
// grow: sources share buckets by a hash that nobody outside can foresee.
type rates struct {
	seed    maphash.Seed
	buckets [4096]bucket
}

func (r *rates) take(now time.Time, from netip.Addr, rate float64) bool {
	h := maphash.Comparable(r.seed, source(from))
	return r.buckets[h%uint64(len(r.buckets))].take(now, rate)
}
