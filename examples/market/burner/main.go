// The cell burner computes as long as it is told to.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/examples/market/burn"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type burner struct{ replica int }

// Burn implements burn.Burner.
func (b burner) Burn(ctx context.Context, t *burn.Task) (*burn.Ash, error) {
	ash := &burn.Ash{Replica: uint32(b.replica)}
	var sum [32]byte
	for end := time.Now().Add(time.Duration(t.Micros) * time.Microsecond); time.Now().Before(end) && ctx.Err() == nil; ash.Rounds++ {
		for range 64 {
			sum = sha256.Sum256(sum[:])
		}
	}
	return ash, ctx.Err()
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		burn.RegisterBurner(m, burner{m.Replica()})
		fmt.Println("open for whoever pays")
		return m.Serve(ctx)
	})
}
