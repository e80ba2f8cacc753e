// The cell target2 is the next version of target.
package main

import (
	"context"
	"runtime"

	"github.com/cellkernel/cellkernel/examples/acceptance/probe2"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type target struct{}

// Read implements probe2.Target.
func (target) Read(_ context.Context, item *probe2.Item) (*probe2.Item, error) {
	item.Added++
	return item, nil
}

// Write implements probe2.Target.
func (target) Write(_ context.Context, item *probe2.Item) (*probe2.Item, error) {
	item.Added++
	return item, nil
}

// Vitals implements probe2.Target.
func (target) Vitals(context.Context, *probe2.None) (*probe2.Vitals, error) {
	return &probe2.Vitals{Goroutines: uint32(runtime.NumGoroutine())}, nil
}

// Version implements probe2.Target.
func (target) Version(context.Context, *probe2.None) (*probe2.Item, error) {
	return &probe2.Item{Text: "two"}, nil
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		probe2.RegisterTarget(m, target{})
		return m.Serve(ctx)
	})
}
