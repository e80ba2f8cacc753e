package kernel

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/cellkernel/cellkernel/kernel/admin"
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
	if err := k.golgi.Known(sdk.CellName(r.Target.String())); err != nil {
		return nil, err
	}
	return k.caller.Synapse(sdk.CellName(r.Target.String())).CallJSON(ctx, r.Method, r.Body)
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
	return k.probe.Explain(ctx, q)
}
