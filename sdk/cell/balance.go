package cell

import (
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// A score tells how good a link is to send the next call over.
type score struct {
	latency atomic.Int64 // ns, smoothed, end to end; 0 without samples
	sampled atomic.Int64 // nanos of the last sample
	halved  atomic.Int64 // nanos until which the link counts as half as good
}

const (
	smoothing = 8                     // a sample counts one eighth
	forget    = 20 * time.Millisecond // after which half of an unrefreshed latency is forgotten
	halfFor   = time.Second           // an overloaded link counts half
)

// sample adds the latency of one call, in ns. What was forgotten meanwhile does
// not come back: a link that was slow once is not left alone for long.
func (s *score) sample(ns, now int64) {
	old := s.recent(ns, now)
	s.latency.Store(max(1, old+(ns-old)/smoothing)) // a lost race loses one sample
	s.sampled.Store(now)
}

func (s *score) overloaded(now int64) { s.halved.Store(now + int64(halfFor)) }

// recent returns the latency, or other if there is none. A latency that was
// not refreshed approaches other, from above only: a link that does not answer
// at all never becomes the better one.
func (s *score) recent(other, now int64) int64 {
	ns := s.latency.Load()
	if ns == 0 {
		return other
	}
	if age := now - s.sampled.Load(); age > int64(forget) {
		ns = max(ns>>min(uint(age/int64(forget)), 62), min(ns, other))
	}
	return ns
}

// cost is the price of one more call, in ns: the calls in flight, and this
// one, times the latency. other is the latency of the link it is compared with.
func (s *score) cost(inflight int32, other, now int64) int64 {
	c := (int64(inflight) + 1) * max(s.recent(other, now), 1)
	if now < s.halved.Load() {
		c *= 2
	}
	return c
}

// choose picks a link for one call by the power of two choices. Two links that
// both stay on this machine, or both leave it, and whose costs are within a
// factor of two are equally good: the first of two random ones is taken, so
// that no replica starves for a microsecond. A call leaves the machine when
// that costs clearly less: the latency of a link contains the calls it carries
// already, so eight short calls at once look like a queue and are none. avoid
// is a link not to take if there is another one; it may be nil.
func choose(links []*outLink, avoid *outLink, now int64) *outLink {
	n := uint32(len(links))
	if n == 1 {
		return links[0]
	}
	r := rand.Uint64()
	i := uint32(r) % n
	j := uint32(r>>32) % (n - 1)
	if j >= i {
		j++
	}
	a, b := links[i], links[j]
	switch avoid {
	case nil:
	case a:
		return b
	case b:
		return a
	}
	if better(b.cost(a, now), a.cost(b, now), b.peer.Local, a.peer.Local) {
		return b
	}
	return a
}

// better reports whether the second of two links is taken, rather than the
// first: their costs, and whether they are local.
func better(second, first int64, secondLocal, firstLocal bool) bool {
	switch {
	case secondLocal == firstLocal:
		return first > 2*second
	case secondLocal:
		return 2*second <= 3*first
	}
	return 2*first > 3*second
}

func (l *outLink) cost(other *outLink, now int64) int64 {
	return l.score.cost(l.inflight.Load(), other.score.latency.Load(), now)
}

// subset returns which of all endpoints a caller keeps links to, at most n of
// them, by rendezvous hashing: callers spread evenly, and a change of the set
// moves only the links it must.
func subset(caller string, all []target, n int) []target {
	if len(all) <= n {
		return all
	}
	type weighted struct {
		t target
		w uint64
	}
	ws := make([]weighted, len(all))
	for i, t := range all {
		h := fnv.New64a()
		h.Write([]byte(caller))
		h.Write([]byte{0})
		h.Write([]byte(t.id))
		ws[i] = weighted{t, mix(h.Sum64())}
	}
	slices.SortFunc(ws, func(a, b weighted) int {
		switch {
		case a.w > b.w:
			return -1
		case a.w < b.w:
			return 1
		}
		return 0
	})
	out := make([]target, n)
	for i := range out {
		out[i] = ws[i].t
	}
	return out
}

// mix spreads FNV's weak high bits (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// A target is an endpoint and how many links to it may be kept.
type target struct {
	id    string
	links int
}
