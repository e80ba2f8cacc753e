package main

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const (
	freezeRounds = 5
	freezeTime   = 10 * time.Second
	inFlight     = 64 // callers of a closed loop
)

// frozen is what one round of standing still found.
type frozen struct {
	ratio    float64 // of rates
	work     float64 // of calls per CPU time of all cells: what others do on this machine does not matter to it
	failed   uint64
	calls    uint64
	restarts int
	link     time.Duration // until a link was there, after the kernel went on
}

func tryFreeze(ctx context.Context, l *lab.Lab, f findings) error {
	worst := frozen{ratio: math.Inf(1)}
	var ratios, works []float64
	for range freezeRounds {
		x, err := freeze(ctx, l)
		if err != nil {
			return err
		}
		worst.ratio, worst.link = min(worst.ratio, x.ratio), max(worst.link, x.link)
		ratios, works = append(ratios, x.ratio), append(works, x.work)
		worst.failed += x.failed
		worst.calls += x.calls
		worst.restarts += x.restarts
	}
	f.add("freeze-rate", worst.ratio >= 0.9, "%.3f (all: %.3f; calls by CPU of the cells: %.3f), %.0f calls/s", worst.ratio, ratios, works, float64(worst.calls)/(3*freezeTime.Seconds()*freezeRounds))
	f.add("freeze-calls", worst.failed == 0, "%d of %d", worst.failed, worst.calls)
	f.add("freeze-restarts", worst.restarts == 0, "%d", worst.restarts)
	f.add("freeze-link", worst.link <= time.Second, "%s", worst.link.Round(time.Millisecond))
	return nil
}

// freeze stops a kernel and its plugins under load. The call to the spare
// target, which nobody has called before, is made while they stand still.
func freeze(ctx context.Context, l *lab.Lab) (*frozen, error) {
	k, err := l.Boot(ctx, "freeze", targets)
	if err != nil {
		return nil, err
	}
	before, err := k.PS(ctx)
	if err != nil {
		return nil, err
	}
	if err := startLoad(ctx, k, probe.Plan{InFlight: inFlight}); err != nil {
		return nil, err
	}
	half := uint32((freezeTime + freezeTime/2).Milliseconds())
	if err := k.Call(ctx, "load.Later", probe.Later{Cell: "spare", AfterMS: half}, &probe.None{}); err != nil {
		return nil, err
	}
	var cpu [4]int64
	stopped, going, err := standStill(ctx, k, before, cpu[:3])
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, freezeTime); err != nil {
		return nil, err
	}
	if cpu[3], err = cellTicks(before); err != nil {
		return nil, err
	}
	r, err := stopLoad(ctx, k)
	if err != nil {
		return nil, err
	}
	x := &frozen{failed: r.ReadErrors + r.WriteErrors, calls: r.Calls, ratio: ratioOf(r, stopped, going)}
	x.work = x.ratio * float64(cpu[1]-cpu[0]+cpu[3]-cpu[2]) / 2 / float64(max(1, cpu[2]-cpu[1]))
	var o probe.Outcome
	if err := k.Call(ctx, "load.Outcome", probe.None{}, &o); err != nil {
		return nil, err
	}
	if o.Error != "" || o.At < stopped {
		return nil, fmt.Errorf("open a link meanwhile: %q, %s after the stop", o.Error, time.Duration(o.At-stopped))
	}
	x.link = time.Duration(max(0, o.At-going))
	after, err := k.PS(ctx)
	if err != nil {
		return nil, err
	}
	x.restarts = changed(before, after)
	return x, k.Down(ctx)
}

// standStill stops kernel and plugins after a while, and lets them go on. The
// times are those of probe.Now; cpu is what the cells have used at the
// beginning, when all stand still and when they go on.
func standStill(ctx context.Context, k *lab.Kernel, list []lab.Process, cpu []int64) (stopped, going int64, err error) {
	if cpu[0], err = cellTicks(list); err != nil {
		return 0, 0, err
	}
	if err := pause(ctx, freezeTime); err != nil {
		return 0, 0, err
	}
	signal := func(sig syscall.Signal) error {
		for _, p := range list { // the kernel first, so that it misses nobody
			if p.Kind != "cell" {
				if err := k.Signal(p, sig); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := signal(syscall.SIGSTOP); err != nil {
		return 0, 0, err
	}
	if stopped, err = probe.Now(); err != nil {
		return 0, 0, err
	}
	if cpu[1], err = cellTicks(list); err != nil {
		return 0, 0, err
	}
	slept := pause(ctx, freezeTime)
	if cpu[2], err = cellTicks(list); err != nil {
		return 0, 0, err
	}
	if err := signal(syscall.SIGCONT); err != nil {
		return 0, 0, err
	}
	if going, err = probe.Now(); err != nil {
		return 0, 0, err
	}
	return stopped, going, slept
}

// ratioOf compares the rate while all stood still with that of the times of
// equal length before and after it.
func ratioOf(r *probe.Report, stopped, going int64) float64 {
	const tenth = int64(100 * time.Millisecond)
	from, to := int((stopped-r.Begin)/tenth)+1, int((going-r.Begin)/tenth)
	n := to - from
	rate := func(from, to int) (sum float64) {
		from, to = max(0, from), min(to, len(r.Answered))
		for _, x := range r.Answered[from:max(from, to)] {
			sum += float64(x)
		}
		return sum / float64(max(1, to-from))
	}
	around := (rate(from-n, from-1) + rate(to+1, min(to+n, len(r.Answered)-1))) / 2
	return rate(from, to) / max(around, 1)
}

// cellTicks is the CPU time that the cells have used.
func cellTicks(list []lab.Process) (sum int64, err error) {
	for _, p := range list {
		if p.Kind == "cell" {
			n, err := lab.CPU(p.PID)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// changed counts processes that have another number or more restarts.
func changed(before, after []lab.Process) int {
	n := 0
	for _, p := range before {
		for _, q := range after {
			if p.Kind == q.Kind && p.Name == q.Name && p.Replica == q.Replica && (p.PID != q.PID || p.Restarts != q.Restarts) {
				n++
			}
		}
	}
	return n
}
