// The cell load calls targets at a fixed rate and judges every answer.
package main

import (
	"context"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const (
	maxRate   = 100_000
	maxSample = 100_000
	slowest   = int64(time.Minute)
)

type server struct {
	m    *cell.Membrane
	life context.Context // ends with the cell
	wg   sync.WaitGroup

	mu    sync.Mutex // guards all below
	load  *load
	later chan probe.Outcome
}

func (s *server) target(name string) probe.TargetClient {
	return probe.NewTargetClient(s.m.Synapse(sdk.CellName(name)))
}

// Start implements probe.Load.
func (s *server) Start(_ context.Context, p *probe.Plan) (*probe.None, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.load != nil:
		return nil, sdk.Errorf(sdk.CodeOverloaded, "start load: one is running")
	case p.Rate == 0 || p.Rate > maxRate || p.DeadlineMS == 0:
		return nil, sdk.Errorf(sdk.CodeInvalid, "start load: want a rate from 1 to %d and a deadline", maxRate)
	}
	l, err := newLoad(s.target(p.Cell), p)
	if err != nil {
		return nil, err
	}
	s.load = l
	s.wg.Go(func() { l.run(s.life) })
	return &probe.None{}, nil
}

// Stop implements probe.Load.
func (s *server) Stop(ctx context.Context, _ *probe.None) (*probe.Report, error) {
	s.mu.Lock()
	l := s.load
	s.load = nil
	s.mu.Unlock()
	if l == nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "stop load: none is running")
	}
	close(l.quit)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.done:
	}
	return &l.report, nil
}

// Later implements probe.Load.
func (s *server) Later(_ context.Context, later *probe.Later) (*probe.None, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(chan probe.Outcome, 1)
	s.later = out
	s.wg.Go(func() {
		select {
		case <-s.life.Done():
			return
		case <-time.After(time.Duration(later.AfterMS) * time.Millisecond):
		}
		var o probe.Outcome
		if _, err := s.target(later.Cell).Read(s.life, &probe.Item{}); err != nil {
			o.Error = err.Error()
		}
		now, err := probe.Now()
		if err != nil {
			o.Error = err.Error()
		}
		o.At = now
		out <- o
	})
	return &probe.None{}, nil
}

// Outcome implements probe.Load.
func (s *server) Outcome(ctx context.Context, _ *probe.None) (*probe.Outcome, error) {
	s.mu.Lock()
	later := s.later
	s.mu.Unlock()
	select {
	case o := <-later:
		return &o, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Sample implements probe.Load.
func (s *server) Sample(ctx context.Context, p *probe.Plan) (*probe.Times, error) {
	if p.Rate == 0 || p.Rate > maxSample {
		return nil, sdk.Errorf(sdk.CodeInvalid, "sample calls: want 1 to %d", maxSample)
	}
	client, times := s.target(p.Cell), &probe.Times{}
	h := hdrhistogram.New(1, slowest, 2)
	for i := range uint64(p.Rate) {
		begin := time.Now()
		reply, err := client.Read(ctx, &probe.Item{ID: i})
		if err != nil || reply.ID != i {
			times.Errors++
			continue
		}
		_ = h.RecordValue(min(int64(time.Since(begin)), slowest)) // in range
	}
	times.P50US, times.P99US = float64(h.ValueAtQuantile(50))/1000, float64(h.ValueAtQuantile(99))/1000
	return times, nil
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		s := &server{m: m, life: ctx}
		defer s.wg.Wait()
		probe.RegisterLoad(m, s)
		return m.Serve(ctx)
	})
}
