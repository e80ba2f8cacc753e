package multicastdiscovery

import (
	"net/netip"
	"time"
)

// Limits of sources. Datagrams can be forged, so a source is only as good as
// its past: one that was heard over several beats is settled, and settled ones
// are not crowded out by new ones.
const (
	maxSettled   = 1024
	maxNew       = 1024
	maxPerHost   = 64 // sources of one address
	settleBeats  = 3
	forgetBeats  = 10
	sourceRate   = 64 // datagrams a second: a whole announcement of the largest node
	sourceBurst  = 192
	settledRate  = 4096 // beyond that of all settled sources together: others may use their addresses
	newRate      = 1024 // of all others together
	kinRate      = 128  // new sources a second that carry our tag
	strangerRate = 64   // and that do not
	burstSeconds = 2    // of the rates of new ones
)

// A source is an address and port that datagrams come from.
type source struct {
	origin  netip.AddrPort
	heard   time.Time // last
	beat    time.Time // when its last new beat began
	beats   int
	settled bool
	bucket  bucket
	last    []byte      // its last envelope, for the goodbye
	ending  *time.Timer // since a goodbye that is not sure yet, else nil
}

// stay makes a goodbye void.
func (s *source) stay() {
	if s.ending != nil {
		s.ending.Stop()
		s.ending = nil
	}
}

// A bucket lets through so many a second, and a burst.
type bucket struct {
	tokens float64
	filled time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	b.tokens = min(burst, b.tokens+now.Sub(b.filled).Seconds()*rate)
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// sources is the table of them. It never grows beyond its limits.
type sources struct {
	beat    time.Duration
	settled map[netip.AddrPort]*source
	new     map[netip.AddrPort]*source
	hosts   map[netip.Addr]int // sources of each address
	swept   time.Time

	spare, ofNew, kin, strangers bucket
}

func newSources(beat time.Duration) *sources {
	return &sources{beat: beat, settled: map[netip.AddrPort]*source{}, new: map[netip.AddrPort]*source{}, hosts: map[netip.Addr]int{}}
}

// lookup returns a source that is known.
func (t *sources) lookup(origin netip.AddrPort) *source {
	if s := t.settled[origin]; s != nil {
		return s
	}
	return t.new[origin]
}

// admit returns the source of a datagram, and whether it was not known before;
// nil if the datagram is one too many. kin says that it carries our tag.
func (t *sources) admit(origin netip.AddrPort, kin bool, now time.Time) (s *source, first bool) {
	t.sweep(now)
	s = t.lookup(origin)
	if s == nil {
		if s = t.add(origin, kin, now); s == nil {
			return nil, false
		}
		first = true
	}
	if !t.pass(s, now) {
		return nil, false
	}
	t.note(s, now)
	return s, first
}

// pass reports whether a source may say one thing more. A settled one that says
// too much is perhaps two: somebody who is there, and somebody who sends from
// that address to have it dropped. So it takes of what all settled ones share.
func (t *sources) pass(s *source, now time.Time) bool {
	if own := s.bucket.take(now, sourceRate, sourceBurst); s.settled {
		return own || t.spare.take(now, settledRate, settledRate)
	} else if !own {
		return false
	}
	return t.ofNew.take(now, newRate, newRate*burstSeconds)
}

// add makes room for a new source at the expense of another new one.
func (t *sources) add(origin netip.AddrPort, kin bool, now time.Time) *source {
	door, rate := &t.strangers, float64(strangerRate)
	if kin {
		door, rate = &t.kin, kinRate
	}
	if !door.take(now, rate, rate*burstSeconds) {
		return nil
	}
	host := origin.Addr()
	if t.hosts[host] >= maxPerHost && !t.evict(func(s *source) bool { return s.origin.Addr() == host }) {
		return nil
	}
	if len(t.new) >= maxNew {
		t.evict(func(*source) bool { return true })
	}
	s := &source{origin: origin, heard: now, beat: now, beats: 1}
	t.new[origin] = s
	t.hosts[host]++
	return s
}

// evict removes a new source that is one of those meant. Which one is left to
// the order of the map, which is random: who sends most is hit most.
func (t *sources) evict(meant func(*source) bool) bool {
	for _, s := range t.new {
		if meant(s) {
			t.remove(s)
			return true
		}
	}
	return false
}

func (t *sources) remove(s *source) {
	s.stay()
	delete(t.new, s.origin)
	delete(t.settled, s.origin)
	host := s.origin.Addr()
	if t.hosts[host]--; t.hosts[host] == 0 {
		delete(t.hosts, host)
	}
}

// note counts beats, and settles who was heard over enough of them.
func (t *sources) note(s *source, now time.Time) {
	s.heard = now
	if now.Sub(s.beat) >= t.beat/2 {
		s.beat = now
		s.beats++
	}
	if s.settled || s.beats <= settleBeats || len(t.settled) >= maxSettled {
		return
	}
	s.settled = true
	delete(t.new, s.origin)
	t.settled[s.origin] = s
}

// sweep forgets who is silent, once a beat.
func (t *sources) sweep(now time.Time) {
	if now.Sub(t.swept) < t.beat {
		return
	}
	t.swept = now
	for _, table := range []map[netip.AddrPort]*source{t.settled, t.new} {
		for _, s := range table {
			if now.Sub(s.heard) > forgetBeats*t.beat {
				t.remove(s)
			}
		}
	}
}
