package kernel

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// Start implements [admin.Controller].
func (k *Kernel) Start(ctx context.Context, t admin.Target) error {
	if err := k.whole(t, "start"); err != nil {
		return err
	}
	return k.startCell(ctx, t.Cell)
}

// Stop implements [admin.Controller].
func (k *Kernel) Stop(ctx context.Context, t admin.Target) error {
	if err := k.whole(t, "stop"); err != nil {
		return err
	}
	return k.cells.Stop(ctx, t.Cell)
}

// Restart implements [admin.Controller].
func (k *Kernel) Restart(ctx context.Context, t admin.Target) error {
	if err := k.whole(t, "restart"); err != nil {
		return err
	}
	return k.cells.Restart(ctx, t.Cell)
}

// whole refuses single replicas: they are all alike, and the supervisor
// replaces the one that is missing at once.
func (k *Kernel) whole(t admin.Target, verb string) error {
	if t.Replica != 0 {
		return sdk.Errorf(sdk.CodeInvalid, "%s %s: want a cell, not one replica", verb, t)
	}
	if _, err := k.cells.Spec(t.Cell); err != nil {
		return sdk.Errorf(sdk.CodeNotFound, "%s %q: no such cell", verb, t.Cell)
	}
	return nil
}

// Scale implements [admin.Controller].
func (k *Kernel) Scale(ctx context.Context, name sdk.CellName, replicas int) error {
	if err := k.whole(admin.Target{Cell: name}, "scale"); err != nil {
		return err
	}
	if err := k.cells.Scale(ctx, name, replicas); err != nil {
		return err
	}
	return k.cells.WaitReady(ctx, name)
}

// RestartPlugin implements [admin.Controller].
func (k *Kernel) RestartPlugin(ctx context.Context, name string) error {
	return k.catalog.Restart(ctx, name)
}

// Down implements [admin.Controller].
func (k *Kernel) Down(ctx context.Context, r admin.DownRequest, yield func(admin.Event) error) error {
	select {
	case k.down <- r:
	default: // it is on its way already
	}
	var seen uint64 // by one goroutine at a time: that of Follow, then this one
	show := func(e admin.Event) error {
		seen = e.Seq
		if e.Kind != admin.EventDrain && (e.Process == nil || k.stateNow() != admin.StateDraining) {
			return nil
		}
		return yield(e)
	}
	watch, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- k.journal.Follow(watch, 0, show) }()
	select {
	case <-k.drained:
	case <-ctx.Done():
	}
	stop()
	err := <-failed
	if last := k.journal.Last(); err == nil && seen < last { // how the last processes ended
		err = k.journal.Follow(ctx, seen, func(e admin.Event) error {
			if err := show(e); err != nil || e.Seq < last {
				return err
			}
			return errSeen
		})
	}
	if errors.Is(err, errSeen) {
		err = nil
	}
	return errors.Join(err, ctx.Err())
}

// errSeen ends the reading of events.
var errSeen = errors.New("all events were read")

func (k *Kernel) stateNow() admin.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

// Apply implements [admin.Controller].
func (k *Kernel) Apply(ctx context.Context, p admin.Plan) ([]admin.Change, error) {
	g, origins, err := k.opt.Load(p)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	wanted, err := selectCells(g, p)
	if err != nil {
		return nil, err
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	if p.DryRun {
		return k.foresee(g, wanted)
	}
	old, before := k.stamps()
	if err := k.build(ctx, g, wanted); err != nil {
		return nil, err
	}
	_, after := k.stamps()
	todo := k.steps(old, g, wanted)
	for _, name := range wanted {
		if before[name] != "" && before[name] != after[name] {
			todo = rebuilt(todo, name)
		}
	}
	if k.stateNow() == admin.StateDraining {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "apply: the kernel is shutting down")
	}
	k.doubt(old.Doubts(k.wantedCells()), g.Doubts(wanted))
	defer k.network.Changed() // who listens may have changed, and whatever else is announced
	if err := k.carryOut(ctx, g, wanted, todo); err != nil {
		return changes(todo), uncovered(err)
	}
	k.mu.Lock()
	k.origins, k.plan = origins, p
	k.mu.Unlock()
	return changes(todo), nil
}

// foresee lists what Apply would do. It writes nothing: what has to be built
// is known by its sources.
func (k *Kernel) foresee(g *genome.Genome, wanted []sdk.CellName) ([]admin.Change, error) {
	stale, err := k.opt.Stale(g.Packages(wanted), k.dirs.bin)
	if err != nil {
		return nil, err
	}
	old, before := k.stamps()
	todo := k.steps(old, g, wanted)
	for _, name := range stale {
		if before[name] != "" {
			todo = rebuilt(todo, name)
		}
	}
	return changes(todo), nil
}

// stamps returns the genome and what is known of the programs of its cells.
func (k *Kernel) stamps() (*genome.Genome, map[sdk.CellName]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := make(map[sdk.CellName]string, len(k.built))
	for n, b := range k.built {
		m[n] = b.stamp
	}
	return k.genome, m
}

// steps lists what leads from what runs to what is wanted.
func (k *Kernel) steps(old, g *genome.Genome, wanted []sdk.CellName) []genome.Change {
	running := k.wantedCells()
	var steps []genome.Change
	for _, c := range genome.Diff(old, g) {
		if c.Cell == "" || c.Op == genome.OpRemove && slices.Contains(running, c.Cell) ||
			c.Op != genome.OpRemove && slices.Contains(wanted, c.Cell) {
			steps = append(steps, c)
		}
	}
	for _, name := range wanted {
		listed := slices.ContainsFunc(steps, func(c genome.Change) bool { return c.Cell == name && c.Op == genome.OpAdd })
		if !slices.Contains(running, name) && !listed {
			steps = append(steps, genome.Change{Op: genome.OpAdd, Key: "cells." + string(name), Cell: name})
		}
	}
	return append(steps, k.scaledByHand(g, wanted, steps)...)
}

// scaledByHand lists cells whose number was changed since by "scale": the file
// decides again.
func (k *Kernel) scaledByHand(g *genome.Genome, wanted []sdk.CellName, steps []genome.Change) []genome.Change {
	var more []genome.Change
	for _, name := range wanted {
		spec, err := k.cells.Spec(name)
		if err != nil || spec.Replicas == g.Cells[name].Replicas ||
			slices.ContainsFunc(steps, func(c genome.Change) bool { return c.Cell == name && c.Op != genome.OpUpdate }) {
			continue
		}
		more = append(more, genome.Change{
			Op: genome.OpScale, Key: "cells." + string(name), Cell: name,
			From: strconv.Itoa(spec.Replicas), To: strconv.Itoa(g.Cells[name].Replicas),
		})
	}
	return more
}

// rebuilt makes sure that a cell whose program changed is replaced.
func rebuilt(steps []genome.Change, name sdk.CellName) []genome.Change {
	for _, s := range steps {
		if s.Cell == name && (s.Op == genome.OpAdd || s.Op == genome.OpRestart || s.Op == genome.OpRemove) {
			return steps
		}
	}
	return append(steps, genome.Change{Op: genome.OpRestart, Key: "cells." + string(name), Cell: name, Fields: []string{"program"}})
}

func changes(steps []genome.Change) []admin.Change {
	list := []admin.Change{}
	for _, c := range steps {
		list = append(list, admin.Change{Op: string(c.Op), Key: c.Key, Cell: c.Cell, Fields: c.Fields, From: c.From, To: c.To})
	}
	return list
}

// carryOut takes the steps one by one; cells that stay are replaced replica by
// replica. What the kernel believes to run changes with each step, so that the
// next plan takes up what this one could not finish.
func (k *Kernel) carryOut(ctx context.Context, g *genome.Genome, wanted []sdk.CellName, steps []genome.Change) error {
	k.mu.Lock()
	old := k.genome
	k.mu.Unlock()
	if err := k.applyNetwork(ctx, old, g, wanted); err != nil {
		return err
	}
	var added []sdk.CellName
	for _, c := range steps {
		if c.Op == genome.OpAdd && c.Cell != "" {
			k.install(c.Cell, g)
			if err := k.addCell(g, c.Cell); err != nil {
				return err
			}
			added = append(added, c.Cell)
		}
	}
	for _, c := range steps {
		if err := k.step(ctx, g, c); err != nil {
			k.install(c.Cell, old)
			return err
		}
	}
	k.mu.Lock()
	k.wanted = wanted
	merged := *k.genome
	merged.Workspace = g.Workspace
	k.genome = &merged
	k.mu.Unlock()
	return k.startCells(ctx, added)
}

// applyNetwork makes plugins and listeners those of g, and what is announced
// with them. The kernel's own settings stay: those need a reboot.
func (k *Kernel) applyNetwork(ctx context.Context, old, g *genome.Genome, wanted []sdk.CellName) error {
	merged := *old
	merged.Golgi.Discovery, merged.Plugins, merged.Cells = g.Golgi.Discovery, g.Plugins, g.Cells
	if err := k.network.Sync(ctx, &merged, wanted, false); err != nil {
		k.revertNetwork(ctx)
		return err
	}
	merged.Cells = old.Cells
	k.mu.Lock()
	k.genome, k.file = &merged, g
	k.mu.Unlock()
	return nil
}

// install makes a cell's entry in the genome that runs, and among those that
// do, that of g, or removes it.
func (k *Kernel) install(name sdk.CellName, g *genome.Genome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	merged := *k.genome
	merged.Cells = maps.Clone(k.genome.Cells)
	delete(merged.Cells, name)
	if c := g.Cells[name]; c != nil {
		merged.Cells[name] = c
		if !slices.Contains(k.wanted, name) {
			k.wanted = append(slices.Clone(k.wanted), name)
		}
	} else {
		k.wanted = slices.DeleteFunc(slices.Clone(k.wanted), func(n sdk.CellName) bool { return n == name })
	}
	k.genome = &merged
}

// step carries out one change.
func (k *Kernel) step(ctx context.Context, g *genome.Genome, c genome.Change) error {
	if c.Cell == "" || c.Op == genome.OpAdd {
		return nil // settings of the kernel need a reboot, as the change says
	}
	k.install(c.Cell, g)
	if c.Op == genome.OpRemove {
		if err := k.cells.Remove(ctx, c.Cell); err != nil {
			return err
		}
		k.golgi.Forget(c.Cell)
		return nil
	}
	k.golgi.Route(c.Cell, routes(g, g.Cells[c.Cell]))
	switch c.Op {
	case genome.OpRestart:
		return k.cells.Update(ctx, k.cellSpec(g.Cells[c.Cell]))
	case genome.OpScale:
		return k.Scale(ctx, c.Cell, g.Cells[c.Cell].Replicas)
	}
	return nil
}
