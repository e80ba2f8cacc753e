// The cell target answers loads. Started with -exit it exits at once.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type target struct{ life context.Context } // which ends with the cell

// Read implements probe.Target.
func (target) Read(_ context.Context, item *probe.Item) (*probe.Item, error) { return item, nil }

// Write implements probe.Target.
func (target) Write(_ context.Context, item *probe.Item) (*probe.Item, error) { return item, nil }

// Vitals implements probe.Target.
func (target) Vitals(context.Context, *probe.None) (*probe.Vitals, error) {
	return probe.Take(), nil
}

// Hang implements probe.Target.
func (target) Hang(context.Context, *probe.None) (*probe.None, error) { select {} }

// Shout implements probe.Target.
func (t target) Shout(context.Context, *probe.None) (*probe.None, error) {
	go shout(t.life)
	return &probe.None{}, nil
}

func main() {
	if slices.Contains(os.Args, "-exit") {
		fmt.Fprintln(os.Stderr, "target: the disk is on fire")
		os.Exit(3)
	}
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		probe.RegisterTarget(m, target{ctx})
		return m.Serve(ctx)
	})
}

// shout writes lines until ctx is done. The process ends without waiting for
// it, since a write may be held up for as long as the reader likes.
func shout(ctx context.Context) {
	line := fmt.Appendf(nil, "%0120d\n", 7)
	for ctx.Err() == nil {
		if _, err := os.Stdout.Write(line); err != nil {
			return
		}
	}
}
