// The job shopper has tasks done by whoever serves "burner", and says who did
// how many.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/cellkernel/cellkernel/examples/market/burn"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const (
	customers = 2      // at once
	micros    = 20_000 // of each task
)

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		tasks, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return err
		}
		return shop(ctx, burn.NewBurnerClient(m.Synapse("burner")), tasks)
	})
}

func shop(ctx context.Context, b burn.BurnerClient, tasks int) error {
	var mu sync.Mutex // guards what follows
	done, failed := map[uint32]int{}, error(nil)
	var wg sync.WaitGroup
	for range customers {
		wg.Go(func() {
			for range tasks / customers {
				ash, err := b.Burn(ctx, &burn.Task{Micros: micros})
				mu.Lock()
				if err != nil {
					failed = err
				} else {
					done[ash.Replica]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for replica, n := range done {
		fmt.Printf("burner#%d of the donor did %d tasks\n", replica, n)
	}
	return failed
}
