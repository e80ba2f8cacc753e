package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const (
	maxTexts   = 8
	maxWaiting = 20_000 // calls without an answer; beyond, the load waits
	slowest    = int64(time.Minute)
)

// A load makes calls at times that do not depend on the answers, or one after
// the other by each of its callers.
type load struct {
	echo  netprobe.EchoClient
	plan  netprobe.Plan
	body  []byte
	begun time.Time
	next  atomic.Uint64 // id of a call; ids are told apart by loads, too
	first uint64
	quit  chan struct{}
	done  chan struct{} // closed when the last call has ended

	mu     sync.Mutex // guards all below
	report netprobe.Report
	times  *hdrhistogram.Histogram
	by     map[string]uint64
}

func newLoad(echo netprobe.EchoClient, p *netprobe.Plan) *load {
	now := time.Now()
	l := &load{
		echo: echo, plan: *p, body: bytes.Repeat([]byte{7}, int(p.Bytes)), begun: now, first: uint64(now.UnixNano()),
		quit: make(chan struct{}), done: make(chan struct{}), times: hdrhistogram.New(1, slowest, 2), by: map[string]uint64{},
	}
	return l
}

// run calls until quit is closed or all calls are made.
func (l *load) run(ctx context.Context) {
	defer close(l.done)
	var calls sync.WaitGroup
	if l.plan.Rate > 0 {
		l.pace(ctx, &calls)
	}
	for range l.plan.Callers {
		calls.Go(func() {
			for l.goesOn(ctx) {
				if n := l.next.Add(1); l.plan.Calls == 0 || n <= uint64(l.plan.Calls) {
					l.call(ctx, n)
				}
			}
		})
	}
	calls.Wait()
	l.mu.Lock()
	l.report.MS = time.Since(l.begun).Milliseconds()
	l.mu.Unlock()
}

func (l *load) goesOn(ctx context.Context) bool {
	select {
	case <-l.quit:
		return false
	default:
		return ctx.Err() == nil && (l.plan.Calls == 0 || l.next.Load() < uint64(l.plan.Calls))
	}
}

// pace begins calls at the rate. What is late is called at once.
func (l *load) pace(ctx context.Context, calls *sync.WaitGroup) {
	interval := time.Second / time.Duration(l.plan.Rate)
	waiting := make(chan struct{}, maxWaiting)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := time.Now(); l.goesOn(ctx); next = next.Add(interval) {
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return
		case <-l.quit:
			return
		case <-timer.C:
		}
		n := l.next.Add(1)
		waiting <- struct{}{}
		calls.Go(func() {
			l.call(ctx, n)
			<-waiting
		})
	}
}

// call makes one call.
func (l *load) call(ctx context.Context, n uint64) {
	limit := time.Duration(l.plan.MS) * time.Millisecond
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	write := l.plan.Writes && n%2 == 1
	fresh := l.plan.Fresh > 0 && n%uint64(l.plan.Fresh) == 0
	ball := &netprobe.Ball{ID: l.first + n, Body: l.body}
	var reply *netprobe.Ball
	var err error
	if fresh {
		reply, err = l.anew(ctx, ball, write)
	} else {
		reply, err = l.send(ctx, l.echo, ball, write)
	}
	if err == nil && (reply.ID != ball.ID || !bytes.Equal(reply.Body, l.body)) {
		err = sdk.Errorf(sdk.CodeInternal, "reply to another call")
	}
	l.count(reply, err, time.Since(begun), limit, fresh)
}

func (l *load) send(ctx context.Context, c netprobe.EchoClient, b *netprobe.Ball, write bool) (*netprobe.Ball, error) {
	if write {
		return c.Write(ctx, b)
	}
	return c.Read(ctx, b)
}

// anew makes a call over a link that nothing else uses: as a process that has
// just come to the kernel and then leaves.
func (l *load) anew(ctx context.Context, b *netprobe.Ball, write bool) (*netprobe.Ball, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", os.Getenv(cell.EnvSocket))
	if err != nil {
		return nil, err
	}
	m, err := cell.Attach(channel.New(conn.(*net.UnixConn)), channel.Hello{})
	if err != nil {
		return nil, err
	}
	reply, err := l.send(ctx, netprobe.NewEchoClient(m.Synapse(sdk.CellName(l.plan.Cell))), b, write)
	if cerr := m.Close(); err == nil {
		err = cerr
	}
	return reply, err
}

func (l *load) count(reply *netprobe.Ball, err error, took, limit time.Duration, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.Calls++
	r.LateUS = max(r.LateUS, (took - limit).Microseconds())
	switch sdk.CodeOf(err) {
	case sdk.CodeOK:
		r.OK++
		if fresh {
			r.Fresh++
		}
		l.by[reply.By]++
		_ = l.times.RecordValue(min(int64(took), slowest)) // in range
		return
	case sdk.CodeUnavailable:
		r.Unavailable++
	case sdk.CodeDeadline:
		r.Deadline++
	default:
		r.Other++
	}
	if len(r.Texts) < maxTexts && !slices.Contains(r.Texts, err.Error()) {
		r.Texts = append(r.Texts, err.Error())
	}
}

// result is the report so far.
func (l *load) result() *netprobe.Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Texts = slices.Clone(r.Texts)
	if r.MS == 0 {
		r.MS = time.Since(l.begun).Milliseconds()
	}
	r.P50US, r.P99US = float64(l.times.ValueAtQuantile(50))/1000, float64(l.times.ValueAtQuantile(99))/1000
	for name, n := range l.by {
		r.Names, r.Counts = append(r.Names, name), append(r.Counts, n)
	}
	return &r
}
