// Package network joins this kernel with others: it runs the plugins that lead
// off the machine, opens listeners, hears discoveries, and announces what this
// node serves. Without a cell that needs it, all of it is empty.
//
// network.go makes what runs that of a genome, in an order in which no other
// node is lost; cover.go is the proof that none is; announce.go speaks and
// opener.go hears.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Options are what a network is made of. All are required.
type Options struct {
	Catalog *catalog.Catalog // runs the plugins
	Golgi   *golgi.Golgi     // takes the links
	Peers   *peers.Table     // learns who is seen
	Member  Member           // signs and opens announcements
	// Running returns what is announced: a genome, and the cells of it that run.
	Running func() (*genome.Genome, []sdk.CellName)
	Log     *slog.Logger
	Note    func(text string) // tells people something
}

// A Member is who this node is in its mesh.
type Member interface {
	Self() *identity.Identity
	Mesh() *identity.Mesh
	Boot() ([16]byte, error) // of this life of the kernel
}

// A Network is what joins this kernel with others. Make it with [New]; Begin
// comes before all that opens something.
type Network struct {
	opt    Options
	served chan struct{} // capacity 1: what this node serves has changed
	news   chan struct{} // capacity 1: a discovery has seen something

	life context.Context // of what is opened
	wg   *sync.WaitGroup // waited for by whoever ends life

	turn    sync.Mutex              // held by who changes it; guards plugins and speaks
	plugins map[string]catalog.Spec // that run, by section: "discovery-multicast"
	speaks  bool                    // this node is announced

	mu      sync.Mutex // guards all below
	doors   []Door
	watches map[string]*watch // by the instance of the discovery
	waiting []chan struct{}   // closed when the next announcement has been made
}

// New makes a network. Nothing is opened.
func New(opt Options) *Network {
	return &Network{
		opt: opt, served: make(chan struct{}, 1), news: make(chan struct{}, 1),
		plugins: make(map[string]catalog.Spec), watches: make(map[string]*watch),
	}
}

// A Door is a listener by which other machines come in.
type Door struct {
	Addr     sdk.Addr // as the genome says it: its name
	Listener catalog.Listener
}

// String is where a door is, with the port that it got.
func (d Door) String() string {
	return sdk.Addr{Scheme: d.Addr.Scheme, Host: d.Listener.Addr().String()}.String()
}

// A watch is a discovery that is heard.
type watch struct {
	stop context.CancelFunc
	done chan struct{} // closed when no event of it comes any more
}

// Begin says how long what is opened lives, and who waits for its end.
func (n *Network) Begin(life context.Context, wg *sync.WaitGroup) { n.life, n.wg = life, wg }

// Started notes plugins that run already.
func (n *Network) Started(refs []genome.PluginRef) {
	n.turn.Lock()
	defer n.turn.Unlock()
	for _, r := range refs {
		n.plugins[r.Key()] = SpecOf(r)
	}
}

// SpecOf is how the catalog runs a plugin.
func SpecOf(r genome.PluginRef) catalog.Spec {
	return catalog.Spec{Kind: plugin.Kind(r.Kind), Name: r.Instance, Use: r.Use, SHA256: r.SHA256, Config: r.Config}
}

// Plugins lists the plugins of g that lead off the machine, if any of these
// cells needs them.
func Plugins(g *genome.Genome, cells []sdk.CellName) []genome.PluginRef {
	if !g.NeedsNetwork(cells) {
		return nil
	}
	return slices.DeleteFunc(g.Selected(), func(r genome.PluginRef) bool { return !r.Networked() })
}

// Sync makes plugins, listeners and discoveries those of g, in an order
// in which no other node is lost: what is new comes first, what has gone ends
// last. force ends a discovery although nodes in use are not seen otherwise.
func (n *Network) Sync(ctx context.Context, g *genome.Genome, cells []sdk.CellName, force bool) error {
	n.turn.Lock()
	defer n.turn.Unlock()
	refs := Plugins(g, cells)
	for _, r := range refs {
		if err := n.runPlugin(ctx, r, force); err != nil {
			return err
		}
	}
	addrs := doorsOf(g, cells)
	for _, addr := range addrs {
		if err := n.openDoor(ctx, addr); err != nil {
			return err
		}
	}
	for _, r := range refs {
		if r.Kind == sdk.KindDiscovery {
			if err := n.openDiscovery(r.Instance); err != nil {
				return err
			}
		}
	}
	if len(refs) > 0 && !n.speaks {
		if err := n.speak(); err != nil {
			return err
		}
	}
	n.Changed()
	n.closeDoors(addrs)
	return n.endPlugins(ctx, refs, force)
}

// runPlugin starts a plugin that does not run yet, or not as it should.
func (n *Network) runPlugin(ctx context.Context, r genome.PluginRef, force bool) error {
	spec := SpecOf(r)
	old, runs := n.plugins[r.Key()]
	switch {
	case !runs:
		if err := n.opt.Catalog.Add(ctx, spec); err != nil {
			return err
		}
	case !reflect.DeepEqual(old, spec):
		if err := n.replacePlugin(ctx, spec, force); err != nil {
			return err
		}
	}
	n.plugins[r.Key()] = spec
	return nil
}

// endPlugins ends those that are not wanted any more.
func (n *Network) endPlugins(ctx context.Context, wanted []genome.PluginRef, force bool) error {
	var surplus []string
	for key := range n.plugins {
		if !slices.ContainsFunc(wanted, func(r genome.PluginRef) bool { return r.Key() == key }) {
			surplus = append(surplus, key)
		}
	}
	slices.Sort(surplus)
	discoveries := slices.DeleteFunc(slices.Clone(wanted), func(r genome.PluginRef) bool { return r.Kind != sdk.KindDiscovery })
	for _, key := range surplus {
		spec := n.plugins[key]
		if spec.Kind == plugin.KindDiscovery {
			if len(discoveries) > 0 && !force {
				if err := n.awaitCover(ctx, spec.Name, discoveries); err != nil {
					return err
				}
			}
			n.closeDiscovery(spec.Name)
		}
		if err := n.opt.Catalog.Remove(ctx, spec.Kind, spec.Name); err != nil {
			return err
		}
		delete(n.plugins, key)
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
func (n *Network) openDoor(ctx context.Context, addr sdk.Addr) error {
	if slices.ContainsFunc(n.Doors(), func(d Door) bool { return d.Addr.String() == addr.String() }) {
		return nil
	}
	t, err := n.opt.Catalog.Transport(addr.Scheme)
	if err != nil {
		return err
	}
	made, err := t.Listen(ctx, addr)
	if err != nil {
		return err
	}
	ln := made.(catalog.Listener)
	n.mu.Lock()
	n.doors = append(n.doors, Door{addr, ln})
	n.mu.Unlock()
	stop := context.AfterFunc(n.life, func() { ln.Close() })
	n.wg.Go(func() {
		defer stop()
		if err := n.opt.Golgi.ServeLinks(ln, golgi.Door{Name: addr.String()}); err != nil {
			n.opt.Log.Error("listener for links ended", "address", addr.String(), "error", err)
		}
	})
	return nil
}

// closeDoors closes listeners that are not wanted any more.
func (n *Network) closeDoors(wanted []sdk.Addr) {
	n.mu.Lock()
	var surplus []net.Listener
	n.doors = slices.DeleteFunc(n.doors, func(d Door) bool {
		gone := !slices.ContainsFunc(wanted, func(a sdk.Addr) bool { return a.String() == d.Addr.String() })
		if gone {
			surplus = append(surplus, d.Listener)
		}
		return gone
	})
	n.mu.Unlock()
	for _, ln := range surplus {
		ln.Close()
	}
}

// Doors returns the listeners that are open.
func (n *Network) Doors() []Door {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.doors)
}

// openDiscovery hears what a discovery sees, unless it is heard already.
func (n *Network) openDiscovery(name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watches[name] != nil {
		return nil
	}
	d, err := n.opt.Catalog.Discovery(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(n.life)
	w := &watch{cancel, make(chan struct{})}
	n.watches[name] = w
	n.opt.Peers.SourceUp(name)
	n.wg.Go(func() {
		defer close(w.done)
		defer cancel()
		n.hear(ctx, name, d)
	})
	return nil
}

// hear takes what a discovery sees, until ctx is done or it is removed. One
// that gives up is asked again.
func (n *Network) hear(ctx context.Context, name string, d sdk.Discovery) {
	o := newOpener(n, name)
	for {
		err := d.Watch(ctx, o.saw)
		if ctx.Err() != nil || errors.Is(err, catalog.ErrRemoved) {
			return
		}
		if err != nil {
			n.opt.Note(fmt.Sprintf("discovery %s sees nothing for now: %v", name, err))
			n.opt.Peers.SourceDown(name)
		}
		pause := time.NewTimer(hearPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		n.opt.Peers.SourceUp(name)
	}
}

// hearPause is how long a discovery that gave up is left alone.
const hearPause = time.Second

// closeDiscovery forgets what a discovery has seen.
func (n *Network) closeDiscovery(name string) {
	n.mu.Lock()
	w := n.watches[name]
	delete(n.watches, name)
	n.mu.Unlock()
	if w == nil {
		return
	}
	w.stop()
	<-w.done
	n.opt.Peers.SourceRemoved(name)
}

// PluginChanged tells the table whether a discovery works.
func (n *Network) PluginChanged(s catalog.Status) {
	if s.Kind != plugin.KindDiscovery {
		return
	}
	n.mu.Lock()
	heard := n.watches[s.Name] != nil
	n.mu.Unlock()
	switch {
	case !heard:
	case s.State == catalog.StateReady:
		n.opt.Peers.SourceUp(s.Name)
	default:
		n.opt.Peers.SourceDown(s.Name)
	}
}

// speak begins to announce this node.
func (n *Network) speak() error {
	boot, err := n.opt.Member.Boot()
	if err != nil {
		return err
	}
	n.speaks = true
	n.wg.Go(func() {
		n.opt.Peers.Watch(n.life, func(cells []sdk.CellName) {
			n.opt.Golgi.PeersChanged(cells...)
			n.heard() // of silence, too
		}, func(id sdk.NodeID, addrs []sdk.Addr) {
			n.wg.Go(func() { n.opt.Golgi.Reach(id, addrs) }) // nodes with links: they are bounded
		})
	})
	n.wg.Go(func() { n.announce(n.life, boot) })
	n.wg.Go(func() {
		f, err := openAddresses()
		if err == nil {
			err = watchAddresses(n.life, f, n.Changed)
		}
		if err != nil { // then the next beat tells
			n.opt.Log.Warn("changes of address are told late", "error", err)
		}
	})
	return nil
}

// Reach says from where this node can be reached.
func (n *Network) Reach() string {
	var near, far []string
	for _, d := range n.Doors() {
		if at, err := netip.ParseAddrPort(d.Listener.Addr().String()); err == nil && at.Addr().IsLoopback() {
			near = append(near, d.String())
		} else {
			far = append(far, d.String())
		}
	}
	switch {
	case len(far) > 0:
		return "reachable by members of the mesh at " + strings.Join(append(far, near...), " and ")
	case len(near) > 0:
		return "reachable from this machine only, at " + strings.Join(near, " and ")
	}
	return "reachable from this machine only"
}
