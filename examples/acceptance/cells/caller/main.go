// The cell caller puts echoes under load and judges every answer. Started with
// "-first NAME" it makes its first call before it is asked.
package main

import (
	"context"
	"flag"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const (
	maxRate    = 100_000
	maxCallers = 4096
	maxBytes   = 1 << 20
	firstMS    = 60_000
)

type server struct {
	m    *cell.Membrane
	life context.Context // ends with the cell
	wg   sync.WaitGroup

	mu      sync.Mutex // guards all below
	load    *load
	reached chan netprobe.Outcome
}

func (s *server) echo(name string) netprobe.EchoClient {
	return netprobe.NewEchoClient(s.m.Synapse(sdk.CellName(name)))
}

// Expect implements netprobe.Caller.
func (s *server) Expect(_ context.Context, g *netprobe.Goal) (*netprobe.None, error) {
	begun, err := netprobe.Now()
	if err != nil {
		return nil, err
	}
	goal, out := *g, make(chan netprobe.Outcome, 1)
	s.mu.Lock()
	s.reached = out
	s.mu.Unlock()
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, time.Duration(goal.MS)*time.Millisecond)
		defer cancel()
		o := netprobe.Outcome{Begun: begun}
		b, err := s.echo(goal.Cell).Read(ctx, &netprobe.Ball{})
		if err == nil {
			o.By = b.By
			o.Ended, err = netprobe.Now()
		}
		if err != nil {
			o.Error = err.Error()
		}
		out <- o
	})
	return &netprobe.None{}, nil
}

// Reached implements netprobe.Caller.
func (s *server) Reached(ctx context.Context, _ *netprobe.None) (*netprobe.Outcome, error) {
	s.mu.Lock()
	reached := s.reached
	s.mu.Unlock()
	select {
	case o := <-reached:
		return &o, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Start implements netprobe.Caller.
func (s *server) Start(_ context.Context, p *netprobe.Plan) (*netprobe.None, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.load != nil:
		return nil, sdk.Errorf(sdk.CodeOverloaded, "start load: one is running")
	case p.Rate > maxRate || p.Callers > maxCallers || (p.Rate == 0) == (p.Callers == 0) || p.MS == 0 || p.Bytes > maxBytes:
		return nil, sdk.Errorf(sdk.CodeInvalid, "start load: want a rate to %d or callers to %d, a deadline, and bytes to %d", maxRate, maxCallers, maxBytes)
	}
	s.load = newLoad(s.echo(p.Cell), p)
	s.wg.Go(func() { s.load.run(s.life) })
	return &netprobe.None{}, nil
}

// Report implements netprobe.Caller.
func (s *server) Report(context.Context, *netprobe.None) (*netprobe.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.load == nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "report of load: none is running")
	}
	return s.load.result(), nil
}

// Stop implements netprobe.Caller.
func (s *server) Stop(ctx context.Context, _ *netprobe.None) (*netprobe.Report, error) {
	s.mu.Lock()
	l := s.load
	s.load = nil
	s.mu.Unlock()
	if l == nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "stop load: none is running")
	}
	if l.plan.Calls == 0 {
		close(l.quit)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.done:
		return l.result(), nil
	}
}

func main() {
	first := flag.String("first", "", "the cell to call at once")
	flag.Parse()
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		s := &server{m: m, life: ctx}
		defer s.wg.Wait()
		netprobe.RegisterCaller(m, s)
		if *first != "" {
			if _, err := s.Expect(ctx, &netprobe.Goal{Cell: *first, MS: firstMS}); err != nil {
				return err
			}
		}
		return m.Serve(ctx)
	})
}
