package probe

import (
	"context"
	"encoding/hex"
	"slices"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// Sources of origins that are no discoveries.
const (
	byAxon   = "axon"     // an address in the genome
	byListen = "listen"   // where this node listens itself
	byGenome = "genome"   // a cell of this kernel
	byNext   = "junction" // a kernel of this machine
)

// Peers implements [admin.Prober].
func (p *Prober) Peers(ctx context.Context) (*admin.Peers, error) {
	rows, sources := p.opt.Peers.Nodes(), p.opt.Peers.Sources()
	out := &admin.Peers{Mesh: p.opt.Mesh, Self: p.selfPeer(), Sources: []admin.PeerSource{}, Peers: []admin.Peer{}}
	for _, s := range sources {
		src := admin.PeerSource{Name: s.Name, Up: s.Up, Synced: s.Synced, SinceMS: s.Since.Milliseconds(), LastMS: -1, Nodes: s.Nodes}
		if s.Last >= 0 {
			src.LastMS = s.Last.Milliseconds()
		}
		out.Sources = append(out.Sources, src)
	}
	addrs := addrsOf(p.opt.Running())
	ask := slices.Clone(addrs)
	for _, r := range rows {
		if r.State == peers.StateVerified || r.State == peers.StateStale {
			ask = append(ask, string(r.Node))
		}
	}
	trips, err := p.measure(ctx, ask)
	if err != nil {
		return nil, err
	}
	var foreign []admin.Peer
	for _, r := range rows {
		if peer := peerOf(r); r.State == peers.StateForeign {
			foreign = append(foreign, peer)
		} else {
			peer.RTTUS = trips[string(r.Node)].took.Microseconds()
			out.Peers = append(out.Peers, peer)
		}
	}
	for _, at := range addrs {
		out.Peers = addAddr(out.Peers, at, trips[at])
	}
	out.Peers = append(out.Peers, foreign...)
	return out, nil
}

// addrsOf lists the addresses that axons of some cells name, each once.
func addrsOf(g *genome.Genome, cells []sdk.CellName) []string {
	var list []string
	for _, name := range cells {
		if g.Cells[name] == nil {
			continue
		}
		for _, a := range g.Cells[name].Axons {
			for _, t := range a.To {
				if t.Host != "" {
					list = append(list, t.Host)
				}
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// addAddr adds an address of an axon: to the node that has answered there, or
// as a peer of its own.
func addAddr(list []admin.Peer, at string, r rtt) []admin.Peer {
	origin := admin.PeerOrigin{Source: byAxon, Addr: at}
	if i := slices.IndexFunc(list, func(p admin.Peer) bool { return r.way.Node != "" && p.Node == r.way.Node }); i >= 0 {
		list[i].Origins = append(list[i].Origins, origin)
		if addr := r.way.Addr.String(); !slices.Contains(list[i].Addrs, addr) {
			list[i].Addrs = append(list[i].Addrs, addr)
		}
		if list[i].RTTUS == 0 {
			list[i].RTTUS = r.took.Microseconds()
		}
		return list
	}
	p := admin.Peer{State: admin.PeerUnknown, Cells: []admin.PeerCell{}, Addrs: []string{at}, Origins: []admin.PeerOrigin{origin}}
	if r.way.Node != "" {
		p.Addrs = []string{r.way.Addr.String()}
		p.Node, p.Name, p.State, p.Routable, p.RTTUS = r.way.Node, r.name, admin.PeerVerified, true, r.took.Microseconds()
	}
	return append(list, p)
}

// selfPeer is this node as others see it.
func (p *Prober) selfPeer() admin.Peer {
	g, cells := p.opt.Running()
	self := admin.Peer{
		Node: p.opt.Node, Name: g.Kernel.Node, State: admin.PeerSelf, Wire: wire.Major,
		Cells: []admin.PeerCell{}, Addrs: []string{}, Origins: []admin.PeerOrigin{},
	}
	for _, d := range p.opt.Doors() {
		self.Addrs = append(self.Addrs, d.String())
		self.Origins = append(self.Origins, admin.PeerOrigin{Source: byListen, Addr: d.String()})
	}
	for _, name := range cells {
		if c := g.Cells[name]; c != nil && c.Listen.On {
			self.Cells = append(self.Cells, admin.PeerCell{Name: name, Replicas: p.opt.Golgi.Served(name)})
		}
	}
	return self
}

// peerOf is a row of the table in the words of the API.
func peerOf(r peers.Row) admin.Peer {
	p := admin.Peer{
		Node: r.Node, Name: string(r.Name), State: admin.PeerState(r.State), Routable: r.Routable, Donor: r.Donor,
		Links: r.Links, HeardMS: r.Heard.Milliseconds(), Wire: r.Wire, Cells: []admin.PeerCell{},
		Addrs: []string{}, Origins: originsOf(r),
	}
	for _, a := range r.Addrs {
		p.Addrs = append(p.Addrs, a.String())
	}
	if r.State == peers.StateForeign {
		p.MeshTag = hex.EncodeToString(r.Tag[:])
	}
	for _, c := range r.Cells {
		p.Cells = append(p.Cells, admin.PeerCell{Name: c.Name, Replicas: int(c.Replicas)})
	}
	return p
}

func originsOf(r peers.Row) []admin.PeerOrigin {
	list := []admin.PeerOrigin{}
	for _, o := range r.Origins {
		list = append(list, admin.PeerOrigin{Source: o.Source, Addr: o.Addr.String(), AgeMS: o.Age.Milliseconds(), NATPort: o.Port})
	}
	return list
}
