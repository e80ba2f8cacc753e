//go:build !race

package gentest_test

import (
	"context"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen/gentest"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

// On the view path a call costs nothing on the calling side and at most one
// allocation, the handler's context, on the serving side. Both are in this
// process, so the sum is what can be seen.
func TestCallAllocations(t *testing.T) {
	k := celltest.New(t)
	k.Serve("kitchen", func(m *cell.Membrane) { gentest.RegisterKitchenViews(m, viewer{}) })
	c := gentest.NewKitchenClient(k.Synapse("kitchen"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dish := &gentest.Dish{ID: 1}
	call := func() {
		lease, err := c.TasteView(ctx, dish)
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
	}
	for range 100 {
		call()
	}
	if n := testing.AllocsPerRun(2000, call); n > 1 {
		t.Errorf("%v allocations a call, want at most 1", n)
	}
}
