package main

import (
	"context"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
)

const linkFor = 30 * time.Second

// tryBalance has replicas of one cell on two hosts, and calls them from one.
func tryBalance(ctx context.Context, l *lab.Lab, f findings) (err error) {
	for _, try := range []struct {
		id      string
		cell    string // of the cell, beside what it is
		args    string
		callers uint32
		bytes   uint32
		ok      func(near float64) bool
	}{
		{"balance-work", "replicas = 4\nconcurrency = 1", `, "-pause", "20ms"`, 64, 64, func(near float64) bool { return near >= 0.4 && near <= 0.6 }},
		{"balance-echo", "", "", 8, 64, func(near float64) bool { return near >= 0.95 }},
	} {
		if err := balance(ctx, l, [2]string{try.cell, try.args}, netprobe.Plan{Cell: "twin", Callers: try.callers, MS: 10_000, Bytes: try.bytes}, func(r *netprobe.Report) {
			near := r.Share("near")
			f.add(try.id, try.ok(near) && r.Failed() == 0, "%.1f %% here, %.1f %% there, %d of %d failed %s", 100*near, 100*r.Share("far"), r.Failed(), r.Calls, strings.Join(r.Texts[:min(1, len(r.Texts))], ""))
		}); err != nil {
			return err
		}
	}
	return nil
}

// balance runs one load over a cell "twin" of both hosts: more of its section,
// and more arguments of its program.
func balance(ctx context.Context, l *lab.Lab, twin [2]string, p netprobe.Plan, judge func(*netprobe.Report)) (err error) {
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	sites, err := w.sites("near", "far")
	if err != nil {
		return err
	}
	cell := func(by string) string {
		return strings.Replace(echoCell("twin", by, twin[0]), `, "-by"`, twin[1]+`, "-by"`, 1)
	}
	if _, err := sites[1].Boot(ctx, genome("far", byMulticast, cell("far"))); err != nil {
		return err
	}
	k, err := sites[0].Boot(ctx, genome("near", byMulticast, cell("near"), callerCell("", "twin")))
	if err != nil {
		return err
	}
	if _, err := until(ctx, callWithin, "the other host is seen", func() (bool, error) {
		_, list, err := peersOf(ctx, k)
		return len(list) == 1 && list[0].Routable, err
	}); err != nil {
		return err
	}
	if err := load(ctx, k, p); err != nil {
		return err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	r, err := unload(ctx, k)
	if err != nil {
		return err
	}
	judge(r)
	return nil
}

// tryLink calls over a link of 100 Mbit/s with 2 ± 2 ms and losses, each way
// half of the delay.
func tryLink(ctx context.Context, l *lab.Lab, f findings) (err error) {
	p, err := newPair(ctx, l, netlab.V4)
	if err != nil {
		return err
	}
	defer p.end(&err)
	if err := p.far.Host.Shape(netlab.Cable{Delay: time.Millisecond, Jitter: time.Millisecond, Rate: 100e6, Loss: 0.005}); err != nil {
		return err
	}
	if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Callers: 256, MS: 10_000, Bytes: 64}); err != nil {
		return err
	}
	if err := pause(ctx, linkFor); err != nil {
		return err
	}
	r, err := unload(ctx, p.kNear)
	if err != nil {
		return err
	}
	overrun, err := p.far.Host.Overrun()
	if err != nil {
		return err
	}
	rate := float64(r.Calls) / (float64(r.MS) / 1000)
	f.add("link-rate", rate >= 10_000, "%.0f/s, p99 %.1f ms, %d frames lost by the lab itself", rate, r.P99US/1000, overrun)
	f.add("link-errors", r.Failed() == 0, "%d of %d %s", r.Failed(), r.Calls, strings.Join(r.Texts[:min(1, len(r.Texts))], ""))
	return nil
}
