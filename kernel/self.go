package kernel

import (
	"context"
	"time"

	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// openSelf attaches the kernel to its own golgi: as a caller of cells, and as
// the cell "golgi", which other kernels call.
func (k *Kernel) openSelf(end *closers) error {
	var err error
	if k.caller, err = k.attachSelf(sdk.CLIName); err != nil {
		return err
	}
	end.add(k.caller.Close)
	if k.golgiCell, err = k.attachSelf(sdk.GolgiName); err != nil {
		return err
	}
	node.RegisterNode(k.golgiCell, self{k})
	k.golgiCell.Ready()
	end.add(k.golgiCell.Close)
	return nil
}

func (k *Kernel) attachSelf(name sdk.CellName) (*cell.Membrane, error) {
	f, err := k.golgi.AttachSelf(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ch, err := channel.FromFile(f)
	if err != nil {
		return nil, err
	}
	return cell.Attach(ch, channel.Hello{})
}

// self answers other kernels.
type self struct{ k *Kernel }

// Ping implements [node.Node].
func (s self) Ping(context.Context, *node.Probe) (*node.Pulse, error) {
	return &node.Pulse{
		Node: string(s.k.Self().Node()), Name: s.k.genomeNow().Kernel.Node, Version: s.k.opt.Version,
		UptimeMS: uint64(time.Since(s.k.begun).Milliseconds()),
	}, nil
}

// Receipts implements [node.Node].
func (s self) Receipts(ctx context.Context, in cell.Receiver[node.Slip], out cell.Sender[node.Slip]) error {
	return s.k.settle.Serve(ctx, in, out)
}

// Describe implements [node.Node]. Cells for this machine only are unknown.
func (s self) Describe(ctx context.Context, q *node.Question) (*node.Description, error) {
	name := sdk.CellName(q.Cell)
	c := s.k.genomeNow().Cells[name]
	if c == nil || !c.Listen.On {
		return nil, sdk.Errorf(sdk.CodeNotFound, "describe %.80q: no such cell", q.Cell)
	}
	services, err := s.k.caller.Synapse(name).Services(ctx)
	if err != nil {
		return nil, err
	}
	d := &node.Description{Replicas: uint32(s.k.golgi.Served(name))}
	for _, sv := range services {
		for _, m := range sv.Methods {
			d.Methods = append(d.Methods, node.Method{Service: sv.Name, Name: m.Name, Shape: m.Shape})
		}
	}
	return d, nil
}
