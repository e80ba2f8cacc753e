package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/bench/result"
)

// A caller belongs to one goroutine. call makes width calls at once and checks
// every reply.
type caller struct {
	call  func(ctx context.Context) error
	width int
}

// A server is one way to have a workload answered.
type server interface {
	// open connects as many callers as w wants in flight. close disconnects.
	open(ctx context.Context, w workload) (cs []caller, close func(), err error)
	// count returns how many calls the handlers have answered so far.
	count(ctx context.Context) (uint64, error)
}

// A sample is one round of one server.
type sample struct {
	calls, errors uint64
	elapsed       time.Duration
	latency       *hdrhistogram.Histogram // ns
}

func (s *sample) rate() float64 { return float64(s.calls-s.errors) / s.elapsed.Seconds() }

const (
	slowest   = int64(time.Minute) // of what a histogram tells apart
	digits    = 2
	maxErrors = 1000 // of one caller: then it stops
	warming   = 20   // calls of each caller before the clock starts
)

func newLatency() *hdrhistogram.Histogram { return hdrhistogram.New(1, slowest, digits) }

// limit ends a round: after so many calls for each that is in flight (0: no
// matter how many) or when it has lasted so long, whatever is first.
type limit struct {
	calls int
	time  time.Duration
}

// measure lets all callers call in closed loops, each as soon as it has its
// last reply, until the limit.
func measure(ctx context.Context, cs []caller, l limit) (*sample, error) {
	start := make(chan struct{})
	parts := make([]part, len(cs))
	var wg sync.WaitGroup
	for i, c := range cs {
		parts[i].took = make([]int64, 0, 1<<12)
		wg.Go(func() { <-start; loop(ctx, c, l, &parts[i]) })
	}
	begin := time.Now()
	close(start)
	wg.Wait()
	all := &sample{elapsed: time.Since(begin), latency: newLatency()}
	for i := range parts {
		all.calls += parts[i].calls
		all.errors += parts[i].errors
		for _, ns := range parts[i].took {
			if err := all.latency.RecordValues(min(ns, slowest), int64(cs[i].width)); err != nil {
				return nil, fmt.Errorf("record latency: %w", err)
			}
		}
	}
	return all, ctx.Err()
}

// A part is what one caller measured. Its times become a histogram after the
// round: hundreds of histograms at once would not fit into the caches, and
// measure themselves.
type part struct {
	calls, errors uint64
	took          []int64 // ns, one for each time c.call returned well
}

// loop is one caller. A call begins when the one before ended, so one reading
// of the clock serves both. No system's calls can be cancelled: ctx ends the
// loop between two of them.
func loop(ctx context.Context, c caller, l limit, s *part) {
	begin := time.Now()
	before := time.Duration(0)
	for s.errors < maxErrors && ctx.Err() == nil {
		err := c.call(context.Background())
		now := time.Since(begin) // reads one clock; time.Now reads two
		s.calls += uint64(c.width)
		if err != nil {
			s.errors += uint64(c.width)
		} else {
			s.took = append(s.took, int64(now-before))
		}
		before = now
		if l.calls > 0 && s.calls >= uint64(l.calls*c.width) || now >= l.time {
			return
		}
	}
}

// checked measures and compares the handlers' counters with the calls made.
func checked(ctx context.Context, v server, w workload, l limit) (*sample, error) {
	before, err := v.count(ctx)
	if err != nil {
		return nil, err
	}
	cs, closeAll, err := v.open(ctx, w)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	warm, err := measure(ctx, cs, limit{calls: min(warming, max(1, l.calls)), time: l.time})
	if err != nil {
		return nil, err
	}
	s, err := measure(ctx, cs, l)
	if err != nil {
		return nil, err
	}
	after, err := v.count(ctx)
	if err != nil {
		return nil, err
	}
	made, failed, counted := warm.calls+s.calls, warm.errors+s.errors, after-before
	if counted > made || counted < made-failed {
		return nil, fmt.Errorf("count calls: %d made, %d failed, but the handlers counted %d", made, failed, counted)
	}
	return s, nil
}

// median sums up the rounds of one server: medians of rate and latencies,
// sums of calls and errors.
func median(w workload, system string, rounds []*sample) result.Row {
	row := result.Row{Name: w.name, System: system, PayloadBytes: w.payload, InFlight: w.inFlight}
	var rates, p50, p99, p999 []float64
	for _, s := range rounds {
		row.Calls += s.calls
		row.Errors += s.errors
		rates = append(rates, s.rate())
		p50 = append(p50, micros(s.latency, 50))
		p99 = append(p99, micros(s.latency, 99))
		p999 = append(p999, micros(s.latency, 99.9))
	}
	row.CallsPerS, row.P50US, row.P99US, row.P999US = middle(rates), middle(p50), middle(p99), middle(p999)
	return row
}

func micros(h *hdrhistogram.Histogram, percentile float64) float64 {
	return float64(h.ValueAtQuantile(percentile)) / 1000
}

// middle returns the median of a list that is not empty.
func middle(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
