package lighthouse

import (
	"container/list"
	"net/netip"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
)

const (
	// subLife is how long a node is told of changes after its last sync.
	subLife = maxLease
	// page is how many datagrams answer a sync, or one more row.
	page = 16
	// An unacknowledged page is sent again after firstAgain, then after twice
	// as long each time up to lastAgain.
	firstAgain = 250 * time.Millisecond
	lastAgain  = 2 * time.Second
)

// A sub is a node that watches.
type sub struct {
	from    netip.AddrPort
	path    path // where the node reaches us
	session datagram.Session
	group   *group
	acked   uint64 // it has everything up to this version
	sent    uint64 // it was sent everything up to this version
	again   time.Time
	wait    time.Duration // until again, the next time
	expires time.Time
}

// subscribe notes what a node has. The second result says which limit
// refused a new subscription.
func (t *table) subscribe(now time.Time, from netip.AddrPort, s datagram.Session, m datagram.Sync) (*sub, string) {
	w := t.subs[from]
	if w != nil && w.group.tag != m.Tag {
		t.unsubscribe(w)
		w = nil
	}
	if w == nil {
		why := t.watches.refuses(from.Addr(), m.Tag, load{nodes: 1})
		if (why == "mesh" || why == "table") && t.crowdOutSub(why, from.Addr(), m.Tag) {
			why = "" // one for one
		}
		if why != "" {
			return nil, why
		}
		w = &sub{from: from, group: t.group(m.Tag)}
		t.watches.count(from.Addr(), m.Tag, load{nodes: 1})
		t.subs[from], w.group.subs[from] = w, w
	}
	w.session, w.expires = s, now.Add(subLife)
	w.acked = 0
	if m.Instance == w.group.instance {
		w.acked = min(m.Cursor, w.group.version)
	}
	w.sent, w.wait = w.acked, firstAgain
	return w, ""
}

// crowdOutSub ends a subscription of the prefix that has most of a mesh or of
// the table, unless from would have as many. It reports whether it did.
func (t *table) crowdOutSub(why string, from netip.Addr, tag datagram.Tag) bool {
	counts := func(w *sub) bool { return why != "mesh" || w.group.tag == tag }
	src, ok := crowding(func(yield func(netip.Addr, int) bool) {
		for _, w := range t.subs {
			if counts(w) && !yield(w.from.Addr(), 1) {
				return
			}
		}
	}, from, 1)
	if !ok {
		return false
	}
	var out *sub
	for _, w := range t.subs {
		if counts(w) && source(w.from.Addr()) == src && (out == nil || w.from.Compare(out.from) < 0) {
			out = w
		}
	}
	t.unsubscribe(out)
	return true
}

func (t *table) unsubscribe(w *sub) {
	delete(t.subs, w.from)
	delete(w.group.subs, w.from)
	t.watches.count(w.from.Addr(), w.group.tag, load{nodes: -1})
	t.tidy(w.group)
}

// behind reports whether there is something that w was not sent.
func (w *sub) behind() bool { return w.sent < w.group.version }

// due returns the subscriptions whose page was not acknowledged in time.
func (t *table) due(now time.Time) []*sub {
	var list []*sub
	for _, w := range t.subs {
		if w.sent > w.acked && !w.again.After(now) {
			list = append(list, w)
		}
	}
	return list
}

// after returns the first row of a group with a greater version.
func (g *group) after(version uint64) *list.Element {
	e := g.rows.Back()
	for e != nil && e.Value.(*row).version > version {
		e = e.Prev()
	}
	if e == nil {
		return g.rows.Front()
	}
	return e.Next()
}

// send sends w the page after what it acknowledged.
func (w *sub) send(now time.Time, out func(*sub, []byte)) {
	g, n := w.group, 0
	state := datagram.State{Instance: g.instance, From: w.acked, Upto: w.acked, Current: g.version}
	buf := make([]byte, 0, datagram.MaxSize)
	e := g.after(w.acked)
	for ; e != nil; e = e.Next() {
		r := e.Value.(*row)
		if n > 0 && n+1+len(r.shown.hashes) > page {
			break
		}
		m := datagram.Row{
			Instance: g.instance, Version: r.version, Prev: state.From, ID: r.id, Gone: r.gone,
			Observed: r.from, Port: r.port, Hashes: r.shown.hashes,
		}
		out(w, datagram.AppendRow(buf, w.session, &m))
		for _, env := range r.shown.envelopes {
			out(w, datagram.AppendPart(buf, w.session, env))
		}
		n += 1 + len(r.shown.hashes)
		state.From, state.Upto = r.version, r.version
	}
	if e == nil { // the newest rows may have been forgotten since
		state.Upto = g.version
	}
	out(w, datagram.AppendState(buf, w.session, state))
	w.sent = state.Upto
	w.again = now.Add(w.wait)
	w.wait = min(2*w.wait, lastAgain)
}
