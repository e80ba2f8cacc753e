package kernel

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/probe"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

// byHand is the first index of replicas that somebody else starts.
const byHand = supervisor.MaxReplicas + 1

// Describe implements [admin.Caller].
func (k *Kernel) Describe(ctx context.Context, name sdk.CellName) ([]admin.Method, error) {
	return probe.Methods(ctx, k.caller, name)
}

// Call implements [admin.Caller].
func (k *Kernel) Call(ctx context.Context, r admin.CallRequest) (json.RawMessage, error) {
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	if err := k.knownReplica(r.Target); err != nil {
		return nil, err
	}
	if err := k.callable(r.Target.Cell); err != nil {
		return nil, err
	}
	if err := k.golgi.Known(sdk.CellName(r.Target.String())); err != nil {
		return nil, err
	}
	return k.caller.Synapse(sdk.CellName(r.Target.String())).CallJSON(ctx, r.Method, r.Body)
}

// callable refuses at once what no waiting helps: a name that is no cell's but
// means something, and a cell for this machine only that nobody is about to
// start.
func (k *Kernel) callable(name sdk.CellName) error {
	g := k.genomeNow()
	c := g.Cells[name]
	switch {
	case name == sdk.GolgiName:
		return sdk.Errorf(sdk.CodeInvalid, "call %q: that is the kernel itself, which only other kernels call", name)
	case c == nil:
		return alias(g, name)
	case c.Listen.On || k.golgi.Served(name) > 0 || !slices.Contains(k.wantedCells(), name):
		return nil
	}
	var replicas []supervisor.Status
	for _, s := range k.cells.List() {
		if s.Cell == name {
			replicas = append(replicas, s)
		}
	}
	st := cellStatus(g, name, replicas)
	switch {
	case len(replicas) == 0:
		return sdk.Errorf(sdk.CodeUnavailable, "find cell %q: it is scaled to 0", name)
	case st.State == admin.StateDone || st.State == admin.StateStopped || st.State == admin.StateFailed:
		return sdk.Errorf(sdk.CodeUnavailable, "%s", problem("find cell "+strconv.Quote(string(name))+": it", st.State, st.Detail))
	}
	return nil
}

// alias says whose name for another kernel's cell this is, if it is one.
func alias(g *genome.Genome, name sdk.CellName) error {
	for _, of := range slices.Sorted(maps.Keys(g.Cells)) {
		if dir := g.Cells[of].Junctions[name]; dir != "" {
			return sdk.Errorf(sdk.CodeNotFound, "find cell %q: a junction of cell %q, which calls the kernel of %s by that name", name, of, dir)
		}
	}
	return nil
}

// knownReplica refuses a replica that nobody starts: a call to it would wait
// until its deadline. Those that somebody starts by hand may come any time.
func (k *Kernel) knownReplica(t admin.Target) error {
	if t.Replica == 0 || t.Replica >= byHand {
		return nil
	}
	for _, s := range k.cells.List() {
		if s.Cell == t.Cell && s.Index == t.Replica {
			return nil
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "find replica %s: no such replica", t)
}

// Launch implements [admin.Caller].
func (k *Kernel) Launch(ctx context.Context, name sdk.CellName, command []string) (*admin.Launch, error) {
	k.mu.Lock()
	g := k.genome
	k.mu.Unlock()
	c := g.Cells[name]
	if c == nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "run %q: no such cell", name)
	}
	if !slices.Contains(k.wantedCells(), name) {
		k.golgi.Route(name, routes(g, c))
	}
	if len(command) == 0 {
		if err := k.build(ctx, g, []sdk.CellName{name}); err != nil {
			return nil, err
		}
		command = k.argv(c)
	}
	n := k.launches.Add(1)
	token := k.golgi.Token(golgi.Replica{Cell: name, Index: byHand + int(n) - 1, Incarnation: n}, k.welcome(name))
	return &admin.Launch{
		Command: command, Dir: c.Dir,
		Env: append(environ(c), cell.EnvSocket+"="+k.dirs.control, cell.EnvToken+"="+token),
	}, nil
}

// Peers implements [admin.Prober].
func (k *Kernel) Peers(ctx context.Context) (*admin.Peers, error) {
	<-k.started
	return k.probe.Peers(ctx)
}

// Ping implements [admin.Prober].
func (k *Kernel) Ping(ctx context.Context, r admin.PingRequest, yield func(admin.Pulse) error) error {
	<-k.started
	return k.probe.Ping(ctx, r, yield)
}

// Explain implements [admin.Prober].
func (k *Kernel) Explain(ctx context.Context, q admin.ExplainQuery) (*admin.Explanation, error) {
	<-k.started
	if g := k.genomeNow(); q.From == "" && g.Cells[q.Cell] == nil {
		if err := alias(g, q.Cell); err != nil {
			return nil, err
		}
	}
	return k.probe.Explain(ctx, q)
}
