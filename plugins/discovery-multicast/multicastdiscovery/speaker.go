package multicastdiscovery

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// When something is said.
const (
	burst       = 3                      // times at a start and after a change
	burstGap    = 250 * time.Millisecond // between them
	minAnswer   = 20 * time.Millisecond  // after a node was heard for the first time:
	maxAnswer   = 250 * time.Millisecond // at random, so that not all speak at once
	answerPause = time.Second            // between two answers at one place
)

// A sender is where a speaker speaks: a member, but in tests.
type sender interface {
	comparable
	send(b []byte) error
}

// A speaker says what we announce at every place: a burst when it is new, then
// one repetition each beat, and an answer to who was not heard before.
type speaker[S sender] struct {
	beat time.Duration
	log  *slog.Logger
	wake chan struct{} // of capacity 1

	mu        sync.Mutex // guards the fields below
	self      [][]byte   // what is said; nil if nothing is
	leaving   bool       // self is the goodbye, said once
	announced time.Time  // when Announce was called last
	places    map[S]*schedule
}

// A schedule says when we speak at one place.
type schedule struct {
	next     time.Time // zero for never
	copies   int       // that were promised and are still to come, the next included
	answered time.Time
	failing  string // what the last error was
}

func newSpeaker[S sender](beat time.Duration, log *slog.Logger) *speaker[S] {
	return &speaker[S]{beat: beat, log: log, wake: make(chan struct{}, 1), places: map[S]*schedule{}}
}

// announce replaces what is said. Envelopes that come when those before are
// about a beat old are taken for the same news, signed anew: they are said
// once. All others are a change, and get a burst.
func (s *speaker[S]) announce(self []sdk.Envelope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := clone(self)
	if slices.EqualFunc(said, s.self, bytes.Equal) && !s.leaving || len(said) == 0 && (s.self == nil || s.leaving) {
		return
	}
	now := time.Now()
	change := s.self == nil || s.leaving || len(said) == 0 || now.Sub(s.announced) < s.beat*7/10
	s.self, s.leaving, s.announced = said, len(said) == 0, now
	if s.leaving {
		s.self = [][]byte{goodbye}
	}
	for _, p := range s.places {
		p.next, p.copies = now, max(1, p.copies)
		if change {
			p.copies = burst
		}
	}
	s.poke()
}

func clone(self []sdk.Envelope) [][]byte {
	var list [][]byte
	for _, e := range self {
		list = append(list, bytes.Clone(e))
	}
	return list
}

// enter begins to speak at a place.
func (s *speaker[S]) enter(at S) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &schedule{}
	if s.self != nil && !s.leaving {
		p.next, p.copies = time.Now(), burst
	}
	s.places[at] = p
	s.poke()
}

// exit ends speaking at a place.
func (s *speaker[S]) exit(at S) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, at)
}

// answer speaks soon at a place where a node was heard for the first time. One
// answer is for all who wait for one.
func (s *speaker[S]) answer(at S) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, now := s.places[at], time.Now()
	if p == nil || p.next.IsZero() || s.leaving {
		return
	}
	when := now
	if free := p.answered.Add(answerPause); free.After(when) {
		when = free
	}
	when = when.Add(minAnswer + rand.N(maxAnswer-minAnswer))
	if when.Before(p.next) {
		p.next, p.answered = when, when
		s.poke()
	}
}

func (s *speaker[S]) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run speaks until ctx is done. A burst that is not over then is finished at
// once: the last words matter.
func (s *speaker[S]) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			s.finish()
			return
		}
		if next := s.speak(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
	}
}

// speak says what is due and returns when to come back; the zero time if
// there is nothing to wait for.
func (s *speaker[S]) speak() time.Time {
	var next time.Time
	for at, words := range s.due() {
		s.say(at, words)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.places {
		if !p.next.IsZero() && (next.IsZero() || p.next.Before(next)) {
			next = p.next
		}
	}
	return next
}

// due lists where to speak now, and plans the next time.
func (s *speaker[S]) due() map[S][][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, list := time.Now(), map[S][][]byte{}
	for at, p := range s.places {
		if p.next.IsZero() || p.next.After(now) {
			continue
		}
		list[at] = s.self
		p.copies = max(0, p.copies-1)
		switch {
		case p.copies > 0:
			p.next = now.Add(burstGap*4/5 + rand.N(burstGap*2/5))
		case s.leaving:
			p.next = time.Time{}
		default:
			p.next = now.Add(s.beat*9/10 + rand.N(s.beat/5))
		}
	}
	return list
}

// say sends to one place, without the lock. That it does not work is said
// once; what is wrong with an interface comes and goes.
func (s *speaker[S]) say(at S, words [][]byte) {
	failing := ""
	for _, b := range words {
		if err := at.send(b); err != nil {
			failing = err.Error()
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.places[at]
	if p == nil { // we left it meanwhile
		return
	}
	if p.failing != failing && failing != "" {
		s.log.Warn("nothing can be sent to the group; tried again each beat", "place", at, "error", failing)
	}
	p.failing = failing
}

func (s *speaker[S]) finish() {
	s.mu.Lock()
	left, words := map[S]int{}, s.self
	for at, p := range s.places {
		left[at] = p.copies
	}
	s.mu.Unlock()
	for at, n := range left {
		for range n {
			s.say(at, words)
		}
	}
}
