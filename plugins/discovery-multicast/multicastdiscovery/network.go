package multicastdiscovery

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// How often the network is looked at.
const (
	scanPause = 100 * time.Millisecond // after a scan: a burst of changes is one
	minRetry  = 200 * time.Millisecond // after something went wrong, doubling
	maxRetry  = 30 * time.Second
)

// Topics of troubles that are not one place's.
const (
	everything = "all interfaces"
	tooMany    = "other interfaces"
)

// A network keeps us a member at all places, whatever happens to the
// interfaces. Nothing that goes wrong here is an error of the plugin: without
// a network it waits for one.
type network struct {
	config Config
	log    *slog.Logger
	links  links
	heard  func(m *member, from netip.AddrPort, b []byte)
	joined func(m *member)
	left   func(m *member)

	wake    chan struct{} // of capacity 1
	readers sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	removed map[int]bool
	broken  map[*member]error

	// Only run uses these.
	members  map[place]*member
	troubles map[any]string // what was said about a place or a topic, to say it once
	reach    *bool          // whether there is a network, nil before the first scan
}

func newNetwork(config Config, log *slog.Logger, l links) *network {
	return &network{
		config: config, log: log, links: l, wake: make(chan struct{}, 1),
		removed: map[int]bool{}, broken: map[*member]error{}, members: map[place]*member{}, troubles: map[any]string{},
	}
}

// run follows the network until ctx is done, then leaves.
func (n *network) run(ctx context.Context) {
	var watching sync.WaitGroup
	watching.Go(func() { n.watch(ctx) })
	defer func() {
		watching.Wait()
		for _, m := range n.members {
			n.drop(m)
		}
		n.readers.Wait()
	}()
	retry := time.NewTimer(0) // the first scan does not wait for the subscription
	defer retry.Stop()
	wait := minRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-retry.C:
		}
		retry.Stop()
		if n.scan() {
			wait = minRetry
		} else {
			retry.Reset(wait)
			wait = min(2*wait, maxRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(scanPause):
		}
	}
}

// watch subscribes to changes, again and again: after an overflow everything
// is looked at anew.
func (n *network) watch(ctx context.Context) {
	wait := minRetry
	for {
		begun := time.Now()
		err := n.links.watch(ctx, n.changed)
		if ctx.Err() != nil {
			return
		}
		n.log.Info("changes of the network may have been missed: looking again", "cause", err)
		if time.Since(begun) > maxRetry {
			wait = minRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetry)
		n.changed(0) // if subscribing goes on failing this is what is left
	}
}

func (n *network) changed(removed int) {
	if removed != 0 {
		n.mu.Lock()
		n.removed[removed] = true
		n.mu.Unlock()
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// scan joins and leaves. It reports whether all is as it should be; else it
// wants to be called again.
func (n *network) scan() bool {
	n.mu.Lock()
	removed, broken := n.removed, n.broken
	n.removed, n.broken = map[int]bool{}, map[*member]error{}
	n.mu.Unlock()
	list, err := n.links.scan()
	if err != nil {
		n.trouble(everything, fmt.Errorf("list interfaces: %w", err))
		n.mu.Lock() // for the next time
		maps.Copy(n.removed, removed)
		maps.Copy(n.broken, broken)
		n.mu.Unlock()
		return false
	}
	n.trouble(everything, nil)
	want := n.wanted(list)
	for p, m := range n.members {
		switch _, ok := want[p]; {
		case broken[m] != nil:
			n.trouble(p, broken[m])
			n.drop(m)
			delete(want, p) // not at once: it may break again
		case !ok, removed[p.index]: // an index can be used again before we look
			n.drop(m)
		}
	}
	ok := len(broken) == 0
	for p, group := range want {
		if n.members[p] == nil {
			ok = n.join(p, group) && ok
		}
	}
	maps.DeleteFunc(n.troubles, func(what any, _ string) bool {
		p, isPlace := what.(place)
		return isPlace && want[p] == netip.AddrPort{} && len(broken) == 0
	})
	n.judge()
	return ok
}

// wanted lists the places to be at and the group at each.
func (n *network) wanted(list []iface) map[place]netip.AddrPort {
	slices.SortFunc(list, func(a, b iface) int { return cmp.Compare(a.index, b.index) })
	four, six := n.config.groups()
	want := map[place]netip.AddrPort{}
	count := 0
	for _, i := range list {
		if !i.up || !i.multicast || i.port || !n.config.wants(i.name) {
			continue
		}
		if count++; count > maxInterfaces {
			n.trouble(tooMany, fmt.Errorf("more than %d interfaces: name those to use in \"interfaces\"", maxInterfaces))
			return want
		}
		if i.four && four.IsValid() {
			want[place{i.index, i.name, false, i.loopback}] = four
		}
		if i.six && six.IsValid() {
			want[place{i.index, i.name, true, i.loopback}] = six
		}
	}
	n.trouble(tooMany, nil)
	return want
}

func (n *network) join(p place, group netip.AddrPort) bool {
	m, err := join(p, group)
	n.trouble(p, err)
	if err != nil {
		return false
	}
	n.members[p] = m
	n.log.Debug("joined", "interface", p.name, "group", group)
	n.readers.Go(func() {
		err := m.read(func(from netip.AddrPort, b []byte) { n.heard(m, from, b) })
		if err != nil {
			n.mu.Lock()
			n.broken[m] = err
			n.mu.Unlock()
			n.changed(0)
		}
	})
	n.joined(m)
	return true
}

func (n *network) drop(m *member) {
	n.left(m)
	m.leave()
	delete(n.members, m.place)
	n.log.Debug("left", "interface", m.name, "group", m.group)
}

// judge says when there is no network, and when there is one again.
func (n *network) judge() {
	reach := false
	for p := range n.members {
		reach = reach || !p.loopback || len(n.config.Interfaces) > 0
	}
	was := n.reach
	n.reach = &reach
	switch {
	case was != nil && *was == reach:
	case !reach && len(n.members) > 0:
		n.log.Warn("no network that can multicast: only nodes of this machine are found until there is one")
	case !reach:
		n.log.Warn("no interface that can multicast: no node is found until there is one")
	case was != nil:
		n.log.Info("there is a network that can multicast")
	}
}

// trouble says what is wrong with what, once, and again when it is something
// else; nil if nothing is.
func (n *network) trouble(what any, err error) {
	if err == nil {
		delete(n.troubles, what)
		return
	}
	if n.troubles[what] != err.Error() {
		n.troubles[what] = err.Error()
		n.log.Warn("a part of the network is left out; tried again", "part", what, "error", err)
	}
}
