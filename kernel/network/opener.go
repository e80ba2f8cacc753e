package network

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

// maxSeen is how many envelopes an opener remembers.
const maxSeen = 4096

// An opener opens the envelopes of one discovery. What it has opened it knows
// again, so that repeating costs less than signing.
type opener struct {
	n      *Network
	source string
	mesh   *identity.Mesh // that seen was opened with
	seen   map[[32]byte]opened
	warned time.Time // of announcements of another day
}

// opened is an announcement, and in the words of the table.
type opened struct {
	said identity.Announcement
	peers.Announcement
}

func newOpener(n *Network, source string) *opener { return &opener{n: n, source: source} }

// saw takes one event; a discovery calls it one at a time.
func (o *opener) saw(e sdk.Event) {
	switch e.Kind {
	case sdk.EventSynced:
		o.n.opt.Peers.SourceSynced(o.source)
	case sdk.EventSeen:
		if a, ok := o.open(e); ok {
			v := o.n.opt.Peers.See(o.source, e.Origin, a)
			if v == peers.VerdictNew || v == peers.VerdictLeft {
				o.n.opt.Log.Info("peer "+v.String(), "node", a.Node.Short(), "name", string(a.Name), "by", o.source, "from", e.Origin)
			}
		}
	case sdk.EventGone:
		if len(e.Envelope) == 0 {
			o.n.opt.Peers.Gone(o.source, e.Origin, "")
		} else if a, ok := o.open(e); ok {
			o.n.opt.Peers.Gone(o.source, e.Origin, a.Node)
		}
	}
	o.n.heard()
}

func (o *opener) open(e sdk.Event) (peers.Announcement, bool) {
	// Before the mesh: if that is replaced from here on, what it opens is old.
	generation := o.n.opt.Peers.Generation()
	mesh := o.n.opt.Member.Mesh()
	if mesh != o.mesh {
		o.mesh, o.seen = mesh, make(map[[32]byte]opened)
	}
	sum := sha256.Sum256(e.Envelope)
	if a, ok := o.seen[sum]; ok {
		a.Generation = generation
		return a.Announcement, o.timely(a, e.Origin)
	}
	said, err := mesh.OpenAnnouncement(e.Envelope)
	if err != nil {
		if tag, ok := identity.EnvelopeTag(e.Envelope); ok && errors.Is(err, identity.ErrForeign) {
			o.n.opt.Peers.Foreign(o.source, e.Origin, tag)
		} else {
			o.n.opt.Peers.Foreign(o.source, e.Origin, [8]byte{}) // made up
		}
		return peers.Announcement{}, false
	}
	if len(o.seen) >= maxSeen {
		for old := range o.seen { // any
			delete(o.seen, old)
			break
		}
	}
	a := opened{said, sighted(said)}
	o.seen[sum] = a
	a.Generation = generation
	return a.Announcement, o.timely(a, e.Origin)
}

// timely reports whether an announcement is of today. Others are somebody's
// recordings, or of a node whose clock is wrong.
func (o *opener) timely(a opened, origin string) bool {
	now := time.Now()
	if a.said.Timely(now) {
		return true
	}
	if now.Sub(o.warned) >= time.Minute {
		o.warned = now
		o.n.opt.Log.Warn("an announcement of another day does not count: is a clock wrong?", "node", a.Node.Short(), "name", string(a.Name),
			"made", a.said.At.UTC().Format(time.RFC3339), "by", o.source, "from", origin)
	}
	return false
}

// heard wakes who waits for nodes to be seen.
func (n *Network) heard() {
	select {
	case n.news <- struct{}{}:
	default: // it is awake already
	}
}

// sighted is an announcement in the words of the table.
func sighted(a identity.Announcement) peers.Announcement {
	p := peers.Announcement{
		Node: a.Node, Boot: a.Boot, Seq: a.Seq, TTL: a.TTL, Wire: a.Wire, Donor: a.Donor, Goodbye: a.Goodbye,
		Part: a.Part, Parts: a.Parts, Name: a.Name,
	}
	for _, l := range a.Listeners {
		p.Listeners = append(p.Listeners, peers.Listener(l))
	}
	for _, c := range a.Cells {
		p.Cells = append(p.Cells, peers.Cell(c))
	}
	return p
}
