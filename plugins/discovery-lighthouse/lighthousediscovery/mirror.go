package lighthousediscovery

import (
	"strconv"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of what one lighthouse may tell.
const (
	maxNodes   = 4096
	maxKept    = 16384 // envelopes of all nodes
	maxPending = 64    // rows that are not complete, or whose turn it is not
)

// doubtTime is how long nodes are believed that a lighthouse no longer knows
// after a restart: time for each of them to register again.
const doubtTime = maxBeat + 2*time.Second

// A mirror is what one lighthouse knows of one group, as far as it arrived.
type mirror struct {
	view     *view
	tag      datagram.Tag
	instance uint64
	cursor   uint64 // everything up to this version is here
	nodes    map[datagram.ID]*node
	kept     int // envelopes of all nodes
	pending  []*pending
	doubt    time.Time // when doubtful nodes are dropped; zero: there are none
	mute     bool      // the lighthouse does not answer
}

// A pending is a row whose envelopes, or whose predecessor, did not arrive.
type pending struct {
	datagram.Row
	envelopes []sdk.Envelope
	missing   int
}

func newMirror(v *view) *mirror { return &mirror{view: v, nodes: map[datagram.ID]*node{}} }

// restart begins anew: what is known is in doubt until it is heard again.
func (m *mirror) restart(now time.Time, instance uint64) {
	m.instance, m.cursor, m.pending = instance, 0, nil
	for _, n := range m.nodes {
		n.doubtful = true
	}
	if len(m.nodes) > 0 {
		m.doubt = now.Add(doubtTime)
	}
}

// aim turns to another group; nothing of the last one stays.
func (m *mirror) aim(now time.Time, tag datagram.Tag) {
	if tag == m.tag {
		return
	}
	for id, n := range m.nodes {
		m.set(id, n, nil)
	}
	m.tag = tag
	m.restart(now, 0)
}

// forget drops everything, and says so to nobody.
func (m *mirror) forget() {
	for id, n := range m.nodes {
		m.view.forget(n)
		delete(m.nodes, id)
	}
	m.instance, m.cursor, m.kept, m.pending, m.doubt = 0, 0, 0, nil, time.Time{}
}

// settle drops the nodes that stayed in doubt for too long.
func (m *mirror) settle(now time.Time) {
	if m.doubt.IsZero() || now.Before(m.doubt) {
		return
	}
	m.doubt = time.Time{}
	for id, n := range m.nodes {
		if n.doubtful {
			m.set(id, n, nil)
		}
	}
}

// setMute notes whether the lighthouse answers. What it once said does not
// keep alive whom another lighthouse saw leave.
func (m *mirror) setMute(mute bool) {
	if mute == m.mute {
		return
	}
	m.mute = mute
	for _, n := range m.nodes {
		m.view.setMute(n, mute || n.doubtful)
	}
}

func (m *mirror) set(id datagram.ID, old, now *node) {
	if old != nil {
		m.kept -= len(old.hashes)
	}
	if now != nil {
		m.kept += len(now.hashes)
		m.nodes[id] = now
	} else {
		delete(m.nodes, id)
	}
	if old != nil || now != nil {
		m.view.replace(old, now)
	}
}

// row takes a row. Envelopes that are known already need not follow.
func (m *mirror) row(now time.Time, r datagram.Row) {
	if r.Instance != m.instance {
		m.restart(now, r.Instance)
	}
	if r.Version <= m.cursor || len(m.pending) >= maxPending {
		return
	}
	for _, p := range m.pending {
		if p.Version == r.Version {
			return
		}
	}
	p := &pending{Row: r, envelopes: make([]sdk.Envelope, len(r.Hashes)), missing: len(r.Hashes)}
	if old := m.nodes[r.ID]; old != nil {
		for i, h := range old.hashes {
			p.put(h, old.envelopes[i])
		}
	}
	m.pending = append(m.pending, p)
	m.advance()
}

// part takes an envelope, for every row that lacks it. It keeps no reference.
func (m *mirror) part(e sdk.Envelope) {
	h := datagram.HashOf(e)
	var own sdk.Envelope
	for _, p := range m.pending {
		if p.lacks(h) {
			if own == nil {
				own = append(own, e...)
			}
			p.put(h, own)
		}
	}
	m.advance()
}

func (p *pending) lacks(h datagram.Hash) bool {
	for i := range p.Hashes {
		if p.Hashes[i] == h && p.envelopes[i] == nil {
			return true
		}
	}
	return false
}

func (p *pending) put(h datagram.Hash, e sdk.Envelope) {
	for i := range p.Hashes {
		if p.Hashes[i] == h && p.envelopes[i] == nil {
			p.envelopes[i] = e
			p.missing--
		}
	}
}

// state takes the end of a page. It reports whether all before it is here.
func (m *mirror) state(now time.Time, s datagram.State) bool {
	if s.Instance != m.instance {
		m.restart(now, s.Instance)
	}
	if m.cursor < s.From {
		return false
	}
	m.cursor = max(m.cursor, s.Upto)
	return true
}

// advance applies the rows whose turn it is.
func (m *mirror) advance() {
	for again := true; again; {
		again = false
		left := m.pending[:0]
		for _, p := range m.pending {
			switch {
			case p.Version <= m.cursor:
			case p.missing > 0 || p.Prev > m.cursor:
				left = append(left, p)
			default:
				m.apply(p)
				m.cursor, again = p.Version, true
			}
		}
		clear(m.pending[len(left):])
		m.pending = left
	}
}

func (m *mirror) apply(p *pending) {
	old := m.nodes[p.ID]
	if p.Gone || len(p.Hashes) == 0 {
		m.set(p.ID, old, nil)
		return
	}
	n := &node{version: p.Version, origin: origin(&p.Row), hashes: p.Hashes, envelopes: p.envelopes}
	size := m.kept + len(n.hashes)
	if old != nil {
		size -= len(old.hashes)
	}
	if old == nil && len(m.nodes) >= maxNodes || size > maxKept {
		return // more than any lighthouse of ours has room for
	}
	m.set(p.ID, old, n)
}

// origin writes where a node was seen: "203.0.113.7:40123", and if something
// on the way gave its socket another port, which it had: "203.0.113.7:40123
// nat:51000".
func origin(r *datagram.Row) string {
	o := r.Observed.String()
	if r.Port != 0 && r.Port != r.Observed.Port() {
		o += " nat:" + strconv.Itoa(int(r.Port))
	}
	return o
}
