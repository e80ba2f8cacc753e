package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
)

const (
	cutFor    = 30 * time.Second
	cutRate   = 200 // calls/s
	cutMS     = 2000
	lossShare = 0.2
)

// A pair is two hosts, of which one calls the other's cell "far".
type pair struct {
	*world
	near, far   *lab.Site
	kNear, kFar *lab.Kernel
	lossy       netprobe.Report
}

// newPair boots two hosts and makes a first call.
func newPair(ctx context.Context, l *lab.Lab, family netlab.Family) (p *pair, err error) {
	w, err := newWorld(l)
	if err != nil {
		return nil, err
	}
	p = &pair{world: w}
	defer func() {
		if err != nil {
			w.end(&err)
		}
	}()
	if p.near, err = w.siteOf("near", family, nil); err != nil {
		return nil, err
	}
	if p.far, err = w.siteOf("far", family, nil); err != nil {
		return nil, err
	}
	if p.kNear, err = p.near.Boot(ctx, genome("near", listenAny(family)+"discovery = [\"multicast\"]\n", callerCell("", "far"))); err != nil {
		return nil, err
	}
	if err := p.bootFar(ctx); err != nil {
		return nil, err
	}
	_, err = p.first(ctx)
	return p, err
}

// listenAny is where kernels listen on a host of that family.
func listenAny(family netlab.Family) string {
	if family == netlab.V6 {
		return "[golgi]\nlisten = \"[::]:9000\"\n"
	}
	return "[golgi]\n"
}

func (p *pair) bootFar(ctx context.Context) (err error) {
	p.kFar, err = p.far.Boot(ctx, p.genomeFar())
	return err
}

func (p *pair) genomeFar() string {
	family := netlab.V4
	if len(p.far.Host.Addrs()) > 0 && !p.far.Host.Addrs()[0].Is4() {
		family = netlab.V6
	}
	return genome("far", listenAny(family)+"discovery = [\"multicast\"]\n", echoCell("far", "far"))
}

// first makes one call and returns how long that took.
func (p *pair) first(ctx context.Context) (time.Duration, error) {
	if err := expect(ctx, p.kNear, "far", callWithin); err != nil {
		return 0, err
	}
	o, err := goal(ctx, p.kNear)
	if err != nil {
		return 0, err
	}
	return time.Duration(o.Ended - o.Begun), nil
}

// routed reports whether calls are sent to the other host.
func (p *pair) routed(ctx context.Context) (bool, error) {
	_, list, err := peersOf(ctx, p.kNear)
	return slices.ContainsFunc(list, func(x peer) bool { return x.Name == "far" && x.Routable }), err
}

func tryCut(ctx context.Context, l *lab.Lab, f findings) (err error) {
	p, err := newPair(ctx, l, netlab.V4)
	if err != nil {
		return err
	}
	defer p.end(&err)
	for _, step := range []func(context.Context, findings) error{p.partition, p.silent, p.restart, p.loss} {
		if err := step(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// partition cuts the network under a load of reads and writes.
func (p *pair) partition(ctx context.Context, f findings) error {
	if err := p.kFar.Call(ctx, "far.Seen", netprobe.None{}, &netprobe.Seen{}); err != nil {
		return err
	}
	if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Rate: cutRate, MS: cutMS, Writes: true}); err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	if err := p.Partition([]*netlab.Host{p.near.Host}, []*netlab.Host{p.far.Host}); err != nil {
		return err
	}
	if err := pause(ctx, cutFor); err != nil {
		return err
	}
	if err := p.Heal(); err != nil {
		return err
	}
	healed, err := p.first(ctx)
	if err != nil {
		return err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	r, err := unload(ctx, p.kNear)
	if err != nil {
		return err
	}
	seen := new(netprobe.Seen)
	if err := p.kFar.Call(ctx, "far.Seen", netprobe.None{}, seen); err != nil {
		return err
	}
	late := max(0, time.Duration(r.LateUS)*time.Microsecond)
	f.add("cut-heal", healed <= 5*time.Second, "%s", ms(healed))
	f.add("cut-twice", seen.Twice == 0 && seen.IDs > 0, "%d of %d", seen.Twice, seen.IDs)
	f.add("cut-typed", r.Other == 0 && r.Failed() > 0, "%d of %d, %d unavailable, %d deadline %s", r.Other, r.Calls, r.Unavailable, r.Deadline, strings.Join(r.Texts, "; "))
	f.add("cut-late", late <= 100*time.Millisecond, "%s", late.Round(time.Microsecond))
	return nil
}

// silent takes the other host away in two ways. There are links to it, and no
// calls.
func (p *pair) silent(ctx context.Context, f findings) error {
	for _, try := range []struct {
		id         string
		away, back func() error
	}{
		{
			"silent-cable",
			func() error { return p.far.Host.Shape(netlab.Cable{Loss: 1}) },
			func() error { return p.far.Host.Shape(netlab.Cable{}) },
		},
		{
			"silent-killed",
			func() error { return p.killAll(ctx) },
			func() error { return p.bootFar(ctx) },
		},
	} {
		if _, err := p.first(ctx); err != nil {
			return err
		}
		begin := time.Now()
		if err := try.away(); err != nil {
			return err
		}
		_, err := until(ctx, 2*callWithin, "the host is gone", func() (bool, error) {
			ok, err := p.routed(ctx)
			return !ok, err
		})
		took := time.Since(begin)
		f.add(try.id, err == nil && took <= goneBound, "%s %s", ms(took), errText(err))
		if err := try.back(); err != nil {
			return err
		}
	}
	_, err := p.first(ctx)
	return err
}

// killAll kills all processes of the other host: the kernel first, so that
// nobody says goodbye, and what it leaves its sweeper kills at once.
func (p *pair) killAll(ctx context.Context) error {
	list, err := p.kFar.PS(ctx)
	if err != nil {
		return err
	}
	p.kFar.Kill()
	_, err = until(ctx, callWithin, "the other host is empty", func() (bool, error) {
		left, err := p.lab.Processes()
		return !slices.ContainsFunc(left, func(x lab.Live) bool {
			return slices.ContainsFunc(list, func(y lab.Process) bool { return x.PID == y.PID })
		}), err
	})
	return err
}

// restart kills the other host and boots it again, before it is missed: that
// the old connection is no more can only the new one tell. So the clock starts
// when the new one is heard for the first time, by its announcement; what its
// boot took before is shown. A call that began before all that, over what was a
// link to the old one, is to be answered.
func (p *pair) restart(ctx context.Context, f findings) error {
	var took, whole []time.Duration
	for range 10 {
		if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Callers: 1, MS: 300}); err != nil {
			return err
		}
		heard, exec, err := p.again(ctx)
		if err != nil {
			return err
		}
		took, whole = append(took, heard), append(whole, exec)
		if _, err := unload(ctx, p.kNear); err != nil {
			return err
		}
	}
	slices.Sort(took)
	slices.Sort(whole)
	f.add("restart-noticed", took[len(took)-1] <= 500*time.Millisecond, "%s (median %s; from exec %s, median %s)",
		ms(took[len(took)-1]), ms(took[len(took)/2]), ms(whole[len(whole)-1]), ms(whole[len(whole)/2]))
	return nil
}

// again kills the other host and boots it. It returns when a call was answered
// that began in between, from the first announcement of the new kernel and from
// its exec.
func (p *pair) again(ctx context.Context) (heard, exec time.Duration, err error) {
	if err := p.killAll(ctx); err != nil {
		return 0, 0, err
	}
	c, err := p.near.Host.Capture()
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		_, serr := c.Stop()
		err = errors.Join(err, serr)
	}()
	if err := expect(ctx, p.kNear, "far", callWithin); err != nil {
		return 0, 0, err
	}
	begin, err := netprobe.Now()
	if err != nil {
		return 0, 0, err
	}
	if p.kFar, err = p.far.Exec(p.genomeFar()); err != nil {
		return 0, 0, err
	}
	if _, err := c.Await(ctx, func(x netlab.Frame) bool {
		a, ok := announced(x)
		return ok && a.from.Addr() == p.far.Host.Addr(netlab.V4)
	}); err != nil {
		return 0, 0, err
	}
	first, err := netprobe.Now()
	if err != nil {
		return 0, 0, err
	}
	o, err := goal(ctx, p.kNear)
	if err != nil {
		return 0, 0, err
	}
	return time.Duration(o.Ended - first), time.Duration(o.Ended - begin), p.kFar.Ready(ctx)
}

// loss boots the other host behind a bad cable.
func (p *pair) loss(ctx context.Context, f findings) error {
	if err := p.kFar.Down(ctx); err != nil {
		return err
	}
	// A host's cable loses what it sends and what it receives.
	if err := p.far.Host.Shape(netlab.Cable{Loss: lossShare}); err != nil {
		return err
	}
	var worst time.Duration
	for range 5 {
		if err := expect(ctx, p.kNear, "far", 2*callWithin); err != nil {
			return err
		}
		begin, err := netprobe.Now()
		if err != nil {
			return err
		}
		if err := p.bootFar(ctx); err != nil {
			return err
		}
		o, err := goal(ctx, p.kNear)
		if err != nil {
			return err
		}
		worst = max(worst, time.Duration(o.Ended-begin))
		if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Callers: 8, Calls: 200, MS: 5000}); err != nil {
			return err
		}
		r, err := unload(ctx, p.kNear)
		if err != nil {
			return err
		}
		p.lossy.Calls += r.Calls
		p.lossy.OK += r.OK
		p.lossy.Texts = append(p.lossy.Texts, r.Texts...)
		if err := p.kFar.Down(ctx); err != nil {
			return err
		}
	}
	f.add("loss-first", worst <= 10*time.Second, "%s", ms(worst))
	share := float64(p.lossy.OK) / float64(p.lossy.Calls)
	f.add("loss-calls", share >= 0.99, "%.1f %% of %d %s", 100*share, p.lossy.Calls, strings.Join(p.lossy.Texts[:min(2, len(p.lossy.Texts))], "; "))
	return p.far.Host.Shape(netlab.Cable{})
}

// tryMove changes the address of either host under load.
func tryMove(ctx context.Context, l *lab.Lab, f findings) (err error) {
	p, err := newPair(ctx, l, netlab.V4)
	if err != nil {
		return err
	}
	defer p.end(&err)
	for _, try := range []struct {
		id   string
		host *netlab.Host
	}{{"move-caller", p.near.Host}, {"move-called", p.far.Host}} {
		if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Rate: 400, MS: 5000, Writes: true}); err != nil {
			return err
		}
		for range 3 {
			if err := pause(ctx, 2*time.Second); err != nil {
				return err
			}
			if err := try.host.ChangeAddress(); err != nil {
				return err
			}
		}
		if err := pause(ctx, 6*time.Second); err != nil {
			return err
		}
		r, err := unload(ctx, p.kNear)
		if err != nil {
			return err
		}
		f.add(try.id, r.Failed() == 0, "%d of %d, %s late %s", r.Failed(), r.Calls, time.Duration(r.LateUS)*time.Microsecond, strings.Join(r.Texts[:min(2, len(r.Texts))], "; "))
	}
	return nil
}

// trySix is two hosts with IPv6 alone.
func trySix(ctx context.Context, l *lab.Lab, f findings) (err error) {
	p, err := newPair(ctx, l, netlab.V6)
	if err != nil {
		f.add("ipv6-calls", false, "%s", errText(err))
		return err
	}
	defer p.end(&err)
	if err := load(ctx, p.kNear, netprobe.Plan{Cell: "far", Callers: 8, Calls: 1000, MS: 5000, Fresh: 2}); err != nil {
		return err
	}
	r, err := unload(ctx, p.kNear)
	if err != nil {
		return err
	}
	f.add("ipv6-calls", r.Failed() == 0, "%s", fmt.Sprintf("%d of %d %s", r.Failed(), r.Calls, strings.Join(r.Texts, "; ")))
	return nil
}
