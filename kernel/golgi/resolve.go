package golgi

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const maxNeeds = 1024 // names one process may ask for

// need subscribes a process to the endpoints of a name. A name too many is
// refused by itself: who asks for many of them does not lose the others.
// The caller holds mu.
func (g *Golgi) need(s *seat, name sdk.CellName) {
	if len(s.needs) >= maxNeeds && !s.needs[name] {
		s.putNews(channel.Message{Type: channel.TypeEndpoints, Name: name, Failure: channel.FailureOf(
			sdk.Errorf(sdk.CodeOverloaded, "resolve %.80q: the caller uses %d names, which is all it can", name, maxNeeds))})
		return
	}
	s.needs[name] = true
	g.tell(s, name)
}

// push tells everybody who needs it that the endpoints of cell have changed.
// The caller holds mu.
func (g *Golgi) push(cell sdk.CellName) {
	if g.opt.Changed != nil {
		g.opt.Changed()
	}
	for s := range g.seats {
		for name := range s.needs {
			if g.leads(s, name, cell) {
				g.tell(s, name)
			}
		}
	}
}

// PeersChanged tells the cells that what is known of cells of other nodes has
// changed; none means all.
func (g *Golgi) PeersChanged(cells ...sdk.CellName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s := range g.seats {
		for name := range s.needs {
			if len(cells) == 0 || slices.ContainsFunc(cells, func(c sdk.CellName) bool { return g.leads(s, name, c) }) {
				g.tell(s, name)
			}
		}
	}
}

// leads reports whether name, as s uses it, leads to cell, whether s may call
// it or not. The caller holds mu.
func (g *Golgi) leads(s *seat, name, cell sdk.CellName) bool {
	if s.free {
		called, _, _ := strings.Cut(string(name), "@")
		called, _, _ = strings.Cut(called, "#")
		return called == string(cell)
	}
	r := g.routes[s.id.Cell]
	if a, ok := r.Axons[name]; ok {
		return slices.ContainsFunc(a.To, func(t Target) bool { return t.Cell == cell && t.Host == "" })
	}
	return name == cell && name == s.id.Cell && r.Junctions[name] == ""
}

// A target is where a name leads: to a cell wherever it is, to one replica of
// it here, to one node's, to an address, or to the kernel that runs in dir.
type target struct {
	cell    sdk.CellName
	replica int          // 0 is any
	node    sdk.NodeID   // empty is any
	host    string       // an address; empty is wherever
	dir     string       // of another kernel of this machine
	peers   []sdk.NodeID // who may answer; none is every member
}

// junctionLinks is how many links a caller keeps through a junction: the other
// kernel gives each to its least linked replica.
const junctionLinks = 4

// staticReplicas is how many replicas are assumed behind an address.
const staticReplicas = 4

// resolve returns the targets of a name as s uses it. The caller holds mu.
func (g *Golgi) resolve(s *seat, name sdk.CellName) ([]target, *sdk.Error) {
	if s.free {
		return g.resolveFree(name)
	}
	r := g.routes[s.id.Cell]
	if dir, ok := r.Junctions[name]; ok {
		return []target{{cell: name, dir: dir}}, nil
	}
	if a, ok := r.Axons[name]; ok {
		return g.follow(s, name, a)
	}
	if name == s.id.Cell {
		return []target{{cell: name}}, nil
	}
	return nil, sdk.Errorf(sdk.CodeNotFound, "resolve %q: cell %q has no axon of that name", name, s.id.Cell)
}

// follow returns the targets of an axon that s may call.
func (g *Golgi) follow(s *seat, name sdk.CellName, a Axon) ([]target, *sdk.Error) {
	var out []target
	for _, t := range a.To {
		_, here := g.routes[t.Cell]
		if t.Host != "" || !here || g.allowed(s, t.Cell) {
			out = append(out, target{cell: t.Cell, host: t.Host, peers: a.Peers})
		}
	}
	if len(out) == 0 && len(a.To) > 0 {
		return nil, sdk.Errorf(sdk.CodeDenied, "resolve %q: cell %q does not allow %q to call it", name, a.To[0].Cell, s.id.Cell)
	}
	return out, nil
}

// resolveFree is for who may call everything: "worker", "worker#2", and
// "worker@NODE" with the id of a node or where it listens: "10.0.0.2:9000".
func (g *Golgi) resolveFree(name sdk.CellName) ([]target, *sdk.Error) {
	cell, node, far := strings.Cut(string(name), "@")
	if far {
		if _, _, err := net.SplitHostPort(node); err == nil && g.opt.Scheme != "" {
			return []target{{cell: sdk.CellName(cell), host: node}}, nil
		}
		id, err := sdk.ParseNodeID(node)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "resolve %q: %v", name, err)
		}
		return []target{{cell: sdk.CellName(cell), node: id}}, nil
	}
	cell, num, one := strings.Cut(cell, "#")
	t := target{cell: sdk.CellName(cell)}
	if n, err := strconv.Atoi(num); one && err == nil {
		t.replica = n
	}
	if _, here := g.routes[t.cell]; !here && (t.replica != 0 || len(g.find(t.cell)) == 0) {
		return nil, sdk.Errorf(sdk.CodeNotFound, "resolve %q: no such cell", name)
	}
	return []target{t}, nil
}

// Known reports whether who may call everything can call name now: a
// Membrane keeps what it was asked for.
func (g *Golgi) Known(name sdk.CellName) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, e := g.resolveFree(name); e != nil {
		return e
	}
	return nil
}

// find lists the nodes that serve a cell which may be called elsewhere, too:
// one that this kernel keeps to its machine is looked for nowhere else.
func (g *Golgi) find(cell sdk.CellName) []peers.Endpoint {
	r, here := g.routes[cell]
	if g.opt.Peers == nil || here && len(r.Doors) == 0 {
		return nil
	}
	return g.opt.Peers.Lookup(cell)
}

// An endpoint is what a caller can dial: a replica of this kernel, or a cell
// of another one.
type endpoint struct {
	target
	id       string
	seat     *seat // of this kernel
	replicas int   // of another one
}

// endpoints lists what a name, as s uses it, can be reached at. The caller
// holds mu.
func (g *Golgi) endpoints(s *seat, name sdk.CellName) ([]endpoint, *sdk.Error) {
	targets, failure := g.resolve(s, name)
	if failure != nil {
		return nil, failure
	}
	var list []endpoint
	var others []sdk.NodeID
	for _, t := range targets {
		switch {
		case t.dir != "":
			list = append(list, endpoint{t, "junction:" + t.dir + "/" + string(t.cell), nil, junctionLinks})
		case t.host != "":
			list = append(list, endpoint{t, "axon://" + t.host + "/" + string(t.cell), nil, staticReplicas})
		default:
			list = append(list, g.here(s, t)...)
			found, refused := g.elsewhere(t)
			list, others = append(list, found...), append(others, refused...)
		}
	}
	if !s.canEncrypt() {
		list = slices.DeleteFunc(list, func(e endpoint) bool { return e.seat == nil })
	}
	if len(list) == 0 && len(others) > 0 {
		return nil, sdk.Errorf(sdk.CodeDenied, "resolve %q: node %s serves it, the axon's peers are %s", name, others[0], targets[0].peers)
	}
	return list, nil
}

// here lists the replicas of this kernel that a target stands for.
func (g *Golgi) here(s *seat, t target) []endpoint {
	if t.node != "" && t.node != g.opt.Self.Node() {
		return nil
	}
	var list []endpoint
	for other := range g.byName[t.cell] {
		if other != s && (t.replica == 0 || t.replica == other.id.Index) && (len(t.peers) == 0 || slices.Contains(t.peers, g.opt.Self.Node())) {
			list = append(list, endpoint{t, other.endpoint(), other, 0})
		}
	}
	slices.SortFunc(list, func(a, b endpoint) int { return strings.Compare(a.id, b.id) })
	return list
}

// elsewhere lists the nodes that a target stands for, and those that serve it
// and are not among its peers.
func (g *Golgi) elsewhere(t target) (list []endpoint, refused []sdk.NodeID) {
	if t.replica != 0 {
		return nil, nil
	}
	found := g.find(t.cell)
	if t.node != "" && t.cell == sdk.GolgiName && t.node != g.opt.Self.Node() {
		found = []peers.Endpoint{{Node: t.node, Replicas: 1}} // every node has one, and announces none
	}
	for _, p := range found {
		switch {
		case t.node != "" && t.node != p.Node:
		case len(t.peers) > 0 && !slices.Contains(t.peers, p.Node):
			refused = append(refused, p.Node)
		default:
			at := t
			at.node = p.Node
			list = append(list, endpoint{at, "node:" + string(p.Node) + "/" + string(t.cell), nil, int(p.Replicas)})
		}
	}
	return list, refused
}

// tell sends a process the endpoints of a name. The caller holds mu.
func (g *Golgi) tell(s *seat, name sdk.CellName) {
	m := channel.Message{Type: channel.TypeEndpoints, Name: name}
	list, failure := g.endpoints(s, name)
	if failure != nil {
		m.Failure = channel.FailureOf(failure)
		s.putNews(m)
		return
	}
	m.Endpoints = &channel.Endpoints{}
	size := 0
	for _, e := range list {
		if size += len(e.id) + perEndpoint; size > maxEndpoints {
			break
		}
		if e.seat != nil {
			m.Endpoints.Local = append(m.Endpoints.Local, e.id)
		} else {
			m.Endpoints.Remote = append(m.Endpoints.Remote, channel.RemoteEndpoint{ID: e.id, Node: e.node, Replicas: e.replicas})
			size += len(e.node) + perEndpoint
		}
	}
	s.putNews(m)
}

// The endpoints that a process is told of for one name are bounded in bytes:
// the message must fit. Callers keep links to far fewer.
const (
	maxEndpoints = channel.MaxMessage - 4<<10
	perEndpoint  = 24 // bytes of JSON around an id
)

// allowed reports whether s may call a cell of this kernel. The caller holds mu.
func (g *Golgi) allowed(s *seat, cell sdk.CellName) bool {
	allow := g.routes[cell].Allow
	return s.free || allow == nil || allow[string(s.id.Cell)]
}

// mayCall reports whether the caller of a link may call a cell of this kernel.
// The caller holds mu.
func (g *Golgi) mayCall(l *link, cell sdk.CellName) bool {
	allow := g.routes[cell].Allow
	if allow == nil || l.caller != nil && l.caller.free || allow[string(l.from)] {
		return true
	}
	return l.foreign != nil && allow[string(l.foreign.node)]
}

// byEndpoint finds the process behind "worker#2@7", or this kernel behind
// "golgi@0". The caller holds mu.
func (g *Golgi) byEndpoint(endpoint string) *seat {
	cell := endpoint[:max(0, strings.IndexAny(endpoint, "#@"))]
	for s := range g.byName[sdk.CellName(cell)] {
		if s.endpoint() == endpoint {
			return s
		}
	}
	return nil
}

// leastLinked returns the replica of a cell that answers the fewest links,
// never one that is not itself. The caller holds mu.
func (g *Golgi) leastLinked(cell sdk.CellName) *seat {
	var best *seat
	for s := range g.byName[cell] {
		if best == nil || s.served < best.served || s.served == best.served && s.id.Index < best.id.Index {
			best = s
		}
	}
	return best
}
