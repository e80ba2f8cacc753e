package main

import (
	"context"
	"fmt"

	"github.com/cellkernel/cellkernel/examples/bench/result"
)

const (
	burnCalls   = 1600
	burnCallers = 16
	minCPU      = 0.95 // of what the calls must have cost
	minScale    = 1.7  // four replicas by one
)

// burned is what one row of burning cost.
type burned struct {
	row result.Row
	cpu float64 // of the workers, by calls x 1 ms
}

// burn measures calls of 1 ms CPU each, and what the workers' processes say
// they have used.
func (b *bench) burn(ctx context.Context, c *cells) (result.Row, error) {
	w := workload{name: fmt.Sprintf("burn-%d", c.replicas), kind: burn, inFlight: burnCallers, calls: burnCalls}
	before, err := c.sum(ctx)
	if err != nil {
		return result.Row{}, err
	}
	s, err := checked(ctx, c, w, b.burnLimit(w))
	if err != nil {
		return result.Row{}, fmt.Errorf("measure %s: %w", w.name, err)
	}
	after, err := c.sum(ctx)
	if err != nil {
		return result.Row{}, err
	}
	row := median(w, result.Cellkernel, []*sample{s})
	calls := after.Calls - before.Calls // the warm-up's as well
	cpu := float64(after.CPUMicros-before.CPUMicros) / (float64(max(1, calls)) * burnMicros)
	b.burns = append(b.burns, burned{row, cpu})
	b.progress(row)
	return row, nil
}

func (b *bench) burnLimit(w workload) limit {
	l := b.limit(w, result.Cellkernel)
	if b.quick {
		l.calls = 2
	}
	return l
}
