// Package probe looks at other nodes for people: who is known and how far away
// it is (peers.go), whether one answers (probe.go) or why not (trouble.go), and how a name leads to a
// cell (explain.go). It changes nothing, and nothing depends on what it finds.
package probe

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/network"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const (
	firstPing = 3 * time.Second        // for the answer that needs a new link
	nextPing  = 2 * time.Second        // for each one after it
	pingPause = 200 * time.Millisecond // between two
	rttWait   = time.Second            // for all round trips of one list of peers
	rttLife   = 2 * time.Second        // for which one is not measured again
	maxRTTs   = 64                     // nodes asked for one list
	minPrefix = 4                      // characters of an id that name a node
)

// Options are what a prober looks with. All are required.
type Options struct {
	Node    sdk.NodeID // this one
	Mesh    string     // as people call it
	Running func() (*genome.Genome, []sdk.CellName)
	Golgi   *golgi.Golgi
	Peers   *peers.Table
	Doors   func() []network.Door
	Denied  func(sdk.NodeID) bool                      // whether a node is kept out of the mesh
	Attach  func(sdk.CellName) (*cell.Membrane, error) // the kernel as a caller of that name
}

// A Prober looks at other nodes. It implements [admin.Prober]; make it with [New].
type Prober struct {
	opt  Options
	rtts rtts // to other nodes
}

var _ admin.Prober = (*Prober)(nil)

// New makes a prober.
func New(opt Options) *Prober { return &Prober{opt: opt} }

// A visit calls the kernels of other nodes for one request. Its links are its
// own and end with it, so that looking at ever more nodes leaves nothing behind.
type visit struct {
	p *Prober
	m *cell.Membrane
}

func (p *Prober) visit() (*visit, error) {
	m, err := p.opt.Attach(sdk.CLIName)
	if err != nil {
		return nil, err
	}
	return &visit{p, m}, nil
}

// close ends the links. What a node made of that is its own affair.
func (v *visit) close() { _ = v.m.Close() }

// kernelAt is the cell golgi of a node, by its id or its address.
func (v *visit) kernelAt(at string) node.NodeClient {
	return node.NewNodeClient(v.m.Synapse(sdk.CellName(string(sdk.GolgiName) + "@" + at)))
}

// path returns by which way calls to a node, or to an address, go.
func (v *visit) path(at string) (golgi.Path, bool) {
	for _, way := range v.p.opt.Golgi.Paths() {
		if string(way.Node) == at || way.Addr.Host == at {
			return way, true
		}
	}
	return golgi.Path{}, false
}

// Ping implements [admin.Prober].
func (p *Prober) Ping(ctx context.Context, r admin.PingRequest, yield func(admin.Pulse) error) error {
	at, err := p.findNode(r.Node)
	if err != nil {
		return err
	}
	if err := p.reachable(r.Node, at); err != nil {
		return err
	}
	v, err := p.visit()
	if err != nil {
		return err
	}
	defer v.close()
	began := time.Now()
	if _, err := v.ping(ctx, at, firstPing); err != nil {
		return p.why(ctx, r.Node, at, err)
	}
	connect := time.Since(began)
	for seq := 1; ; seq++ {
		pulse, err := v.ping(ctx, at, nextPing)
		if err != nil {
			pulse.Error = err.Error()
		}
		if pulse.Seq = seq; seq == 1 {
			pulse.ConnectUS = connect.Microseconds()
		}
		if err := yield(pulse); err != nil || seq >= r.Count {
			return err
		}
		pause := time.NewTimer(pingPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// unreachable is the code of a node that did not answer in time.
func unreachable(err error) sdk.Code {
	if code := sdk.CodeOf(err); code != sdk.CodeDeadline {
		return code
	}
	return sdk.CodeUnavailable
}

// ping makes one round trip to the kernel of a node.
func (v *visit) ping(ctx context.Context, at string, within time.Duration) (admin.Pulse, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	began := time.Now()
	said, err := v.kernelAt(at).Ping(ctx, &node.Probe{})
	took := time.Since(began)
	if err != nil {
		return admin.Pulse{}, err
	}
	pulse := admin.Pulse{Node: v.p.opt.Node, Name: said.Name, Version: said.Version, Path: "local", RTTUS: took.Microseconds()}
	if way, ok := v.path(at); ok {
		pulse.Node, pulse.Path = way.Node, way.Addr.String()
	}
	return pulse, nil
}

// findNode turns what people call a node into its id, or into an address.
func (p *Prober) findNode(name string) (string, error) {
	if id, err := sdk.ParseNodeID(name); err == nil {
		return string(id), nil
	}
	if strings.Contains(name, ":") {
		return name, nil
	}
	g, _ := p.opt.Running()
	if self := p.opt.Node; name == g.Kernel.Node || len(name) >= minPrefix && strings.HasPrefix(string(self), name) {
		return string(self), nil
	}
	var found []string
	for _, r := range p.opt.Peers.Nodes() {
		if r.Node != "" && (string(r.Name) == name || len(name) >= minPrefix && strings.HasPrefix(string(r.Node), name)) {
			found = append(found, string(r.Node))
		}
	}
	for id, called := range p.opt.Peers.Denied() { // their rows are gone
		if called != "" && string(called) == name || len(name) >= minPrefix && strings.HasPrefix(string(id), name) {
			found = append(found, string(id))
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", sdk.Errorf(sdk.CodeNotFound, "find node %.80q: nobody of that name or id was seen", name)
	case 1:
		return found[0], nil
	}
	return "", sdk.Errorf(sdk.CodeNotFound, "find node %.80q: %d are called that: %s", name, len(found), strings.Join(found[:min(len(found), 8)], ", "))
}

// A rtts remembers round trips for a moment: whoever lists peers again and
// again does not load them. The zero value is empty.
type rtts struct {
	mu    sync.Mutex // guards known
	known map[string]rtt
}

type rtt struct {
	took time.Duration // 0: no answer
	way  golgi.Path
	name string
	at   time.Time
}

// measure asks nodes, by id or address, side by side, for at most rttWait.
func (p *Prober) measure(ctx context.Context, list []string) (map[string]rtt, error) {
	now := time.Now()
	p.rtts.mu.Lock()
	for at, r := range p.rtts.known {
		if now.Sub(r.at) > rttLife {
			delete(p.rtts.known, at)
		}
	}
	out := make(map[string]rtt)
	list = slices.DeleteFunc(slices.Clone(list), func(at string) bool {
		r, ok := p.rtts.known[at]
		if ok {
			out[at] = r
		}
		return ok
	})
	p.rtts.mu.Unlock()
	if list = list[:min(len(list), maxRTTs)]; len(list) == 0 {
		return out, nil
	}
	v, err := p.visit()
	if err != nil {
		return nil, err
	}
	defer v.close()
	ctx, cancel := context.WithTimeout(ctx, rttWait)
	defer cancel()
	results := make([]rtt, len(list))
	var wg sync.WaitGroup
	for i, at := range list {
		wg.Go(func() { results[i] = v.rtt(ctx, at) })
	}
	wg.Wait()
	p.rtts.mu.Lock()
	defer p.rtts.mu.Unlock()
	if p.rtts.known == nil {
		p.rtts.known = make(map[string]rtt)
	}
	for i, at := range list {
		out[at], p.rtts.known[at] = results[i], results[i]
	}
	return out, nil
}

// rtt measures one node. The first answer may have waited for the link.
func (v *visit) rtt(ctx context.Context, at string) rtt {
	r := rtt{at: time.Now()}
	for range 2 {
		pulse, err := v.ping(ctx, at, rttWait)
		if err != nil {
			break
		}
		r.took, r.name = time.Duration(pulse.RTTUS)*time.Microsecond, pulse.Name
		r.way, _ = v.path(at)
	}
	return r
}
