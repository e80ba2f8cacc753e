package kernel

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const (
	wireMajor = wire.Major

	beat         = 3 * time.Second        // between two announcements
	beatLife     = 9 * time.Second        // for which one is believed: two may be lost
	beatPause    = 100 * time.Millisecond // after a change, for others to join it
	announceWait = 2 * time.Second        // for a discovery to accept one
	goodbyeWait  = time.Second            // for the last one
)

// announce says what this node serves, at every beat and soon after a change,
// until ctx is done. Then it says goodbye.
func (k *Kernel) announce(ctx context.Context, boot [16]byte) {
	a := announcer{k: k, boot: boot}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		a.say(ctx, announceWait, false)
		select {
		case <-tick.C:
		case <-k.served:
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

// serves notes that what this node serves has changed.
func (k *Kernel) serves() {
	select {
	case k.served <- struct{}{}:
	default: // noted already
	}
}

// An announcer signs what its kernel says of itself.
type announcer struct {
	k    *Kernel
	boot [16]byte
	seq  uint64
}

// say makes one announcement through all discoveries, side by side.
func (a *announcer) say(ctx context.Context, within time.Duration, goodbye bool) {
	a.seq++
	said := identity.Announcement{
		Boot: a.boot, Seq: a.seq, TTL: beatLife, Wire: wireMajor, Name: sdk.CellName(a.k.genomeNow().Kernel.Node), Goodbye: goodbye,
	}
	if !goodbye {
		a.k.describe(&said)
	}
	envelopes, err := a.k.member.mesh.Load().Announce(a.k.member.self, said)
	if err != nil {
		a.k.log.Error("announce this node", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var wg sync.WaitGroup
	for _, name := range a.k.discoveries() {
		wg.Go(func() {
			d, err := a.k.catalog.Discovery(name)
			if err == nil {
				err = d.Announce(ctx, envelopes)
			}
			if err != nil {
				a.k.log.Warn("announce this node", "discovery", name, "error", err)
			}
		})
	}
	wg.Wait()
}

// discoveries lists those that are in use.
func (k *Kernel) discoveries() []string {
	k.network.mu.Lock()
	defer k.network.mu.Unlock()
	var list []string
	for name := range k.network.watches {
		list = append(list, name)
	}
	return list
}

// describe lists listeners and the cells that can be called through them.
func (k *Kernel) describe(a *identity.Announcement) {
	g := k.genomeNow()
	index := make(map[string]int)
	for _, d := range k.openDoors() {
		if len(a.Listeners) == identity.MaxListeners {
			break // config allows no more
		}
		port, err := portOf(d.ln)
		if err != nil {
			continue // it can be dialled by whoever knows its address
		}
		l := identity.Listener{Scheme: d.addr.Scheme, Port: port}
		if h, ok := d.ln.(sdk.Hinter); ok {
			l.Hint = h.Hint()
		}
		index[d.addr.String()] = len(a.Listeners)
		a.Listeners = append(a.Listeners, l)
	}
	for _, name := range k.wantedCells() {
		c := identity.AnnouncedCell{Name: name, Replicas: uint16(k.golgi.Served(name))}
		for _, addr := range g.Listeners(g.Cells[name]) {
			if i, ok := index[addr.String()]; ok {
				c.Listeners |= 1 << i
			}
		}
		if c.Listeners != 0 && c.Replicas > 0 {
			a.Cells = append(a.Cells, c)
		}
	}
}

func portOf(ln net.Listener) (uint16, error) {
	_, text, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q", text)
	}
	return uint16(port), nil
}
