package golgi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const (
	maxReaches = 32 // endpoints that one explanation tries
	maxTries   = 16 // addresses it tries at once
)

// An Explanation says where a name leads, by which rules, and what became of
// trying each endpoint.
type Explanation struct {
	Rules   []Rule
	Failure *sdk.Error // why the name leads nowhere; nil if it leads somewhere
	Reaches []Reach
	Left    int // endpoints that were not tried because they are too many
}

// A Rule is a line of the manifest that allows or forbids, and what it says here.
type Rule struct {
	Key  string // "axon", "junction", "peers", "allow", "listen", "encrypt"
	OK   bool
	Text string
}

// A Reach is an endpoint and what became of trying its addresses.
type Reach struct {
	Endpoint string
	Kind     string // "local", "junction", "address" or "node"
	Cell     sdk.CellName
	Node     sdk.NodeID // empty if the endpoint is no other node, or an address whose node is not known
	Replicas int
	Local    bool  // both ends are of this kernel: the link needs no encryption
	Err      error // why no address could be tried
	Tries    []Try
}

// A Try is one address, dialled and asked for the cell as a caller would.
type Try struct {
	Addr    sdk.Addr
	Dialled time.Duration // until there was a connection, or none
	Took    time.Duration // until the other kernel had answered, or not
	Err     error         // nil: a link would be made
}

// Explain resolves name as the cell from would, and tries all addresses of all
// endpoints up to where the other kernel says whether it takes the link. Then
// it hangs up. An empty from is the command line, which may call everything.
// Nothing that was learnt changes what is dialled later.
func (g *Golgi) Explain(ctx context.Context, from, name sdk.CellName) (*Explanation, error) {
	g.mu.Lock()
	s, err := g.standIn(from)
	if err != nil {
		g.mu.Unlock()
		return nil, err
	}
	e := &Explanation{Rules: g.rules(s, name)}
	list, failure := g.endpoints(s, name)
	g.mu.Unlock()
	e.Failure = failure
	if len(list) > maxReaches {
		e.Left, list = len(list)-maxReaches, list[:maxReaches]
	}
	e.Reaches = make([]Reach, len(list))
	slots := make(chan struct{}, maxTries)
	var wg sync.WaitGroup
	for i, to := range list {
		e.Reaches[i] = Reach{Endpoint: to.id, Kind: to.kind(), Cell: to.cell, Node: to.node, Replicas: max(to.replicas, 1), Local: to.seat != nil}
		wg.Go(func() { g.reach(ctx, s, name, &e.Reaches[i], slots) })
	}
	wg.Wait()
	return e, nil
}

func (e *endpoint) kind() string {
	switch {
	case e.seat != nil:
		return "local"
	case e.dir != "":
		return "junction"
	case e.host != "":
		return "address"
	}
	return "node"
}

// standIn makes a seat that nobody sits on: it resolves and dials as a process
// of the cell would. The caller holds mu.
func (g *Golgi) standIn(from sdk.CellName) (*seat, error) {
	s := &seat{g: g, id: Replica{Cell: from}, key: [32]byte{1}} // it comes to no handshake
	if from == "" {
		s.id.Cell, s.free = sdk.CLIName, true
		return s, nil
	}
	if _, here := g.routes[from]; !here {
		return nil, sdk.Errorf(sdk.CodeNotFound, "explain calls of %q: no such cell", from)
	}
	for other := range g.seats {
		if other.id.Cell == from {
			s.key = other.key
			break
		}
	}
	return s, nil
}

// reach tries all addresses of one endpoint, side by side.
func (g *Golgi) reach(ctx context.Context, s *seat, name sdk.CellName, to *Reach, slots chan struct{}) {
	r, err := g.routeTo(s, 0, channel.Message{Name: name, Endpoint: to.Endpoint})
	if err != nil {
		to.Err = err
		return
	}
	addrs := r.addrs[:min(len(r.addrs), maxAddrs)]
	to.Tries = make([]Try, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			slots <- struct{}{} // every holder is bounded by ctx
			defer func() { <-slots }()
			to.Tries[i] = g.try(ctx, *r, addr)
		})
	}
	wg.Wait()
}

// try dials an address and knocks, as a link of its own.
func (g *Golgi) try(ctx context.Context, r route, addr sdk.Addr) Try {
	began := time.Now()
	a := g.tryAddr(ctx, addr)
	t := Try{Addr: addr, Err: a.err, Dialled: time.Since(began)}
	if t.Err == nil {
		defer a.conn.Close()
		defer context.AfterFunc(ctx, func() { a.conn.Close() })()
		g.mu.Lock()
		g.nextID++
		r.id = g.nextID
		g.mu.Unlock()
		if t.Err = g.expect(&r, addr); t.Err == nil {
			t.Err = g.knock(a.conn, &r)
			g.mu.Lock()
			g.forgetOutgoing(r.id) // of a local link the other end says when it is over
			g.mu.Unlock()
		}
	}
	if t.Err != nil && ctx.Err() != nil {
		t.Err = sdk.Errorf(sdk.CodeDeadline, "no answer within %s", time.Since(began).Round(10*time.Millisecond))
	}
	t.Took = time.Since(began)
	return t
}

// rules says what the manifest says about s and a name. The caller holds mu.
func (g *Golgi) rules(s *seat, name sdk.CellName) []Rule {
	targets, failure := g.resolve(s, name)
	list := []Rule{g.way(s, name)}
	if failure != nil && list[0].OK {
		for _, t := range g.routes[s.id.Cell].Axons[name].To {
			targets = append(targets, target{cell: t.Cell, host: t.Host})
		}
	}
	for _, t := range targets {
		if t.host != "" || t.dir != "" {
			continue // the rules of the other kernel count
		}
		if r, here := g.routes[t.cell]; here {
			list = append(list, g.allowRule(s, t.cell))
			if len(r.Doors) == 0 {
				list = append(list, Rule{"listen", true, fmt.Sprintf("cell %q has no listen: it is for this machine, and looked for nowhere else", t.cell)})
			}
		}
		_, refused := g.elsewhere(t)
		for _, node := range refused[:min(len(refused), maxAddrs)] {
			list = append(list, Rule{"peers", false, fmt.Sprintf("node %s serves %q and is not among the axon's peers", node, t.cell)})
		}
	}
	if !s.canEncrypt() {
		list = append(list, Rule{"encrypt", false, fmt.Sprintf("cell %q can not encrypt: it reaches what is on this machine only", s.id.Cell)})
	}
	return list
}

// way is the rule by which a name leads anywhere. The caller holds mu.
func (g *Golgi) way(s *seat, name sdk.CellName) Rule {
	if s.free {
		return Rule{"axon", true, "the command line may call every cell"}
	}
	r := g.routes[s.id.Cell]
	if dir, ok := r.Junctions[name]; ok {
		return Rule{"junction", true, fmt.Sprintf("cell %q: %s = %q", s.id.Cell, name, dir)}
	}
	if a, ok := r.Axons[name]; ok {
		text := fmt.Sprintf("cell %q: %s = %s", s.id.Cell, name, a)
		return Rule{"axon", true, text}
	}
	if name == s.id.Cell {
		return Rule{"axon", true, fmt.Sprintf("cell %q calls its own name: its other replicas", name)}
	}
	has := "none"
	if len(r.Axons) > 0 {
		has = fmt.Sprint(slices.Sorted(maps.Keys(r.Axons)))
	}
	return Rule{"axon", false, fmt.Sprintf("cell %q has no axon of that name; it has %s", s.id.Cell, has)}
}

// String writes an axon as the manifest has it.
func (a Axon) String() string {
	var to []string
	for _, t := range a.To {
		if t.Host != "" {
			to = append(to, "axon://"+t.Host+"/"+string(t.Cell))
		} else {
			to = append(to, "axon://"+string(t.Cell))
		}
	}
	text := strings.Join(to, ", ")
	if len(a.Peers) > 0 {
		text += fmt.Sprintf(", peers = %s", a.Peers)
	}
	return text
}

// allowRule is what a cell of this kernel says of its callers. The caller holds mu.
func (g *Golgi) allowRule(s *seat, cell sdk.CellName) Rule {
	allow := g.routes[cell].Allow
	switch {
	case allow == nil:
		return Rule{"allow", true, fmt.Sprintf("cell %q has no allow: every cell of the mesh may call it", cell)}
	case g.allowed(s, cell):
		return Rule{"allow", true, fmt.Sprintf("cell %q allows %q", cell, s.id.Cell)}
	}
	return Rule{"allow", false, fmt.Sprintf("cell %q allows %s, not %q", cell, slices.Sorted(maps.Keys(allow)), s.id.Cell)}
}

// A Path is a link to another node that both kernels have admitted.
type Path struct {
	Node sdk.NodeID // proved by its certificate
	Addr sdk.Addr   // that was dialled
}

// Paths lists by which addresses the kernel itself, or a command, has links to
// other nodes now.
func (g *Golgi) Paths() []Path {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Path
	for _, l := range g.links {
		if l.caller != nil && l.caller.free && l.foreign != nil && l.foreign.admitted && l.foreign.addr.Scheme != "" {
			list = append(list, Path{l.foreign.node, l.foreign.addr})
		}
	}
	return list
}
