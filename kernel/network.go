package kernel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

// A door is a listener by which other machines come in.
type door struct {
	addr sdk.Addr // as the genome says it: its name
	ln   net.Listener
}

// A network is what joins this kernel with others: listeners, discoveries,
// what is announced. Without a cell that needs it, all of it is empty.
type network struct {
	mu      sync.Mutex // guards all below
	doors   []door
	watches map[string]context.CancelFunc // by the instance of the discovery
}

// openPeers makes the table of other nodes.
func (k *Kernel) openPeers() {
	k.peers = peers.New(peers.Options{
		Self: k.member.self.Node(), Wire: wireMajor, Transports: k.genome.RemoteTransports(),
	})
	k.peers.Deny(k.member.denied.Load().List())
}

// joinNetwork opens the listeners and discoveries that the genome asks for,
// once their plugins are ready. What it began ends with serving.
func (k *Kernel) joinNetwork(ctx, serving context.Context, wg *sync.WaitGroup) error {
	g, wanted := k.genomeNow(), k.wantedCells()
	if !g.NeedsNetwork(wanted) {
		return nil
	}
	for _, addr := range doorsOf(g, wanted) {
		if err := k.openDoor(ctx, serving, addr, wg); err != nil {
			return err
		}
	}
	wg.Go(func() { k.peers.Watch(serving, func(cells []sdk.CellName) { k.golgi.PeersChanged(cells...) }) })
	for _, ref := range g.Selected() {
		if ref.Kind == sdk.KindDiscovery {
			if err := k.openDiscovery(serving, ref.Instance, wg); err != nil {
				return err
			}
		}
	}
	if len(g.Golgi.Discovery) == 0 {
		return nil
	}
	boot, err := k.member.store.Boot(sdk.CellName(g.Kernel.Node))
	if err != nil {
		return err
	}
	wg.Go(func() { k.announce(serving, boot) })
	return nil
}

func (k *Kernel) genomeNow() *genome.Genome {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.genome
}

// doorsOf lists where cells listen, each address once.
func doorsOf(g *genome.Genome, cells []sdk.CellName) []sdk.Addr {
	var list []sdk.Addr
	for _, name := range cells {
		for _, addr := range g.Listeners(g.Cells[name]) {
			if !slices.ContainsFunc(list, func(a sdk.Addr) bool { return a.String() == addr.String() }) {
				list = append(list, addr)
			}
		}
	}
	return list
}

// openDoor listens at an address.
func (k *Kernel) openDoor(ctx, serving context.Context, addr sdk.Addr, wg *sync.WaitGroup) error {
	t, err := k.catalog.Transport(addr.Scheme)
	if err != nil {
		return err
	}
	ln, err := t.Listen(ctx, addr)
	if err != nil {
		return err
	}
	k.network.mu.Lock()
	k.network.doors = append(k.network.doors, door{addr, ln})
	k.network.mu.Unlock()
	wg.Go(func() {
		if err := k.golgi.ServeLinks(ln, golgi.Door{Name: addr.String()}); err != nil {
			k.log.Error("listener for links ended", "address", addr.String(), "error", err)
		}
	})
	wg.Go(func() { <-serving.Done(); ln.Close() })
	return nil
}

// openDoors returns the listeners that are open.
func (k *Kernel) openDoors() []door {
	k.network.mu.Lock()
	defer k.network.mu.Unlock()
	return slices.Clone(k.network.doors)
}

// openDiscovery hears what a discovery sees until serving ends.
func (k *Kernel) openDiscovery(serving context.Context, name string, wg *sync.WaitGroup) error {
	d, err := k.catalog.Discovery(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(serving)
	k.network.mu.Lock()
	if k.network.watches == nil {
		k.network.watches = make(map[string]context.CancelFunc)
	}
	k.network.watches[name] = cancel
	k.network.mu.Unlock()
	k.peers.SourceUp(name)
	wg.Go(func() {
		defer cancel()
		o := opener{k: k, source: name, seen: make(map[[32]byte]peers.Announcement)}
		if err := d.Watch(ctx, o.saw); err != nil {
			k.note(fmt.Sprintf("discovery %s sees nothing any more: %v", name, err))
			k.peers.SourceDown(name)
		}
	})
	return nil
}

// discoveryChanged tells the table whether a discovery works.
func (k *Kernel) discoveryChanged(s catalog.Status) {
	if s.State == catalog.StateReady {
		k.peers.SourceUp(s.Name)
	} else {
		k.peers.SourceDown(s.Name)
	}
}

// maxSeen is how many envelopes an opener remembers.
const maxSeen = 4096

// An opener opens the envelopes of one discovery. What it has opened it knows
// again, so that repeating costs less than signing.
type opener struct {
	k      *Kernel
	source string
	seen   map[[32]byte]peers.Announcement
}

// saw takes one event; a discovery calls it one at a time.
func (o *opener) saw(e sdk.Event) {
	switch e.Kind {
	case sdk.EventSynced:
		o.k.peers.SourceSynced(o.source)
	case sdk.EventSeen:
		if a, ok := o.open(e); ok {
			v := o.k.peers.See(o.source, e.Origin, a)
			if v == peers.VerdictNew || v == peers.VerdictLeft {
				o.k.log.Info("peer "+v.String(), "node", a.Node.Short(), "name", string(a.Name), "by", o.source, "from", e.Origin)
			}
		}
	case sdk.EventGone:
		if a, ok := o.open(e); ok {
			o.k.peers.Gone(o.source, e.Origin, a.Node)
		}
	}
}

func (o *opener) open(e sdk.Event) (peers.Announcement, bool) {
	sum := sha256.Sum256(e.Envelope)
	if a, ok := o.seen[sum]; ok {
		return a, true
	}
	said, err := o.k.member.mesh.Load().OpenAnnouncement(e.Envelope)
	if errors.Is(err, identity.ErrForeign) || errors.Is(err, identity.ErrAnnouncement) {
		if tag, ok := identity.EnvelopeTag(e.Envelope); ok {
			o.k.peers.Foreign(o.source, e.Origin, tag)
		}
		return peers.Announcement{}, false
	}
	if err != nil {
		o.k.log.Log(context.Background(), slog.LevelWarn, "open announcement", "from", e.Origin, "error", err)
		return peers.Announcement{}, false
	}
	if len(o.seen) >= maxSeen {
		for old := range o.seen { // any
			delete(o.seen, old)
			break
		}
	}
	a := sighted(said)
	o.seen[sum] = a
	return a, true
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
