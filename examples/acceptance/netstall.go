package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/netlab"
)

const (
	pushers      = 13               // four links each
	stallFor     = 10 * time.Second // in which links that nobody reads are reset: after 5 to 6 s
	initialsFor  = 30 * time.Second
	initialsRate = 2000 // a second
)

// netHostile is what neighbours do to what others use.
func netHostile() []group {
	return []group{
		{"net-stall", 5 * time.Minute, []row{
			{ID: "stall-cells", What: "two cells stopped under a load of 64 KiB messages: p99 of the other links of the nodes by that before", Bound: "<= 2 x, 0 failed"},
			{ID: "stall-links", What: "52 of 56 links between two nodes not read: p99 of the other four by that before", Bound: "<= 2 x, 0 failed"},
		}, tryStall},
		{"net-initials", 5 * time.Minute, []row{
			{ID: "initials-p99", What: "2000 Initials/s from forged addresses for 30 s: p99 of calls by that before", Bound: "<= 3 x, 0 failed"},
			{ID: "initials-peer", What: "the same: a new host's first call, the worst of 3", Bound: "<= 5 s"},
		}, tryInitials},
	}
}

// tryStall has cells stop that hold many links full of messages.
func tryStall(ctx context.Context, l *lab.Lab, f findings) error {
	for _, try := range []struct {
		id      string
		dumb    []string // cells that will stop
		pushers int      // of each
	}{{"stall-cells", []string{"dumb", "mute"}, 1}, {"stall-links", []string{"dumb"}, pushers}} {
		full := 4*try.pushers*len(try.dumb) + 4
		if err := stall(ctx, l, try.dumb, try.pushers, func(before, during *netprobe.Report, first, last int) {
			ratio := during.P99US / before.P99US
			f.add(try.id, ratio <= 2 && during.Failed() == 0 && first >= full && last == 4, "%.1f (%.0f us, %.0f us), %d of %d failed, %d links, %d when those were reset %s",
				ratio, before.P99US, during.P99US, during.Failed(), during.Calls, first, last, strings.Join(during.Texts, "; "))
		}); err != nil {
			return err
		}
	}
	return nil
}

func stall(ctx context.Context, l *lab.Lab, dumb []string, n int, judge func(before, during *netprobe.Report, first, last int)) (err error) {
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	sites, err := w.sites("near", "far")
	if err != nil {
		return err
	}
	far := []string{echoCell("far", "far", "replicas = 4")}
	near := []string{callerCell("", "far")}
	for _, d := range dumb {
		far = append(far, echoCell(d, d, "replicas = 4"))
		near = append(near, strings.Replace(callerCell("", d), "[cells.caller]", fmt.Sprintf("[cells.to-%s]\nreplicas = %d", d, n), 1))
	}
	kFar, err := sites[1].Boot(ctx, genome("far", byMulticast, far...))
	if err != nil {
		return err
	}
	kNear, err := sites[0].Boot(ctx, genome("near", byMulticast, near...))
	if err != nil {
		return err
	}
	p := &pair{world: w, near: sites[0], far: sites[1], kNear: kNear, kFar: kFar}
	if _, err := p.first(ctx); err != nil {
		return err
	}
	before, err := p.measured(ctx, func() error { return pause(ctx, stallFor) })
	if err != nil {
		return err
	}
	if err := p.push(ctx, dumb, n); err != nil {
		return err
	}
	wake, err := p.stop(ctx, dumb)
	defer wake()
	if err != nil {
		return err
	}
	first, last := 0, 0
	during, err := p.measured(ctx, func() (err error) {
		if first, err = p.links(ctx); err != nil {
			return err
		}
		if err := pause(ctx, stallFor); err != nil {
			return err
		}
		last, err = p.links(ctx)
		return err
	})
	if err != nil {
		return err
	}
	judge(before, during, first, last)
	return nil
}

// links counts those to other hosts.
func (p *pair) links(ctx context.Context) (n int, err error) {
	_, list, err := peersOf(ctx, p.kNear)
	for _, x := range list {
		n += x.Links
	}
	return n, err
}

// push sends large messages to the dumb until all links to them are full.
func (p *pair) push(ctx context.Context, dumb []string, n int) error {
	for _, d := range dumb {
		for i := range n {
			plan := netprobe.Plan{Cell: d, Callers: 64, MS: 60_000, Bytes: 64 << 10}
			if err := p.kNear.Call(ctx, fmt.Sprintf("to-%s#%d.Start", d, i+1), plan, &netprobe.None{}); err != nil {
				return err
			}
		}
	}
	return pause(ctx, time.Second)
}

// stop stops all processes of the far cells that are named, and returns how to
// wake them.
func (p *pair) stop(ctx context.Context, cells []string) (wake func(), err error) {
	var pids []int
	wake = func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have been killed as hung
		}
	}
	list, err := p.kFar.PS(ctx)
	for _, x := range list {
		if x.Kind == "cell" && slices.Contains(cells, x.Name) {
			pids = append(pids, x.PID)
			err = errors.Join(err, syscall.Kill(x.PID, syscall.SIGSTOP))
		}
	}
	return wake, err
}

// tryInitials has a host pretend to be thousands that begin to connect.
func tryInitials(ctx context.Context, l *lab.Lab, f findings) (err error) {
	p, err := newPair(ctx, l, netlab.V4)
	if err != nil {
		return err
	}
	defer p.end(&err)
	evil, err := p.Host("evil", netlab.V4)
	if err != nil {
		return err
	}
	before, err := p.measured(ctx, func() error { return pause(ctx, 10*time.Second) })
	if err != nil {
		return err
	}
	fctx, stop := context.WithTimeout(ctx, initialsFor)
	defer stop()
	ended := make(chan error, 1)
	sent := 0
	go func() {
		var err error
		sent, err = forgeInitials(fctx, evil, p.far.Host.Addr(netlab.V4))
		ended <- err
	}()
	var worst time.Duration
	during, err := p.measured(ctx, func() error {
		for i := range 3 {
			took, err := p.newcomer(ctx, fmt.Sprintf("new%d", i))
			if err != nil {
				return err
			}
			worst = max(worst, took)
		}
		return <-ended
	})
	if err != nil {
		return err
	}
	ratio := during.P99US / before.P99US
	enough := sent > initialsRate*int(initialsFor.Seconds())*9/10
	f.add("initials-p99", ratio <= 3 && during.Failed() == 0 && enough, "%.1f (%.0f us, %.0f us), %d of %d failed, %d sent %s",
		ratio, before.P99US, during.P99US, during.Failed(), during.Calls, sent, strings.Join(during.Texts, "; "))
	f.add("initials-peer", worst <= 5*time.Second, "%s", ms(worst))
	return nil
}

// newcomer boots a host and returns how long its first call took.
func (p *pair) newcomer(ctx context.Context, name string) (time.Duration, error) {
	s, err := p.site(name)
	if err != nil {
		return 0, err
	}
	k, err := s.Boot(ctx, genome(name, byMulticast, callerCell("", "far")))
	if err != nil {
		return 0, err
	}
	q := *p
	q.kNear = k
	took, err := q.first(ctx)
	return took, errors.Join(err, k.Down(ctx))
}

// forgeInitials sends what looks like Initials of ever new connections, from
// 250 addresses of hosts that are not there, until ctx is done. (Thousands
// would fill the ARP table of the machine, which all its namespaces share.)
func forgeInitials(ctx context.Context, h *netlab.Host, to netip.Addr) (sent int, err error) {
	forge, err := newForger(h, to)
	if err != nil {
		return 0, err
	}
	defer forge.close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return sent, nil
		case <-tick.C:
		}
		for range initialsRate / 200 {
			if err := forge.send(nobody(250), 9000, forgedInitial()); err != nil {
				return sent, err
			}
			sent++
		}
	}
}

// forgedInitial has the header of an Initial: RFC 9000, section 17.2.2: version
// 1, ids of 8 and 8 bytes, no token, the length of the rest. The rest is noise.
func forgedInitial() []byte {
	const size = 1200
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	copy(p, []byte{0xc3, 0, 0, 0, 1, 8})
	p[14] = 8
	copy(p[23:], []byte{0, 0x40 | (size-26)>>8, (size - 26) & 0xff})
	return p
}
