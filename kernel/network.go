package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// A network is what joins this kernel with others: plugins that lead off the
// machine, listeners, discoveries, and what is announced. Without a cell that
// needs it, all of it is empty.
type network struct {
	life context.Context // of what is opened; set by Run before anything is
	wg   *sync.WaitGroup // the same

	turn    sync.Mutex              // held by who changes it; guards plugins and speaks
	plugins map[string]catalog.Spec // that run, by section: "discovery-multicast"
	speaks  bool                    // this node is announced

	mu      sync.Mutex // guards all below
	doors   []door
	watches map[string]*watch // by the instance of the discovery
	waiting []chan struct{}   // closed when the next announcement has been made
}

// A door is a listener by which other machines come in.
type door struct {
	addr sdk.Addr // as the genome says it: its name
	ln   catalog.Listener
}

// A watch is a discovery that is heard.
type watch struct {
	stop context.CancelFunc
	done chan struct{} // closed when no event of it comes any more
}

// begin says how long what is opened lives, and who waits for its end.
func (n *network) begin(life context.Context, wg *sync.WaitGroup) {
	n.life, n.wg = life, wg
	n.plugins, n.watches = make(map[string]catalog.Spec), make(map[string]*watch)
}

// started notes plugins that run already.
func (n *network) started(refs []genome.PluginRef) {
	n.turn.Lock()
	defer n.turn.Unlock()
	for _, r := range refs {
		n.plugins[r.Key()] = specOf(r)
	}
}

// openPeers makes the table of other nodes.
func (k *Kernel) openPeers() {
	k.peers = peers.New(peers.Options{
		Self: k.Self().Node(), Wire: wireMajor, Transports: k.genome.RemoteTransports(),
	})
	k.peers.Deny(k.DeniedNodes())
}

// specOf is how the catalog runs a plugin.
func specOf(r genome.PluginRef) catalog.Spec {
	return catalog.Spec{Kind: plugin.Kind(r.Kind), Name: r.Instance, Use: r.Use, SHA256: r.SHA256, Config: r.Config}
}

// networked lists the plugins of g that lead off the machine, if any of these
// cells needs them.
func networked(g *genome.Genome, cells []sdk.CellName) []genome.PluginRef {
	if !g.NeedsNetwork(cells) {
		return nil
	}
	return slices.DeleteFunc(g.Selected(), func(r genome.PluginRef) bool { return !r.Networked() })
}

// syncNetwork makes plugins, listeners and discoveries those of g, in an order
// in which no other node is lost: what is new comes first, what has gone ends
// last. force ends a discovery although nodes in use are not seen otherwise.
func (k *Kernel) syncNetwork(ctx context.Context, g *genome.Genome, cells []sdk.CellName, force bool) error {
	n := &k.network
	n.turn.Lock()
	defer n.turn.Unlock()
	refs := networked(g, cells)
	for _, r := range refs {
		if err := k.runPlugin(ctx, r, force); err != nil {
			return err
		}
	}
	addrs := doorsOf(g, cells)
	for _, addr := range addrs {
		if err := k.openDoor(ctx, addr); err != nil {
			return err
		}
	}
	for _, r := range refs {
		if r.Kind == sdk.KindDiscovery {
			if err := k.openDiscovery(r.Instance); err != nil {
				return err
			}
		}
	}
	if len(refs) > 0 && !n.speaks {
		if err := k.speak(g); err != nil {
			return err
		}
	}
	k.serves()
	k.closeDoors(addrs)
	return k.endPlugins(ctx, refs, force)
}

// runPlugin starts a plugin that does not run yet, or not as it should.
func (k *Kernel) runPlugin(ctx context.Context, r genome.PluginRef, force bool) error {
	spec := specOf(r)
	old, runs := k.network.plugins[r.Key()]
	switch {
	case !runs:
		if err := k.catalog.Add(ctx, spec); err != nil {
			return err
		}
	case !reflect.DeepEqual(old, spec):
		if err := k.replacePlugin(ctx, spec, force); err != nil {
			return err
		}
	}
	k.network.plugins[r.Key()] = spec
	return nil
}

// endPlugins ends those that are not wanted any more.
func (k *Kernel) endPlugins(ctx context.Context, wanted []genome.PluginRef, force bool) error {
	var surplus []string
	for key := range k.network.plugins {
		if !slices.ContainsFunc(wanted, func(r genome.PluginRef) bool { return r.Key() == key }) {
			surplus = append(surplus, key)
		}
	}
	slices.Sort(surplus)
	discoveries := slices.DeleteFunc(slices.Clone(wanted), func(r genome.PluginRef) bool { return r.Kind != sdk.KindDiscovery })
	for _, key := range surplus {
		spec := k.network.plugins[key]
		if spec.Kind == plugin.KindDiscovery {
			if len(discoveries) > 0 && !force {
				if err := k.awaitCover(ctx, spec.Name, discoveries); err != nil {
					return err
				}
			}
			k.closeDiscovery(spec.Name)
		}
		if err := k.catalog.Remove(ctx, spec.Kind, spec.Name); err != nil {
			return err
		}
		delete(k.network.plugins, key)
	}
	return nil
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

// openDoor listens at an address, unless it does already.
func (k *Kernel) openDoor(ctx context.Context, addr sdk.Addr) error {
	n := &k.network
	if slices.ContainsFunc(k.openDoors(), func(d door) bool { return d.addr.String() == addr.String() }) {
		return nil
	}
	t, err := k.catalog.Transport(addr.Scheme)
	if err != nil {
		return err
	}
	made, err := t.Listen(ctx, addr)
	if err != nil {
		return err
	}
	ln := made.(catalog.Listener)
	n.mu.Lock()
	n.doors = append(n.doors, door{addr, ln})
	n.mu.Unlock()
	stop := context.AfterFunc(n.life, func() { ln.Close() })
	n.wg.Go(func() {
		defer stop()
		if err := k.golgi.ServeLinks(ln, golgi.Door{Name: addr.String()}); err != nil {
			k.log.Error("listener for links ended", "address", addr.String(), "error", err)
		}
	})
	return nil
}

// closeDoors closes listeners that are not wanted any more.
func (k *Kernel) closeDoors(wanted []sdk.Addr) {
	n := &k.network
	n.mu.Lock()
	var surplus []net.Listener
	n.doors = slices.DeleteFunc(n.doors, func(d door) bool {
		gone := !slices.ContainsFunc(wanted, func(a sdk.Addr) bool { return a.String() == d.addr.String() })
		if gone {
			surplus = append(surplus, d.ln)
		}
		return gone
	})
	n.mu.Unlock()
	for _, ln := range surplus {
		ln.Close()
	}
}

// openDoors returns the listeners that are open.
func (k *Kernel) openDoors() []door {
	k.network.mu.Lock()
	defer k.network.mu.Unlock()
	return slices.Clone(k.network.doors)
}

// openDiscovery hears what a discovery sees, unless it is heard already.
func (k *Kernel) openDiscovery(name string) error {
	n := &k.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watches[name] != nil {
		return nil
	}
	d, err := k.catalog.Discovery(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(n.life)
	w := &watch{cancel, make(chan struct{})}
	n.watches[name] = w
	k.peers.SourceUp(name)
	n.wg.Go(func() {
		defer close(w.done)
		defer cancel()
		k.hear(ctx, name, d)
	})
	return nil
}

// hear takes what a discovery sees, until ctx is done or it is removed. One
// that gives up is asked again.
func (k *Kernel) hear(ctx context.Context, name string, d sdk.Discovery) {
	o := newOpener(k, name)
	for {
		err := d.Watch(ctx, o.saw)
		if ctx.Err() != nil || errors.Is(err, catalog.ErrRemoved) {
			return
		}
		if err != nil {
			k.note(fmt.Sprintf("discovery %s sees nothing for now: %v", name, err))
			k.peers.SourceDown(name)
		}
		pause := time.NewTimer(hearPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		k.peers.SourceUp(name)
	}
}

// hearPause is how long a discovery that gave up is left alone.
const hearPause = time.Second

// closeDiscovery forgets what a discovery has seen.
func (k *Kernel) closeDiscovery(name string) {
	n := &k.network
	n.mu.Lock()
	w := n.watches[name]
	delete(n.watches, name)
	n.mu.Unlock()
	if w == nil {
		return
	}
	w.stop()
	<-w.done
	k.peers.SourceRemoved(name)
}

// discoveryChanged tells the table whether a discovery works.
func (k *Kernel) discoveryChanged(s catalog.Status) {
	k.network.mu.Lock()
	heard := k.network.watches[s.Name] != nil
	k.network.mu.Unlock()
	switch {
	case !heard:
	case s.State == catalog.StateReady:
		k.peers.SourceUp(s.Name)
	default:
		k.peers.SourceDown(s.Name)
	}
}

// speak begins to announce this node.
func (k *Kernel) speak(g *genome.Genome) error {
	boot, err := k.Boot()
	if err != nil {
		return err
	}
	n := &k.network
	n.speaks = true
	n.wg.Go(func() {
		k.peers.Watch(n.life, func(cells []sdk.CellName) {
			k.golgi.PeersChanged(cells...)
			k.heard() // of silence, too
		})
	})
	n.wg.Go(func() { k.announce(n.life, boot) })
	return nil
}
