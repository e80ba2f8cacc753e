package quictransport

import (
	"container/list"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/quic-go/quic-go"
)

// Limits of what strangers can make us do. Until an address is proved by a
// Retry (RFC 9000, section 8.1.2) anybody may have written it: such attempts
// fill at most half of what one source may have. With a proved address one can
// still be anybody, until a connection is of use: see [session.answered]. Those
// that are not share half of all places, and the ones of whoever has the most
// make room for others, whether their handshakes are finished or not.
const (
	freeInitials  = 50 // a second, and as a burst, before addresses must be proved
	freePending   = 32 // handshakes, before addresses must be proved
	sourceRate    = 10 // proved attempts a second of one source
	sourceBurst   = 64
	maxLeft       = 512  // handshakes that lost their place and can not be ended
	maxSources    = 4096 // remembered beyond those that have connections
	sourceForgets = sourceBurst / sourceRate * time.Second
	knownFor      = 10 * time.Minute // a source is no stranger after it had a useful connection
)

// A gate admits incoming connections.
type gate struct {
	max, perSource int
	log            *slog.Logger

	mu        sync.Mutex // guards the fields below, and those of slots and sources
	live      int        // connections, handshakes included
	strangers int        // of them, those that are neither useful nor of a known source
	pending   int        // handshakes
	initials  bucket
	sources   map[netip.Prefix]*sourceState
	unproved  list.List // of *slot: those of no use yet, handshakes included, the oldest first
	left      int       // handshakes without a place that quic-go has not given up yet: see [slot.cancel]
	watched   bool      // somebody looks at what unproved ones hold
	lastSaid  time.Time
	unsaid    int // lines since then that the log was spared
}

type sourceState struct {
	addr      netip.Prefix
	live      int
	strangers int
	attempts  bucket
	proved    time.Time // when a connection from here last turned out to be of use
}

func (s *sourceState) known(now time.Time) bool {
	return !s.proved.IsZero() && now.Sub(s.proved) < knownFor
}

func newGate(maxLive, perSource int, log *slog.Logger) *gate {
	return &gate{
		max: maxLive, perSource: perSource, log: log,
		initials: bucket{rate: freeInitials, size: freeInitials, tokens: freeInitials},
		sources:  map[netip.Prefix]*sourceState{},
	}
}

// doubts reports whether who wrote addr as its own has to prove it first. It
// is asked for each attempt without proof.
func (g *gate) doubts(addr netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.initials.take(time.Now()) || g.pending >= freePending || g.live >= (g.max+1)/2 || g.strangers >= (g.max+1)/2 {
		return true
	}
	s := g.sources[addr]
	return s != nil && s.live >= (g.perSource+1)/2
}

// A slot is the place of one admitted connection.
type slot struct {
	gate     *gate
	source   *sourceState
	stranger bool          // counted as one
	pending  bool          // in its handshake
	gone     bool          // not counted any more
	left     bool          // counted in gate.left
	at       *list.Element // of gate.unproved; nil when it is not there
	guest    guest         // nil until the other end has said hello
	// cancel fails a handshake that has no guest: at the next message, if one
	// comes, else quic-go gives it up after quietAccept.
	cancel context.CancelFunc
}

// sendAway ends the connection of a place that was taken away.
func (k *slot) sendAway() {
	if k.guest != nil {
		k.guest.sendAway()
	} else {
		k.cancel()
	}
}

// A guest is what a gate sees of a connection.
type guest interface {
	// held returns about how many bytes it makes us keep.
	held() int64
	// sendAway ends it. It does not wait.
	sendAway()
}

type slotKey struct{}

// admit takes a slot for a connection; it is free again when ctx is done.
func (g *gate) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	addr := source(info.RemoteAddr)
	over := ctx // when quic-go is done with it
	ctx, cancel := context.WithCancel(ctx)
	k, out, err := g.place(addr, info.AddrVerified, cancel, time.Now())
	if out != nil {
		out.sendAway()
		g.warn("a connection of no use yet made room for another", "of", out.source.addr.String(), "for", addr.String())
	}
	if err != nil {
		g.warn("refused a connection", "from", addr.String(), "error", err)
		cancel()
		return nil, err
	}
	context.AfterFunc(over, func() { cancel(); k.release() })
	return context.WithValue(ctx, slotKey{}, k), nil
}

// place returns the slot, and the one that made room for it, if any had to.
func (g *gate) place(addr netip.Prefix, verified bool, cancel context.CancelFunc, now time.Time) (k, out *slot, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[addr]
	if s == nil {
		g.forget(now)
		s = &sourceState{addr: addr, attempts: bucket{rate: sourceRate, size: sourceBurst, tokens: sourceBurst}}
		g.sources[addr] = s
	}
	if verified && !s.attempts.take(now) {
		return nil, nil, sdk.Errorf(sdk.CodeOverloaded, "too many attempts from %v: no more are accepted", addr)
	}
	stranger := !s.known(now)
	switch {
	case s.live >= g.perSource:
		out = g.victim(s)
		err = sdk.Errorf(sdk.CodeOverloaded, "%d connections from %v: no more are accepted", s.live, addr)
	case g.live >= g.max:
		out = g.victim(nil)
		err = sdk.Errorf(sdk.CodeOverloaded, "%d connections: no more are accepted", g.live)
	case stranger && g.strangers >= (g.max+1)/2:
		out = g.victim(nil)
		err = sdk.Errorf(sdk.CodeOverloaded, "%d connections of strangers: no more are accepted", g.strangers)
	}
	// The first of a source gets in as long as there is any place: handshakes
	// that nobody can end may be all there is.
	if first := s.live == 0 && g.live < g.max; err != nil && !first && (out == nil || !verified) {
		return nil, nil, err
	}
	if out != nil {
		if out.guest == nil {
			out.left = true
			g.left++
		}
		out.leave()
	}
	g.live++
	g.pending++
	s.live++
	k = &slot{gate: g, source: s, stranger: stranger, pending: true, cancel: cancel}
	k.at = g.unproved.PushBack(k)
	if stranger {
		g.strangers++
		s.strangers++
	}
	return k, out, nil
}

// victim returns who makes room: the oldest unproved connection of a source,
// or, for nil, of the stranger that has the most; nil if there is none. Those
// that live on without a place are at most maxLeft. The caller holds mu.
func (g *gate) victim(of *sourceState) (v *slot) {
	for e := g.unproved.Front(); e != nil; e = e.Next() {
		k := e.Value.(*slot)
		switch {
		case of != nil && k.source != of, of == nil && !k.stranger, k.guest == nil && g.left >= maxLeft:
		case v == nil, k.source.strangers > v.source.strangers:
			v = k
		}
	}
	return v
}

// forget drops sources that have nothing: when there are many, those that did
// nothing of late, when there are too many, all that are not known, then all.
// The caller holds mu.
func (g *gate) forget(now time.Time) {
	drop := func(limit int, which func(*sourceState) bool) {
		if len(g.sources) < limit {
			return
		}
		for addr, s := range g.sources {
			if s.live == 0 && which(s) {
				delete(g.sources, addr)
			}
		}
	}
	drop(maxSources/4, func(s *sourceState) bool { return !s.known(now) && now.Sub(s.attempts.last) > sourceForgets })
	drop(maxSources+g.live, func(s *sourceState) bool { return !s.known(now) })
	drop(maxSources+g.live, func(*sourceState) bool { return true })
}

// slotOf returns the place of a connection.
func slotOf(ctx context.Context) *slot {
	k, _ := ctx.Value(slotKey{}).(*slot)
	return k
}

// greeted is called when the other end has said hello: from then on the
// connection can be ended. It reports whether somebody has to begin to watch:
// see [gate.greedy]. One that has lost its place meanwhile is sent away.
func (k *slot) greeted(c guest) (watch bool) {
	g := k.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if k.gone {
		c.sendAway()
		return false
	}
	k.guest = c
	watch = !g.watched
	g.watched = true
	return watch
}

// established is called when the handshake of a connection is complete, with
// what is seen of it from then on.
func (k *slot) established(c guest) {
	g := k.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	k.settle()
	if k.gone {
		c.sendAway()
	}
	k.guest = c
}

// proved is called when a connection turned out to be of use.
func (k *slot) proved() {
	k.gate.mu.Lock()
	defer k.gate.mu.Unlock()
	k.trust()
	k.source.proved = time.Now()
}

// settle ends the handshake. The caller holds gate.mu.
func (k *slot) settle() {
	if k.pending {
		k.pending = false
		k.gate.pending--
	}
}

// trust ends what is only for unproved connections. The caller holds gate.mu.
func (k *slot) trust() {
	if k.at != nil {
		k.gate.unproved.Remove(k.at)
		k.at = nil
	}
	if k.stranger {
		k.stranger = false
		k.gate.strangers--
		k.source.strangers--
	}
}

func (k *slot) release() {
	k.gate.mu.Lock()
	defer k.gate.mu.Unlock()
	if k.left {
		k.left = false
		k.gate.left--
	}
	k.leave()
}

// leave frees the place. The caller holds gate.mu.
func (k *slot) leave() {
	k.settle()
	k.trust()
	if k.gone {
		return
	}
	k.gone = true
	k.gate.live--
	s := k.source
	if s.live--; s.live == 0 && s.attempts.last.IsZero() && s.proved.IsZero() {
		delete(k.gate.sources, s.addr) // nothing to remember
	}
}

// warn keeps strangers from filling the log: one line a second.
func (g *gate) warn(text string, args ...any) {
	g.mu.Lock()
	now := time.Now()
	if now.Sub(g.lastSaid) < time.Second {
		g.unsaid++
		g.mu.Unlock()
		return
	}
	if g.unsaid > 0 {
		args = append(args, "others", g.unsaid)
	}
	g.lastSaid, g.unsaid = now, 0
	g.mu.Unlock()
	g.log.Warn(text, args...)
}

// A bucket fills with tokens at a rate, up to its size.
type bucket struct {
	rate, size float64 // tokens a second, tokens
	tokens     float64
	last       time.Time
}

func (b *bucket) take(now time.Time) bool {
	if !b.last.IsZero() {
		b.tokens = min(b.size, b.tokens+now.Sub(b.last).Seconds()*b.rate)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
