package kernel

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/golgi"
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

// A prober calls the kernels of other nodes for one request. Its links are its
// own and end with it, so that looking at ever more nodes leaves nothing behind.
type prober struct {
	k *Kernel
	m *cell.Membrane
}

func (k *Kernel) newProber() (*prober, error) {
	m, err := k.attachSelf(sdk.CLIName)
	if err != nil {
		return nil, err
	}
	return &prober{k, m}, nil
}

// close ends the links. What a node made of that is its own affair.
func (p *prober) close() { _ = p.m.Close() }

// kernelAt is the cell golgi of a node, by its id or its address.
func (p *prober) kernelAt(at string) node.NodeClient {
	return node.NewNodeClient(p.m.Synapse(sdk.CellName(string(sdk.GolgiName) + "@" + at)))
}

// path returns by which way calls to a node, or to an address, go.
func (p *prober) path(at string) (golgi.Path, bool) {
	for _, way := range p.k.golgi.Paths() {
		if string(way.Node) == at || way.Addr.Host == at {
			return way, true
		}
	}
	return golgi.Path{}, false
}

// Ping implements [admin.Prober].
func (k *Kernel) Ping(ctx context.Context, r admin.PingRequest, yield func(admin.Pulse) error) error {
	<-k.started
	at, err := k.findNode(r.Node)
	if err != nil {
		return err
	}
	p, err := k.newProber()
	if err != nil {
		return err
	}
	defer p.close()
	began := time.Now()
	if _, err := p.ping(ctx, at, firstPing); err != nil {
		return sdk.Errorf(unreachable(err), "ping %q: %v", r.Node, err)
	}
	connect := time.Since(began)
	for seq := 1; ; seq++ {
		pulse, err := p.ping(ctx, at, nextPing)
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
func (p *prober) ping(ctx context.Context, at string, within time.Duration) (admin.Pulse, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	began := time.Now()
	said, err := p.kernelAt(at).Ping(ctx, &node.Probe{})
	took := time.Since(began)
	if err != nil {
		return admin.Pulse{}, err
	}
	pulse := admin.Pulse{Node: p.k.Self().Node(), Name: said.Name, Version: said.Version, Path: "local", RTTUS: took.Microseconds()}
	if way, ok := p.path(at); ok {
		pulse.Node, pulse.Path = way.Node, way.Addr.String()
	}
	return pulse, nil
}

// findNode turns what people call a node into its id, or into an address.
func (k *Kernel) findNode(name string) (string, error) {
	if id, err := sdk.ParseNodeID(name); err == nil {
		return string(id), nil
	}
	if strings.Contains(name, ":") {
		return name, nil
	}
	if self := k.Self().Node(); name == k.genomeNow().Kernel.Node || len(name) >= minPrefix && strings.HasPrefix(string(self), name) {
		return string(self), nil
	}
	var found []string
	for _, r := range k.peers.Nodes() {
		if r.Node != "" && (string(r.Name) == name || len(name) >= minPrefix && strings.HasPrefix(string(r.Node), name)) {
			found = append(found, string(r.Node))
		}
	}
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
func (k *Kernel) measure(ctx context.Context, list []string) (map[string]rtt, error) {
	now := time.Now()
	k.rtts.mu.Lock()
	for at, r := range k.rtts.known {
		if now.Sub(r.at) > rttLife {
			delete(k.rtts.known, at)
		}
	}
	out := make(map[string]rtt)
	list = slices.DeleteFunc(slices.Clone(list), func(at string) bool {
		r, ok := k.rtts.known[at]
		if ok {
			out[at] = r
		}
		return ok
	})
	k.rtts.mu.Unlock()
	if list = list[:min(len(list), maxRTTs)]; len(list) == 0 {
		return out, nil
	}
	p, err := k.newProber()
	if err != nil {
		return nil, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, rttWait)
	defer cancel()
	results := make([]rtt, len(list))
	var wg sync.WaitGroup
	for i, at := range list {
		wg.Go(func() { results[i] = p.rtt(ctx, at) })
	}
	wg.Wait()
	k.rtts.mu.Lock()
	defer k.rtts.mu.Unlock()
	if k.rtts.known == nil {
		k.rtts.known = make(map[string]rtt)
	}
	for i, at := range list {
		out[at], k.rtts.known[at] = results[i], results[i]
	}
	return out, nil
}

// rtt measures one node. The first answer may have waited for the link.
func (p *prober) rtt(ctx context.Context, at string) rtt {
	r := rtt{at: time.Now()}
	for range 2 {
		pulse, err := p.ping(ctx, at, rttWait)
		if err != nil {
			break
		}
		r.took, r.name = time.Duration(pulse.RTTUS)*time.Microsecond, pulse.Name
		r.way, _ = p.path(at)
	}
	return r
}

// peersNow is the table of peers, empty before there is one.
func (k *Kernel) peersNow() ([]peers.Row, []peers.Source) {
	<-k.started
	return k.peers.Nodes(), k.peers.Sources()
}
