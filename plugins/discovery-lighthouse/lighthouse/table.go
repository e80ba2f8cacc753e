package lighthouse

import (
	"bytes"
	"container/list"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	minLease = time.Second
	maxLease = 30 * time.Second
	// tombLife is how long it is remembered that a node is gone: longer than
	// the cookie in any of its registrations is good, so none can be replayed,
	// and longer than a subscription, so everybody hears of it.
	tombLife = 2*cookieTurn + maxLease
)

// A row is what one key registered under one tag. It is visible to those who
// watch once all its envelopes arrived, and stays as a tombstone afterwards.
type row struct {
	id        datagram.ID
	group     *group
	boot, seq uint64
	session   datagram.Session
	from      netip.AddrPort
	port      uint16
	lease     time.Duration
	expires   time.Time // of the lease, then of the tombstone
	load      load      // what was counted for it
	gone      bool

	version uint64 // of the group when it last changed; 0 while nobody can see it
	at      *list.Element
	shown   content
	next    *content // what replaces shown when it is complete; nil: nothing
}

// A content is a list of envelopes, some of which may not have arrived.
type content struct {
	hashes    []datagram.Hash
	envelopes []sdk.Envelope
}

// missing returns a bit for each envelope that is not there.
func (c *content) missing() uint64 {
	var m uint64
	for i, e := range c.envelopes {
		if e == nil {
			m |= 1 << i
		}
	}
	return m
}

// put stores e where it is missing. It copies e.
func (c *content) put(h datagram.Hash, e sdk.Envelope) {
	for i := range c.hashes {
		if c.hashes[i] == h && c.envelopes[i] == nil {
			c.envelopes[i] = slices.Clone(e)
		}
	}
}

// A group is the nodes of one mesh, and who watches them.
type group struct {
	tag      datagram.Tag
	instance uint64    // random: versions of another life of the group mean nothing
	version  uint64    // of the newest change
	rows     list.List // of *row, those that were ever visible, by version
	members  int       // rows, visible or not
	subs     map[netip.AddrPort]*sub
}

// A table is everything a lighthouse knows. It is not safe for concurrent use.
type table struct {
	groups  map[datagram.Tag]*group
	rows    map[datagram.ID]*row
	filling map[netip.AddrPort]*row // rows with a next, by where it comes from
	nodes   *quota                  // of rows
	subs    map[netip.AddrPort]*sub
	watches *quota // of subs
	changed map[*group]bool
}

func newTable(l Limits) *table {
	return &table{
		groups: map[datagram.Tag]*group{}, rows: map[datagram.ID]*row{}, filling: map[netip.AddrPort]*row{},
		nodes: newQuota(l), subs: map[netip.AddrPort]*sub{}, watches: newQuota(l), changed: map[*group]bool{},
	}
}

func (t *table) group(tag datagram.Tag) *group {
	g := t.groups[tag]
	if g == nil {
		g = &group{tag: tag, instance: rand.Uint64() | 1, subs: map[netip.AddrPort]*sub{}}
		t.groups[tag] = g
	}
	return g
}

// tidy forgets a group that has nothing in it.
func (t *table) tidy(g *group) {
	if g.members == 0 && len(g.subs) == 0 {
		delete(t.groups, g.tag)
		delete(t.changed, g)
	}
}

// register applies a registration whose signature is good. It returns the
// answer and, if a limit refused it, which.
func (t *table) register(now time.Time, from netip.AddrPort, s datagram.Session, m *datagram.Register) (datagram.Ack, string) {
	ack := datagram.Ack{Seq: m.Seq, Boot: m.Boot, Observed: from}
	r := t.rows[m.ID()]
	if r != nil && !newer(m, r) {
		if m.Boot == r.boot && m.Seq == r.seq && s == r.session && from == r.from {
			ack.Missing = r.missing() // the answer to the first copy was lost
			return ack, ""
		}
		ack.Status, ack.Boot, ack.Live = datagram.StatusStale, r.boot, !r.gone
		return ack, ""
	}
	if len(m.Hashes) == 0 {
		if r != nil {
			r.boot, r.seq = m.Boot, m.Seq
			t.bury(now, r)
		}
		return ack, ""
	}
	want := load{1, len(m.Hashes)}
	if r != nil {
		want.envelopes = max(want.envelopes, len(r.shown.hashes))
	}
	if why := t.room(now, r, from, m.Tag, want); why != "" {
		ack.Status = datagram.StatusFull
		return ack, why
	}
	if r == nil {
		r = &row{id: m.ID(), group: t.group(m.Tag)}
		r.group.members++
		t.rows[r.id] = r
	} else if t.filling[r.from] == r {
		delete(t.filling, r.from)
	}
	r.load = want
	t.renew(now, r, from, s, m)
	ack.Missing = r.missing()
	return ack, ""
}

func newer(m *datagram.Register, r *row) bool {
	return m.Boot > r.boot || m.Boot == r.boot && m.Seq > r.seq
}

// room counts a row of an address in place of what was counted for r, which
// may be nil, or says which limit refuses it. The tombstones of the same
// source make room, then who crowds the mesh or the table.
func (t *table) room(now time.Time, r *row, from netip.AddrPort, tag datagram.Tag, want load) string {
	if r != nil {
		t.nodes.count(r.from.Addr(), tag, r.load.minus())
	}
	for {
		why := t.nodes.refuses(from.Addr(), tag, want)
		if why != "" && t.unbury(source(from.Addr()), r) {
			continue
		}
		counts := func(o *row) bool { return o != r && (why != "mesh" || o.group.tag == tag) }
		if (why == "mesh" || why == "table") && t.crowdOut(now, counts, from.Addr(), want, t.nodes.short(tag, want)) {
			continue
		}
		switch {
		case why == "":
			t.nodes.count(from.Addr(), tag, want)
		case r != nil:
			t.nodes.count(r.from.Addr(), tag, r.load)
		}
		return why
	}
}

// unbury forgets the oldest tombstone of a source, but not that of keep.
func (t *table) unbury(from netip.Prefix, keep *row) bool {
	var oldest *row
	for _, r := range t.rows {
		if r.gone && r != keep && source(r.from.Addr()) == from && (oldest == nil || r.expires.Before(oldest.expires)) {
			oldest = r
		}
	}
	if oldest != nil {
		t.remove(oldest)
	}
	return oldest != nil
}

// crowdOut takes a node, or its envelopes, from the prefix that takes most of
// the rows that count, unless from would take as much. It reports whether it
// did. A row without envelopes is a tombstone; one that goes itself is not
// announced as gone: it may be alive, and who watches forgets it by its age.
func (t *table) crowdOut(now time.Time, counts func(*row) bool, from netip.Addr, want load, nodes bool) bool {
	size := func(l load) int { return l.envelopes }
	if nodes {
		size = func(l load) int { return l.nodes }
	}
	src, ok := crowding(func(yield func(netip.Addr, int) bool) {
		for _, r := range t.rows {
			if counts(r) && !yield(r.from.Addr(), size(r.load)) {
				return
			}
		}
	}, from, size(want))
	if !ok {
		return false
	}
	var out *row
	for _, r := range t.rows {
		if counts(r) && source(r.from.Addr()) == src && (out == nil || size(r.load) > size(out.load) || size(r.load) == size(out.load) && bytes.Compare(r.id[:], out.id[:]) < 0) {
			out = r
		}
	}
	if nodes {
		t.remove(out)
	} else {
		t.bury(now, out)
	}
	return true
}

// renew stores what a registration says. What is already there of its
// envelopes need not come again.
func (t *table) renew(now time.Time, r *row, from netip.AddrPort, s datagram.Session, m *datagram.Register) {
	moved := r.from != from || r.port != m.Port
	r.boot, r.seq, r.session, r.from, r.port = m.Boot, m.Seq, s, from, m.Port
	r.lease = min(max(m.Lease, minLease), maxLease)
	r.expires = now.Add(r.lease)
	if slices.Equal(m.Hashes, r.shown.hashes) && !r.gone {
		r.next = nil
		if moved {
			t.show(r)
		}
		return
	}
	next := &content{slices.Clone(m.Hashes), make([]sdk.Envelope, len(m.Hashes))}
	for _, old := range []*content{&r.shown, r.next} {
		if old == nil {
			continue
		}
		for i, e := range old.envelopes {
			if e != nil {
				next.put(old.hashes[i], e)
			}
		}
	}
	r.next = next
	t.promote(r)
}

// promote shows the next content of r if it is complete.
func (t *table) promote(r *row) {
	if r.missing() != 0 {
		t.filling[r.from] = r
		return
	}
	delete(t.filling, r.from)
	r.shown, r.next, r.gone = *r.next, nil, false
	t.show(r)
}

func (r *row) missing() uint64 {
	if r.next == nil {
		return 0
	}
	return r.next.missing()
}

// show gives r the newest version of its group.
func (t *table) show(r *row) {
	g := r.group
	g.version++
	r.version = g.version
	if r.at == nil {
		r.at = g.rows.PushBack(r)
	} else {
		g.rows.MoveToBack(r.at)
	}
	t.changed[g] = true
}

// give takes an envelope that a registration named.
func (t *table) give(from netip.AddrPort, s datagram.Session, e sdk.Envelope) (ack datagram.Ack, ok bool) {
	r := t.filling[from]
	if r == nil || r.session != s {
		return ack, false
	}
	r.next.put(datagram.HashOf(e), e)
	t.promote(r)
	return datagram.Ack{Seq: r.seq, Boot: r.boot, Observed: from, Missing: r.missing()}, true
}

// bury makes r a tombstone.
func (t *table) bury(now time.Time, r *row) {
	if t.filling[r.from] == r {
		delete(t.filling, r.from)
	}
	t.nodes.count(r.from.Addr(), r.group.tag, load{0, -r.load.envelopes})
	r.load.envelopes = 0
	r.next, r.shown = nil, content{}
	r.expires = now.Add(tombLife)
	if r.at != nil && !r.gone {
		t.show(r)
	}
	r.gone = true
}

// remove forgets r.
func (t *table) remove(r *row) {
	if t.filling[r.from] == r {
		delete(t.filling, r.from)
	}
	delete(t.rows, r.id)
	t.nodes.count(r.from.Addr(), r.group.tag, r.load.minus())
	if r.at != nil {
		r.group.rows.Remove(r.at)
	}
	r.group.members--
	t.tidy(r.group)
}

// expire ends leases. It returns how many ended.
func (t *table) expire(now time.Time) (lapsed int) {
	for _, r := range t.rows {
		switch {
		case r.expires.After(now):
		case r.gone:
			t.remove(r)
		default:
			t.bury(now, r)
			lapsed++
		}
	}
	for _, s := range t.subs {
		if !s.expires.After(now) {
			t.unsubscribe(s)
		}
	}
	return lapsed
}

// live counts the rows that are no tombstones.
func (t *table) live() (n int) {
	for _, r := range t.rows {
		if !r.gone {
			n++
		}
	}
	return n
}
