package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	newer "github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/new"
	older "github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/old"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// probe implements api.Probe.
type probe struct {
	m *cell.Membrane

	mu   sync.Mutex // guards load
	load *load
}

func (p *probe) Echo(_ context.Context, in *api.Text) (*api.Reply, error) {
	return &api.Reply{Text: in.Text, Cell: string(p.m.Name()), Replica: int32(p.m.Replica()), PID: int64(os.Getpid())}, nil
}

func (p *probe) Work(ctx context.Context, in *api.Text) (*api.Reply, error) { return p.Echo(ctx, in) }

func (p *probe) Sleep(ctx context.Context, in *api.Pause) (*api.Reply, error) {
	fmt.Println("sleeping", in.MS)
	select {
	case <-time.After(time.Duration(in.MS) * time.Millisecond):
		return p.Echo(ctx, &api.Text{Text: "slept"})
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *probe) Fail(_ context.Context, in *api.Text) (*api.Reply, error) {
	if code, ok := sdk.ParseCode(in.Text); ok {
		return nil, sdk.Errorf(code, "told to be %s", code)
	}
	panic("told to")
}

func (p *probe) Relay(_ context.Context, in *api.Route) (*api.Outcome, error) {
	// The deadline is the route's own, so that its outcome can be told.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(in.MS)*time.Millisecond)
	defer cancel()
	begun := time.Now()
	r, err := api.NewProbeClient(p.m.Synapse(sdk.CellName(in.To))).Echo(ctx, &api.Text{Text: in.Text})
	out := &api.Outcome{Reply: r, TookMS: time.Since(begun).Milliseconds()}
	if e := sdk.AsError(err); e != nil {
		out.Code, out.Executed, out.Error = e.Code.String(), e.Executed.String(), e.Error()
	}
	return out, nil
}

func (p *probe) Vitals(context.Context, *api.Query) (*api.Health, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	return &api.Health{PID: int64(os.Getpid()), Goroutines: int32(runtime.NumGoroutine()), FDs: int32(len(fds) - 1)}, err
}

func (p *probe) Churn(ctx context.Context, in *api.Cycles) (*api.Report, error) {
	report := &api.Report{}
	for range in.Count {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: os.Getenv(cell.EnvSocket), Net: "unixpacket"})
		if err != nil {
			return nil, err
		}
		m, err := cell.Attach(channel.New(conn), channel.Hello{})
		if err != nil {
			return nil, err
		}
		_, err = api.NewProbeClient(m.Synapse(sdk.CellName(in.To))).Work(ctx, &api.Text{Text: "churn"})
		if cerr := m.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
		report.OK++
	}
	return report, nil
}

func (p *probe) Load(_ context.Context, in *api.Order) (*api.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.load != nil {
		return nil, fmt.Errorf("load %q: one is under way", in.To)
	}
	p.load = &load{order: *in, quit: make(chan struct{})}
	p.load.begin(p.m.Synapse(sdk.CellName(in.To)))
	return &api.Report{}, nil
}

func (p *probe) Tally(_ context.Context, in *api.Query) (*api.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.load == nil {
		return nil, fmt.Errorf("tally: there is no load")
	}
	l := p.load
	if in.Stop {
		close(l.quit)
		l.wg.Wait()
		p.load = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	return &r, nil
}

// load is calls in the background.
type load struct {
	order api.Order
	quit  chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex // guards report
	report api.Report
}

func (l *load) begin(s *cell.Synapse) {
	one := l.method(s)
	for range l.order.Callers {
		l.wg.Go(func() {
			for {
				l.call(one)
				select {
				case <-l.quit:
					return
				case <-time.After(time.Duration(l.order.PauseUS) * time.Microsecond):
				}
			}
		})
	}
}

func (l *load) method(s *cell.Synapse) func(context.Context) error {
	p, o, n := api.NewProbeClient(s), older.NewStoreClient(s), newer.NewStoreClient(s)
	switch l.order.Method {
	case "work":
		return func(ctx context.Context) error { _, err := p.Work(ctx, &api.Text{Text: "load"}); return err }
	case "put1":
		return func(ctx context.Context) error {
			r, err := o.Put(ctx, &older.Item{Key: "k", Value: "v"})
			if err == nil && (r.Key != "k" || r.Version == 0) {
				err = fmt.Errorf("put: got %+v", r)
			}
			return err
		}
	case "put2":
		return func(ctx context.Context) error {
			r, err := n.Put(ctx, &newer.Item{Key: "k", Value: "v", Owner: "me"})
			if err == nil && (r.Key != "k" || r.Version == 2 && r.Owner != "me" || r.Version == 1 && r.Owner != "") {
				err = fmt.Errorf("put: got %+v", r)
			}
			return err
		}
	}
	return func(ctx context.Context) error { _, err := p.Echo(ctx, &api.Text{Text: "load"}); return err }
}

func (l *load) call(one func(context.Context) error) {
	limit := time.Duration(l.order.DeadlineMS) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	begun := time.Now()
	err := one(ctx)
	took := time.Since(begun)
	cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.Calls++
	r.LongestMS = max(r.LongestMS, took.Milliseconds())
	r.LateMS = max(r.LateMS, (took - limit).Milliseconds())
	switch sdk.CodeOf(err) {
	case sdk.CodeOK:
		r.OK++
		return
	case sdk.CodeUnavailable:
		r.Unavailable++
	case sdk.CodeDeadline:
		r.Deadline++
	default:
		r.Other++
	}
	if r.First == "" {
		r.First = fmt.Sprintf("%s (executed: %s)", err, sdk.AsError(err).Executed)
	}
}
