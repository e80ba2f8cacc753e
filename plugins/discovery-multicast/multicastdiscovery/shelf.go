package multicastdiscovery

import (
	"container/list"
	"net/netip"
	"time"
)

// maxShelf bounds the envelopes that are kept, per shelf.
const maxShelf = 2048

// A record is an envelope that was heard.
type record struct {
	key
	envelope []byte
	heard    time.Time // last
	reported time.Time // last
}

// A key names a record: the same bytes of another origin are another record.
type key struct {
	origin netip.AddrPort
	digest uint64 // under a seed of this process: nobody can make two alike
}

// A shelf keeps what was heard within the last beats, for those who begin to
// watch and so that a repetition is not news. The oldest make room.
type shelf struct {
	keep   time.Duration
	order  *list.List // of *record, heard longest ago first
	lookup map[key]*list.Element
}

func newShelf(keep time.Duration) *shelf {
	return &shelf{keep: keep, order: list.New(), lookup: map[key]*list.Element{}}
}

// put keeps an envelope and returns its record, the old one if it is there.
func (s *shelf) put(k key, envelope []byte, now time.Time) *record {
	if e := s.lookup[k]; e != nil {
		s.order.MoveToBack(e)
		r := e.Value.(*record)
		r.heard = now
		return r
	}
	s.prune(now)
	r := &record{key: k, envelope: append([]byte(nil), envelope...), heard: now}
	s.lookup[k] = s.order.PushBack(r)
	return r
}

// prune removes what is old, and the oldest if the shelf is full.
func (s *shelf) prune(now time.Time) {
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		if r := e.Value.(*record); now.Sub(r.heard) > s.keep || s.order.Len() >= maxShelf {
			s.order.Remove(e)
			delete(s.lookup, r.key)
			continue
		}
		return
	}
}

// forget removes all of one origin.
func (s *shelf) forget(origin netip.AddrPort) {
	for e := s.order.Front(); e != nil; {
		next := e.Next()
		if r := e.Value.(*record); r.origin == origin {
			s.order.Remove(e)
			delete(s.lookup, r.key)
		}
		e = next
	}
}

// all lists what is fresh, heard longest ago first.
func (s *shelf) all(now time.Time) []*record {
	var fresh []*record
	for e := s.order.Front(); e != nil; e = e.Next() {
		if r := e.Value.(*record); now.Sub(r.heard) <= s.keep {
			fresh = append(fresh, r)
		}
	}
	return fresh
}
