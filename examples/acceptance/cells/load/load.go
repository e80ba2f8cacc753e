package main

import (
	"context"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	tenth      = int64(100 * time.Millisecond)
	maxTenths  = 10 * 60 * 10 // ten minutes
	maxTexts   = 8
	maxWaiting = 20_000 // calls without an answer; beyond, the load waits
)

// A load makes calls at times that do not depend on the answers.
type load struct {
	client probe.TargetClient
	plan   probe.Plan
	quit   chan struct{}
	done   chan struct{} // closed when report is complete

	mu     sync.Mutex // guards report
	report probe.Report
}

func newLoad(client probe.TargetClient, p *probe.Plan) (*load, error) {
	now, err := probe.Now()
	if err != nil {
		return nil, err
	}
	return &load{
		client: client, plan: *p, quit: make(chan struct{}), done: make(chan struct{}),
		report: probe.Report{Begin: now},
	}, nil
}

// run calls until quit is closed. What is late is called at once.
func (l *load) run(ctx context.Context) {
	defer close(l.done)
	var calls sync.WaitGroup
	defer calls.Wait()
	interval := time.Second / time.Duration(l.plan.Rate)
	waiting := make(chan struct{}, maxWaiting)
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := time.Now()
	for id := uint64(0); ; id++ {
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return
		case <-l.quit:
			return
		case <-timer.C:
		}
		next = next.Add(interval)
		waiting <- struct{}{}
		calls.Go(func() {
			l.call(ctx, id)
			<-waiting
		})
	}
}

// call makes one call: reads and writes take turns.
func (l *load) call(ctx context.Context, id uint64) {
	deadline := time.Now().Add(time.Duration(l.plan.DeadlineMS) * time.Millisecond)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	call := l.client.Read
	if id%2 == 1 {
		call = l.client.Write
	}
	reply, err := call(ctx, &probe.Item{ID: id})
	if err == nil && reply.ID != id {
		err = sdk.Errorf(sdk.CodeInternal, "reply to another call")
	}
	late := time.Since(deadline)
	now, clock := probe.Now()
	if clock != nil {
		err = clock
	}
	l.count(id%2 == 1, err, late, (now-l.report.Begin)/tenth)
}

func (l *load) count(write bool, err error, late time.Duration, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.Calls++
	r.LateUS = max(r.LateUS, late.Microseconds())
	switch {
	case err == nil && at < maxTenths:
		for int64(len(r.Answered)) <= at {
			r.Answered = append(r.Answered, 0)
		}
		r.Answered[at]++
		return
	case err == nil:
		return
	case !write:
		r.ReadErrors++
	default:
		r.WriteErrors++
		if sdk.CodeOf(err) == sdk.CodeUnavailable {
			r.Unavailable++
		}
	}
	if len(r.Texts) < maxTexts {
		r.Texts = append(r.Texts, err.Error())
	}
}
