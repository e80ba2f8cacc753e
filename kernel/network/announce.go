package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const (
	beat         = 3 * time.Second        // between two announcements
	beatLife     = 9 * time.Second        // for which one is believed: two may be lost
	beatPause    = 100 * time.Millisecond // after a change, for others to join it
	announceWait = 3 * time.Second        // for a discovery to accept one
	goodbyeWait  = time.Second            // for the last one
	tellWait     = 3 * time.Second        // for others to be told of a new address
	hearWait     = 500 * time.Millisecond // for them to hear it
)

// announce says what this node serves, at every beat and soon after a change,
// until ctx is done. Then it says goodbye.
func (n *Network) announce(ctx context.Context, boot [16]byte) {
	a := announcer{n: n, boot: boot, stop: func() {}}
	defer func() { a.stop() }()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		a.say(ctx, announceWait, false)
		select {
		case <-tick.C:
		case <-n.served:
			pause := time.NewTimer(beatPause)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			a.say(context.WithoutCancel(ctx), goodbyeWait, true)
			return
		}
	}
}

// Changed notes that what this node serves has changed.
func (n *Network) Changed() {
	select {
	case n.served <- struct{}{}:
	default: // noted already
	}
}

// An announcer signs what its kernel says of itself.
type announcer struct {
	n    *Network
	boot [16]byte
	seq  uint64
	stop context.CancelFunc // ends watch
}

// say makes one announcement through all discoveries, side by side.
func (a *announcer) say(ctx context.Context, within time.Duration, goodbye bool) {
	for _, said := range a.n.takeWaiting() {
		defer close(said)
	}
	a.seq++
	g, cells := a.n.opt.Running()
	said := identity.Announcement{
		Boot: a.boot, Seq: a.seq, At: time.Now(), TTL: beatLife, Wire: wire.Major, Name: sdk.CellName(g.Kernel.Node), Goodbye: goodbye,
		Donor: g.Kernel.Donor,
	}
	var moved []<-chan struct{}
	if !goodbye {
		moved = a.n.describe(&said, g, cells)
	}
	envelopes, err := a.n.opt.Member.Mesh().Announce(a.n.opt.Member.Self(), said)
	if err != nil {
		a.n.opt.Log.Error("announce this node", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var wg sync.WaitGroup
	for _, name := range a.n.Discoveries() {
		wg.Go(func() {
			d, err := a.n.opt.Catalog.Discovery(name)
			if err == nil {
				err = d.Announce(ctx, envelopes)
			}
			if err != nil {
				a.n.opt.Log.Warn("announce this node", "discovery", name, "error", err)
			}
		})
	}
	wg.Wait()
	a.watch(moved)
}

// takeWaiting returns who waits for an announcement that has not begun.
func (n *Network) takeWaiting() []chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.waiting
	n.waiting = nil
	return list
}

// tellOthers waits until others have had the time to hear where this node is
// reached now. Nobody answers an announcement, so that is a guess; and to be
// heard by nobody is no mistake.
func (n *Network) tellOthers(ctx context.Context) error {
	said := make(chan struct{})
	if !n.speaks {
		return nil
	}
	n.mu.Lock()
	n.waiting = append(n.waiting, said)
	n.mu.Unlock()
	n.Changed()
	tctx, cancel := context.WithTimeout(ctx, tellWait)
	defer cancel()
	select {
	case <-said:
	case <-tctx.Done():
	}
	heard := time.NewTimer(hearWait)
	defer heard.Stop()
	select {
	case <-heard.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// watch has the next announcement made when a listener is reached elsewhere.
func (a *announcer) watch(moved []<-chan struct{}) {
	a.stop()
	ctx, cancel := context.WithCancel(a.n.life)
	a.stop = cancel
	for _, c := range moved {
		a.n.wg.Go(func() {
			select {
			case <-c:
				a.n.Changed()
			case <-ctx.Done():
			}
		})
	}
}

// Discoveries lists those that are heard, sorted.
func (n *Network) Discoveries() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.watches))
}

// describe lists listeners and the cells that can be called through them. What
// it returns are closed when a listener is reached at other addresses.
func (n *Network) describe(a *identity.Announcement, g *genome.Genome, cells []sdk.CellName) (moved []<-chan struct{}) {
	index := make(map[string]uint8) // by door, the set of its listeners
	for _, d := range n.Doors() {
		addrs, changed := d.Listener.Addrs()
		moved = append(moved, changed)
		for _, addr := range addrs {
			port, err := portOf(addr)
			if err != nil || len(a.Listeners) == identity.MaxListeners {
				continue // it can be dialled by whoever knows its address
			}
			index[d.Addr.String()] |= 1 << len(a.Listeners)
			a.Listeners = append(a.Listeners, identity.Listener{Scheme: addr.Scheme, Port: port, Hint: addr.Hint})
		}
	}
	for _, name := range cells {
		c := identity.AnnouncedCell{Name: name, Replicas: uint16(n.opt.Golgi.Served(name))}
		for _, addr := range g.Listeners(g.Cells[name]) {
			c.Listeners |= index[addr.String()]
		}
		if c.Listeners != 0 && c.Replicas > 0 {
			a.Cells = append(a.Cells, c)
		}
	}
	return moved
}

func portOf(addr sdk.Addr) (uint16, error) {
	_, text, err := net.SplitHostPort(addr.Host)
	if err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q", text)
	}
	return uint16(port), nil
}
