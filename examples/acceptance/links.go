package main

import (
	"context"
	"fmt"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const (
	cycles     = 10_000
	warmCycles = 200
	batch      = 500 // cycles of one call
	maxHeap    = 1 << 20
)

// watchedGenome is a genome in which all that links pass tells what it holds.
const watchedGenome = `
[plugins.transport-uds]
use = "BIN/transport-uds"
` + victims

// victims is a genome in which a rogue may be run beside a load.
const victims = `
[cells.target]
command = ["BIN/target"]

[cells.spare]
command = ["BIN/target"]

[cells.load]
command = ["BIN/load"]

[cells.load.axons]
target = "axon://target"
spare  = "axon://spare"

[cells.rogue]
command = ["true"]
job     = true

[cells.rogue.axons]
target = "axon://target"
`

// rogue runs the rogue cell by hand.
func rogue(ctx context.Context, k *lab.Kernel, l *lab.Lab, args ...string) (string, error) {
	command := append([]string{"run", "rogue", "--", l.Bin("rogue")}, args...)
	r, err := l.Exec(ctx, k.Dir, l.Command, command...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("run rogue %v: exit code %d\n%s", args, r.Code, r.Stderr)
	}
	return r.Stdout, err
}

// cycle opens and closes links to the target: those of a cell that speaks its
// protocol by hand, over one attachment, and those of the sdk, with an
// attachment for each.
func cycle(ctx context.Context, k *lab.Kernel, l *lab.Lab, n int) error {
	if _, err := rogue(ctx, k, l, "cycle", "target", fmt.Sprint(n)); err != nil {
		return err
	}
	for done := 0; done < n; done += batch {
		c := probe.Cycles{Cell: "target", Count: uint32(min(batch, n-done))}
		if err := k.Call(ctx, "load.Cycle", c, &probe.None{}); err != nil {
			return err
		}
	}
	return nil
}

func tryLinks(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "links", watchedGenome)
	if err != nil {
		return err
	}
	s, err := newScales(ctx, k)
	if err != nil {
		return err
	}
	if err := cycle(ctx, k, l, warmCycles); err != nil {
		return err
	}
	before, err := s.rest(ctx, nil)
	if err != nil {
		return err
	}
	if err := cycle(ctx, k, l, cycles); err != nil {
		return err
	}
	after, err := s.rest(ctx, before)
	if err != nil {
		return err
	}
	more := after.more(before)
	f.add("links-fds", more.fds <= 0, "%d (%s)", more.fds, after.describe(before, func(h holding) string { return fmt.Sprint(h.fds) }))
	f.add("links-goroutines", more.goroutines <= 0, "%d (%s)", more.goroutines, after.describe(before, func(h holding) string { return fmt.Sprint(h.goroutines) }))
	f.add("links-heap", more.heap <= maxHeap, "%d KiB (%s)", more.heap>>10, after.describe(before, func(h holding) string { return fmt.Sprint(h.heap >> 10) }))
	return k.Down(ctx)
}
