package peers

import (
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A source is a discovery plugin, by the name of its instance.
type source struct {
	down   bool
	synced bool
	since  time.Time // when it went up or down
	last   time.Time // the last event
}

// A Source tells how a discovery does.
type Source struct {
	Name   string
	Up     bool
	Synced bool          // it has told all it knew when it came up
	Since  time.Duration // how long it is up or down
	Last   time.Duration // age of its last event; negative: none yet
	Nodes  int           // nodes that it sees
}

// SourceUp says that a discovery works. Nodes that only discoveries knew which
// were down have one time to live, from now, in which to be heard.
func (t *Table) SourceUp(name string) {
	now := t.lock()
	defer t.mu.Unlock()
	s := t.sources[name]
	if s == nil {
		t.add(name, now)
		return
	}
	if !s.down {
		return
	}
	held := t.heldBy(name)
	s.down, s.synced, s.since = false, false, now
	t.release(held, now)
}

// SourceDown says that a discovery does not work: its silence says nothing.
func (t *Table) SourceDown(name string) {
	now := t.lock()
	defer t.mu.Unlock()
	if s := t.sources[name]; s == nil {
		if t.add(name, now) {
			t.sources[name].down = true
		}
	} else if !s.down {
		s.down, s.since = true, now
	}
}

// SourceSynced says that a discovery has told all that it knew when it came up.
func (t *Table) SourceSynced(name string) {
	now := t.lock()
	defer t.mu.Unlock()
	if t.heardFrom(name, now) {
		t.sources[name].synced = true
	}
}

// SourceRemoved says that a discovery is not used any more. What only it knew
// has one time to live in which another can hear it. Its events must have
// ended: a later one makes it a source again.
func (t *Table) SourceRemoved(name string) {
	now := t.lock()
	defer t.mu.Unlock()
	held := t.heldBy(name)
	delete(t.sources, name)
	t.release(held, now)
}

// heldBy returns the nodes that this source knows and that are held because
// all who know them are down.
func (t *Table) heldBy(name string) []*node {
	var held []*node
	for _, n := range t.nodes {
		if n.sees(name) && t.unheard(n) {
			held = append(held, n)
		}
	}
	return held
}

func (t *Table) release(held []*node, now time.Time) {
	for _, n := range held {
		if t.unheard(n) {
			continue
		}
		for i := range n.parts {
			if p := &n.parts[i]; !p.arrived.IsZero() && p.until.Before(now.Add(n.ttl)) {
				p.until = now.Add(n.ttl)
			}
		}
		n.forget = now.Add(Keep)
		t.settle(n, now)
	}
}

// Gone says that a discovery which knows leases does not see a node any more.
// Without a node it is about all that it saw at exactly this origin.
func (t *Table) Gone(name, origin string, id sdk.NodeID) {
	at := parseOrigin(origin)
	now := t.lock()
	defer t.mu.Unlock()
	if !t.heardFrom(name, now) {
		return
	}
	if id != "" {
		if n := t.nodes[id]; n != nil {
			n.unsee(func(s sighting) bool { return s.source == name && s.at.Addr() == at.at.Addr() })
			t.settle(n, now)
		}
		return
	}
	for _, n := range t.nodes {
		if n.unsee(func(s sighting) bool { return s.source == name && s.at == at.at }) {
			t.settle(n, now)
		}
	}
}

// unsee forgets sightings and reports whether there were some.
func (n *node) unsee(is func(sighting) bool) bool {
	some := false
	for i := range n.origins {
		o := &n.origins[i]
		was := len(o.sight)
		o.sight = slices.DeleteFunc(o.sight, is)
		some = some || len(o.sight) < was
	}
	return some
}

// sees reports whether a source has a sighting of n.
func (n *node) sees(source string) bool {
	for _, o := range n.origins {
		for _, s := range o.sight {
			if s.source == source {
				return true
			}
		}
	}
	return false
}

// unheard reports whether all sources that know n are down, so that silence
// says nothing. A source knows n if it saw it about as late as anybody did.
func (t *Table) unheard(n *node) bool {
	known := false
	for _, o := range n.origins {
		for _, s := range o.sight {
			if n.heard.Sub(s.seen) >= n.ttl {
				continue
			}
			if src := t.sources[s.source]; src == nil || !src.down {
				return false
			}
			known = true
		}
	}
	return known
}

// add makes a source, which is up, if there is room.
func (t *Table) add(name string, now time.Time) bool {
	if len(t.sources) >= MaxSources {
		return false
	}
	t.sources[name] = &source{since: now}
	return true
}

// heardFrom notes an event and reports whether the source is one of ours.
func (t *Table) heardFrom(name string, now time.Time) bool {
	if t.sources[name] == nil && !t.add(name, now) {
		return false
	}
	t.sources[name].last = now
	return true
}

// Sources tells how the discoveries do, by name.
func (t *Table) Sources() []Source {
	now := t.lock()
	defer t.mu.Unlock()
	list := make([]Source, 0, len(t.sources))
	for name, s := range t.sources {
		row := Source{Name: name, Up: !s.down, Synced: s.synced, Since: now.Sub(s.since), Last: -1}
		if !s.last.IsZero() {
			row.Last = now.Sub(s.last)
		}
		for _, n := range t.nodes {
			if n.sees(name) {
				row.Nodes++
			}
		}
		list = append(list, row)
	}
	slices.SortFunc(list, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	return list
}
