package main

import (
	"fmt"
	"runtime"

	"github.com/cellkernel/cellkernel/examples/bench/result"
)

const (
	claimedRate   = 100_000 // calls/s between cells of one machine
	claimedMedian = 1000    // us
)

// claims judges what Cell's README says.
func claims(rows []result.Row) []result.Claim {
	best, median, errs := 0.0, 0.0, uint64(0)
	for _, r := range rows {
		if r.System != result.Cellkernel {
			continue
		}
		best = max(best, r.CallsPerS)
		errs += r.Errors
	}
	if r, ok := result.Find(rows, "echo-64B", 1, result.Cellkernel); ok {
		median = r.P50US
	}
	return []result.Claim{
		{
			Claim: "100 000 calls a second on one machine", Bound: ">= 100000 calls/s",
			Value: fmt.Sprintf("%.0f calls/s", best), OK: best >= claimedRate,
		},
		{
			Claim: "less than a millisecond (median, one call at a time)", Bound: "< 1000 us",
			Value: fmt.Sprintf("%.1f us", median), OK: median > 0 && median < claimedMedian,
		},
		{
			Claim: "every call answered, every reply right", Bound: "0 errors",
			Value: fmt.Sprintf("%d errors", errs), OK: errs == 0,
		},
	}
}

// burnClaims judges whether work that was asked for is done, and spread.
func (b *bench) burnClaims() []result.Claim {
	if b.quick {
		return nil // a few calls judge nothing
	}
	var list []result.Claim
	for _, x := range b.burns {
		list = append(list, result.Claim{
			Claim: x.row.Name + ": the workers' CPU by calls x 1 ms", Bound: fmt.Sprintf(">= %.2f", minCPU),
			Value: fmt.Sprintf("%.3f", x.cpu), OK: x.cpu >= minCPU,
		})
	}
	if len(b.burns) == 2 {
		scale := b.burns[1].row.CallsPerS / b.burns[0].row.CallsPerS
		list = append(list, result.Claim{
			Claim: fmt.Sprintf("%s by %s on %d cores", b.burns[1].row.Name, b.burns[0].row.Name, runtime.NumCPU()),
			Bound: fmt.Sprintf(">= %.1f x", minScale), Value: fmt.Sprintf("%.2f x", scale), OK: scale >= minScale,
		})
	}
	return list
}
