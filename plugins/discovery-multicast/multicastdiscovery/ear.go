package multicastdiscovery

import (
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	// tagLen is how many bytes at the front of an envelope tell the mesh, for
	// everybody to read and to forge: see package kernel/identity.
	tagLen      = 12
	maxWatchers = 8
	maxOwn      = 4 * sdk.MaxEnvelopes // own envelopes that are recognized
	keepBeats   = 2                    // how old an envelope may be that a new watcher sees
	lossPause   = time.Minute          // between two lines about losses
)

// An ear takes in what arrives and hands it to the watchers. It can verify
// nothing, so it bounds everything.
type ear struct {
	beat time.Duration
	log  *slog.Logger
	seed maphash.Seed

	mu       sync.Mutex // guards the fields below
	own      map[uint64]bool
	ownOrder []uint64 // oldest first
	tag      string   // of our own envelopes
	sources  *sources
	settled  *shelf
	new      *shelf
	watchers map[*watcher]bool
	lost     int // datagrams since the last line about it
	said     time.Time
}

// A watcher is one call of Watch.
type watcher struct {
	queue *queue        // guarded by the ear's lock
	wake  chan struct{} // of capacity 1
}

func newEar(beat time.Duration, log *slog.Logger) *ear {
	return &ear{
		beat: beat, log: log, seed: maphash.MakeSeed(), own: map[uint64]bool{}, sources: newSources(beat),
		settled: newShelf(keepBeats * beat), new: newShelf(keepBeats * beat), watchers: map[*watcher]bool{},
	}
}

// know takes note of what is our own, so that it is not heard. What was
// announced before may still be on its way.
func (e *ear) know(self []sdk.Envelope) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, env := range self {
		d := maphash.Bytes(e.seed, env)
		if !e.own[d] {
			e.own[d] = true
			e.ownOrder = append(e.ownOrder, d)
		}
	}
	for len(e.ownOrder) > maxOwn {
		delete(e.own, e.ownOrder[0])
		e.ownOrder = e.ownOrder[1:]
	}
	if len(self) > 0 {
		e.tag = tagOf(self[0])
	}
}

func tagOf(envelope []byte) string { return string(envelope[:min(tagLen, len(envelope))]) }

// hear takes a datagram in and reports whether it is an announcement of our
// mesh by somebody not known before, who gets an answer. It waits for nobody.
func (e *ear) hear(from netip.AddrPort, b []byte, now time.Time) (first bool) {
	if addr := from.Addr(); len(b) > sdk.MaxEnvelope || from.Port() == 0 || addr.IsUnspecified() || addr.IsMulticast() {
		return false
	}
	k := key{from, maphash.Bytes(e.seed, b)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(b) == len(goodbye) {
		e.gone(from)
		return false
	}
	if e.own[k.digest] {
		return false
	}
	kin := e.tag != "" && tagOf(b) == e.tag
	s, first := e.sources.admit(from, kin, now)
	if s == nil {
		e.lose(now)
		return false
	}
	s.stay()
	shelf := e.new
	if s.settled {
		shelf = e.settled
	}
	rec := shelf.put(k, b, now)
	s.last = rec.envelope
	if now.Sub(rec.reported) < e.beat*4/5 {
		return false // the copies of a burst, and the same by another interface
	}
	rec.reported = now
	e.tell(rankOf(s, kin), from, sdk.Event{Kind: sdk.EventSeen, Envelope: rec.envelope, Origin: from.String()}, now)
	return first && kin
}

// gone takes in a goodbye. Of who is not known it means nothing. Anybody could
// have sent it, so it counts only if nothing else follows for a beat: it can
// not be made of somebody who is there. (A kernel that leaves announces so
// first, signed, and that needs no patience.)
func (e *ear) gone(from netip.AddrPort) {
	if s := e.sources.lookup(from); s != nil && s.ending == nil {
		s.ending = time.AfterFunc(e.beat*5/4, func() { e.end(s) })
	}
}

// end reports a source gone of which nothing was heard since its goodbye.
func (e *ear) end(s *source) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.ending == nil || e.sources.lookup(s.origin) != s {
		return
	}
	e.sources.remove(s)
	e.settled.forget(s.origin)
	e.new.forget(s.origin)
	r := rankOf(s, e.tag != "" && tagOf(s.last) == e.tag)
	e.tell(r, s.origin, sdk.Event{Kind: sdk.EventGone, Envelope: s.last, Origin: s.origin.String()}, time.Now())
}

func rankOf(s *source, kin bool) rank {
	switch {
	case kin && s.settled:
		return rankSettled
	case kin:
		return rankKin
	}
	return rankStranger
}

// close ends what waits for a goodbye to be true.
func (e *ear) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, table := range []map[netip.AddrPort]*source{e.sources.settled, e.sources.new} {
		for _, s := range table {
			s.stay()
		}
	}
}

// tell puts an event into all queues.
func (e *ear) tell(r rank, from netip.AddrPort, event sdk.Event, now time.Time) {
	for w := range e.watchers {
		if w.queue.put(r, from, event) {
			e.lose(now)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// lose counts what was dropped and says so from time to time.
func (e *ear) lose(now time.Time) {
	e.lost++
	if now.Sub(e.said) < lossPause {
		return
	}
	e.said = now
	e.log.Warn("too many datagrams: some are dropped", "dropped", e.lost, "sources", len(e.sources.settled)+len(e.sources.new))
	e.lost = 0
}

// watch registers a watcher and returns it with what is known already.
func (e *ear) watch(now time.Time) (*watcher, []*record, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.watchers) >= maxWatchers {
		return nil, nil, sdk.Errorf(sdk.CodeOverloaded, "watch: there are %d watches already: at most %d", len(e.watchers), maxWatchers)
	}
	w := &watcher{queue: newQueue(), wake: make(chan struct{}, 1)}
	e.watchers[w] = true
	return w, append(e.settled.all(now), e.new.all(now)...), nil
}

func (e *ear) unwatch(w *watcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.watchers, w)
}

// next takes the next event of a watcher.
func (e *ear) next(w *watcher) (sdk.Event, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return w.queue.next()
}
