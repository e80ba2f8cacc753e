// The cell payer has the cell burner work for it, in the way its flags say.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/meterprobe"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

func main() {
	how := flag.String("how", "spin", "burn, spin, sleep or hold")
	each := flag.Duration("each", 10*time.Second, "a call")
	calls := flag.Int("calls", 1, "one after the other")
	width := flag.Int("width", 1, "of those at once")
	flag.Parse()
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		c := meterprobe.NewBurnerClient(m.Synapse("burner"))
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		errs := make([]error, *width)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				for range *calls {
					errs[i] = errors.Join(errs[i], call(ctx, c, *how, *each))
				}
			})
		}
		all.Wait()
		return errors.Join(errs...)
	})
}

func call(ctx context.Context, c meterprobe.BurnerClient, how string, each time.Duration) error {
	job := &meterprobe.Job{MS: uint32(each.Milliseconds())}
	var err error
	switch how {
	case "burn":
		_, err = c.Burn(ctx, job)
	case "spin":
		_, err = c.Spin(ctx, job)
	case "sleep":
		_, err = c.Sleep(ctx, job)
	case "hold":
		err = hold(ctx, c, each)
	default:
		err = fmt.Errorf("unknown")
	}
	return err
}

// hold keeps a stream open, and says a word ten times.
func hold(ctx context.Context, c meterprobe.BurnerClient, each time.Duration) error {
	jobs, err := c.Hold(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(each / 10)
	defer tick.Stop()
	for range 10 {
		if err := jobs.Send(&meterprobe.Job{}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err = jobs.CloseAndRecv()
	return err
}
