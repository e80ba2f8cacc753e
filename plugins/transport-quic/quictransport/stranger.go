package quictransport

import (
	"time"

	"github.com/quic-go/quic-go"
)

// Until a connection is of use, whoever dialled it may be anybody. quic-go
// keeps what arrives on a stream until the bytes before it have arrived, even
// when nobody reads it any more, and a stream ends only when the other end
// says so: windows alone let a stranger fill 64 MiB, and small frames many
// times that. So what such a connection holds is watched and bounded.
const (
	// refusal is more than the kernel writes to a link that it refuses, and
	// less than any link that it accepts carries.
	refusal = 256
	// strangerHolds is what one unproved connection may make us keep: twice
	// the largest window of a stream. Whoever sends as fast as it may, on one
	// link and before anything is written to it, is within that, however late
	// it is read.
	strangerHolds = 512 << 10
	// strangersHold is what all unproved connections may make us keep.
	strangersHold = 4 << 20
	watchEvery    = 10 * time.Millisecond
)

// answered notes that n more bytes were written to a link. A connection is
// proved by the first link that carries more than a refusal to the other end:
// the kernel has accepted it, and no stranger can make it do so.
func (l *link) answered(n int) {
	if l.written += n; l.written > refusal && l.session.proved.CompareAndSwap(false, true) {
		l.session.slot.proved()
	}
}

// held returns at least what quic-go keeps of the other end's bytes: what has
// arrived and was not read. As much again as was read passes for headers and
// for what was sent twice.
func (s *session) held() int64 {
	return int64(s.conn.ConnectionStats().BytesReceived) - 2*s.taken.Load()
}

// sendAway ends the connection in favour of others.
func (s *session) sendAway() {
	go s.conn.CloseWithError(codeRoom, "others need the room") // which waits for quic-go to be done with it
}

// A greeting is a connection whose handshake is not complete. Like every guest
// it is somebody whose word is all we have.
type greeting struct{ conn *quic.Conn }

// held returns all that has arrived: none of it was read.
func (c greeting) held() int64 { return int64(c.conn.ConnectionStats().BytesReceived) }

// sendAway ends the handshake.
func (c greeting) sendAway() { go c.conn.CloseWithError(codeRoom, "others need the room") }

// greedy frees the places of unproved connections that hold too much, and
// returns them. It reports whether there are any others to look at.
func (g *gate) greedy() (out []*slot, more bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	total, held := int64(0), map[*slot]int64{}
	for e := g.unproved.Front(); e != nil; e = e.Next() {
		k := e.Value.(*slot)
		if k.guest == nil {
			continue // quic-go keeps little before a hello, and for quietAccept
		}
		held[k] = max(0, k.guest.held())
		total += held[k]
	}
	for k, n := range held {
		if n > strangerHolds {
			out = append(out, k)
			total -= n
			delete(held, k)
		}
	}
	for total > strangersHold {
		var most *slot
		for k, n := range held {
			if most == nil || n > held[most] {
				most = k
			}
		}
		out = append(out, most)
		total -= held[most]
		delete(held, most)
	}
	for _, k := range out {
		k.leave()
	}
	g.watched = g.unproved.Len() > 0
	return out, g.watched
}

// watch looks at what unproved connections hold, for as long as there are any.
func (t *Transport) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		out, more := t.gate.greedy()
		for _, k := range out {
			k.guest.sendAway()
			t.gate.warn("a connection of no use yet made us keep too much", "of", k.source.addr.String())
		}
		if !more {
			return
		}
	}
}
