// The cell load calls targets and judges every answer. It opens and closes
// links, too.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const (
	maxRate     = 100_000
	maxInFlight = 1024
	maxHangs    = 64
	slowest     = int64(time.Minute)
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
	case (p.Rate == 0) == (p.InFlight == 0) || p.Rate > maxRate || p.InFlight > maxInFlight || p.DeadlineMS == 0:
		return nil, sdk.Errorf(sdk.CodeInvalid, "start load: want a rate up to %d, or up to %d in flight, and a deadline", maxRate, maxInFlight)
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
	client, times := s.target(p.Cell), &probe.Times{}
	h := hdrhistogram.New(1, slowest, 2)
	begin := time.Now()
	for end := begin.Add(time.Duration(p.DeadlineMS) * time.Millisecond); begin.Before(end); times.Calls++ {
		reply, err := client.Read(ctx, &probe.Item{ID: times.Calls})
		now := time.Now()
		if err != nil || reply.ID != times.Calls {
			times.Errors++
		}
		_ = h.RecordValue(min(int64(now.Sub(begin)), slowest)) // in range
		begin = now
	}
	times.P50US, times.P99US = float64(h.ValueAtQuantile(50))/1000, float64(h.ValueAtQuantile(99))/1000
	return times, nil
}

// Cycle implements probe.Load. Each round is a membrane of its own, since links
// are closed with theirs.
func (s *server) Cycle(ctx context.Context, c *probe.Cycles) (*probe.None, error) {
	for i := range uint64(c.Count) {
		if err := cycle(ctx, sdk.CellName(c.Cell), i); err != nil {
			return nil, fmt.Errorf("cycle %d: %w", i, err)
		}
	}
	return &probe.None{}, nil
}

func cycle(ctx context.Context, name sdk.CellName, id uint64) error {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: os.Getenv(cell.EnvSocket), Net: "unixpacket"})
	if err != nil {
		return err
	}
	m, err := cell.Attach(channel.New(conn), channel.Hello{})
	if err != nil {
		return err
	}
	reply, err := probe.NewTargetClient(m.Synapse(name)).Read(ctx, &probe.Item{ID: id})
	if err == nil && reply.ID != id {
		err = sdk.Errorf(sdk.CodeInternal, "reply to another call")
	}
	return errors.Join(err, m.Close())
}

// Hang implements probe.Load.
func (s *server) Hang(ctx context.Context, p *probe.Plan) (*probe.None, error) {
	if p.Rate == 0 || p.Rate > maxHangs || p.DeadlineMS == 0 {
		return nil, sdk.Errorf(sdk.CodeInvalid, "hang: want 1 to %d calls and a deadline", maxHangs)
	}
	client := s.target(p.Cell)
	ended := make(chan error, p.Rate)
	for range p.Rate {
		s.wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(p.DeadlineMS)*time.Millisecond)
			defer cancel()
			_, err := client.Hang(ctx, &probe.None{})
			if sdk.CodeOf(err) == sdk.CodeDeadline {
				err = nil
			} else {
				err = sdk.Errorf(sdk.CodeInternal, "hang: want the deadline, got %v", err)
			}
			ended <- err
		})
	}
	var failed error
	for range p.Rate {
		failed = errors.Join(failed, <-ended)
	}
	return &probe.None{}, failed
}

// Vitals implements probe.Load.
func (s *server) Vitals(context.Context, *probe.None) (*probe.Vitals, error) {
	return probe.Take(), nil
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		s := &server{m: m, life: ctx}
		defer s.wg.Wait()
		probe.RegisterLoad(m, s)
		return m.Serve(ctx)
	})
}
