package quictransport

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/quic-go/quic-go"
)

// Limits of what strangers can make us do. Until an address is proved by a
// Retry (RFC 9000, section 8.1.2) anybody may have written it: such attempts
// fill at most half of what one source may have, so that nobody can lock
// another out.
const (
	freeInitials  = 50 // a second, and as a burst, before addresses must be proved
	freePending   = 32 // handshakes, before addresses must be proved
	sourceRate    = 10 // proved attempts a second of one source
	sourceBurst   = 64
	maxSources    = 4096
	sourceForgets = sourceBurst / sourceRate * time.Second
)

// A gate admits incoming connections.
type gate struct {
	max, perSource int

	mu       sync.Mutex // guards the fields below
	live     int        // connections, handshakes included
	pending  int        // handshakes
	initials bucket
	sources  map[netip.Prefix]*sourceState
}

type sourceState struct {
	live     int
	attempts bucket
}

func newGate(maxLive, perSource int) *gate {
	return &gate{
		max: maxLive, perSource: perSource,
		initials: bucket{rate: freeInitials, size: freeInitials, tokens: freeInitials},
		sources:  map[netip.Prefix]*sourceState{},
	}
}

// doubts reports whether who wrote addr as its own has to prove it first. It
// is asked for each attempt without proof.
func (g *gate) doubts(addr netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.initials.take(time.Now()) || g.pending >= freePending || g.live >= (g.max+1)/2 {
		return true
	}
	s := g.sources[addr]
	return s != nil && s.live >= (g.perSource+1)/2
}

// A slot is the place of one admitted connection.
type slot struct {
	gate    *gate
	addr    netip.Prefix
	pending bool // guarded by gate.mu
}

type slotKey struct{}

// admit takes a slot for a connection; it is free again when ctx is done.
func (g *gate) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	addr := source(info.RemoteAddr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live >= g.max {
		return nil, sdk.Errorf(sdk.CodeOverloaded, "%d connections: no more are accepted", g.live)
	}
	s := g.sources[addr]
	if s == nil {
		if g.forget(); len(g.sources) >= maxSources {
			return nil, sdk.Errorf(sdk.CodeOverloaded, "%d sources: no more are accepted", len(g.sources))
		}
		s = &sourceState{attempts: bucket{rate: sourceRate, size: sourceBurst, tokens: sourceBurst}}
		g.sources[addr] = s
	}
	if s.live >= g.perSource || info.AddrVerified && !s.attempts.take(time.Now()) {
		return nil, sdk.Errorf(sdk.CodeOverloaded, "%d connections from %v: no more are accepted", s.live, addr)
	}
	g.live++
	g.pending++
	s.live++
	k := &slot{gate: g, addr: addr, pending: true}
	context.AfterFunc(ctx, k.release)
	return context.WithValue(ctx, slotKey{}, k), nil
}

// forget drops the sources that have nothing and did nothing of late, when
// there are many. The caller holds mu.
func (g *gate) forget() {
	if len(g.sources) < maxSources/4 {
		return
	}
	for addr, s := range g.sources {
		if s.live == 0 && time.Since(s.attempts.last) > sourceForgets {
			delete(g.sources, addr)
		}
	}
}

// established is called when the handshake of a connection is complete.
func established(ctx context.Context) {
	k, ok := ctx.Value(slotKey{}).(*slot)
	if !ok {
		return
	}
	k.gate.mu.Lock()
	defer k.gate.mu.Unlock()
	k.settle()
}

// settle ends the handshake. The caller holds gate.mu.
func (k *slot) settle() {
	if k.pending {
		k.pending = false
		k.gate.pending--
	}
}

func (k *slot) release() {
	k.gate.mu.Lock()
	defer k.gate.mu.Unlock()
	k.settle()
	k.gate.live--
	s := k.gate.sources[k.addr]
	if s.live--; s.live == 0 && s.attempts.last.IsZero() {
		delete(k.gate.sources, k.addr) // nothing to remember
	}
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
