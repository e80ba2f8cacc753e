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

// A load makes calls: at times that do not depend on the answers, or, if its
// plan says how many in flight, in a closed loop, as fast as answers come.
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

// run calls until quit is closed.
func (l *load) run(ctx context.Context) {
	defer close(l.done)
	if l.plan.InFlight > 0 {
		l.loop(ctx)
	} else {
		l.pace(ctx)
	}
}

// loop has each of its callers call again when it has its answer. They count
// for themselves, so that counting does not hold up the others.
func (l *load) loop(ctx context.Context) {
	var callers sync.WaitGroup
	defer callers.Wait()
	for i := range uint64(l.plan.InFlight) {
		callers.Go(func() {
			mine := probe.Report{Begin: l.report.Begin}
			for id := i; !l.over(ctx); id += uint64(l.plan.InFlight) {
				count(&mine, l.call(ctx, id))
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			add(&l.report, &mine)
		})
	}
}

// over reports whether nothing more is to be called.
func (l *load) over(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-l.quit:
		return true
	default:
		return false
	}
}

// pace calls at the rate of the plan. What is late is called at once.
func (l *load) pace(ctx context.Context) {
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
			o := l.call(ctx, id)
			<-waiting
			l.mu.Lock()
			defer l.mu.Unlock()
			count(&l.report, o)
		})
	}
}

// An outcome is how a call went.
type outcome struct {
	write bool
	err   error
	late  time.Duration // by which it outlived its deadline
	at    int64         // tenths of a second since the load began
}

// call makes one call: reads and writes take turns.
func (l *load) call(ctx context.Context, id uint64) outcome {
	deadline := time.Now().Add(time.Duration(l.plan.DeadlineMS) * time.Millisecond)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	// Both kinds go from every caller of a loop, whose ids have one remainder.
	write := (id/max(1, uint64(l.plan.InFlight)))%2 == 1
	call := l.client.Read
	if write {
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
	return outcome{write, err, late, (now - l.report.Begin) / tenth}
}

// count adds an outcome to r.
func count(r *probe.Report, o outcome) {
	r.Calls++
	r.LateUS = max(r.LateUS, o.late.Microseconds())
	switch {
	case o.err == nil:
		if o.at < maxTenths {
			answered(r, int(o.at), 1)
		}
		return
	case !o.write:
		r.ReadErrors++
	default:
		r.WriteErrors++
		if sdk.CodeOf(o.err) == sdk.CodeUnavailable {
			r.Unavailable++
		}
	}
	if len(r.Texts) < maxTexts {
		r.Texts = append(r.Texts, o.err.Error())
	}
}

// answered counts n more answers in a tenth of a second.
func answered(r *probe.Report, at int, n uint32) {
	for len(r.Answered) <= at {
		r.Answered = append(r.Answered, 0)
	}
	r.Answered[at] += n
}

// add adds what one caller counted.
func add(r, mine *probe.Report) {
	r.Calls += mine.Calls
	r.ReadErrors += mine.ReadErrors
	r.WriteErrors += mine.WriteErrors
	r.Unavailable += mine.Unavailable
	r.LateUS = max(r.LateUS, mine.LateUS)
	for at, n := range mine.Answered {
		answered(r, at, n)
	}
	r.Texts = append(r.Texts, mine.Texts...)
	r.Texts = r.Texts[:min(len(r.Texts), maxTexts)]
}
