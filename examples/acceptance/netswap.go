package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
)

const (
	swaps    = 20
	swapRate = 2000 // calls/s
	// One of so many calls is over a new link, of a membrane of its own. Such a
	// call costs 6.2 ms of CPU on both hosts in sum, 0.1 ms otherwise: 1.6 ms in
	// the caller, 1.1 in the called cell, 0.7 in each QUIC plugin, 1.3 and 0.7 in
	// the kernels. A fifth of that is cryptography; the rest is a hundred
	// messages between seven processes, none of which stands out.
	swapFresh = 20
	swapMS    = 5000 // deadline of one
	goneBound = 10 * time.Second
)

// A swapWorld is a host that swaps, one that it calls meanwhile, one that is
// started meanwhile and one that is killed.
type swapWorld struct {
	*world
	light                      string
	self, steady, late, doomed *lab.Site
	k, kSteady                 *lab.Kernel // of self and steady
	table                      *tableWatch

	started, gone time.Duration // the worst
}

func trySwap(ctx context.Context, l *lab.Lab, f findings) (err error) {
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	list, err := w.sites("self", "steady", "late", "doomed")
	if err != nil {
		return err
	}
	s := &swapWorld{world: w, self: list[0], steady: list[1], late: list[2], doomed: list[3]}
	addr, end, err := w.lighthouse("light")
	if err != nil {
		return err
	}
	defer end()
	s.light = addr
	if s.kSteady, err = s.steady.Boot(ctx, s.both("steady")); err != nil {
		return err
	}
	if s.k, err = s.self.Boot(ctx, s.own(`"multicast"`)); err != nil {
		return err
	}
	if err := s.seen(ctx, "steady"); err != nil {
		return err
	}
	if err := s.rounds(ctx, f); err != nil {
		return err
	}
	return s.mistakes(ctx, f)
}

// both is the genome of a node that others see by either discovery.
func (s *swapWorld) both(node string) string {
	return genome(node, "[golgi]\ndiscovery = [\"multicast\", \"lighthouse\"]\n"+lighthouseAt(s.light), echoCell(node, node))
}

// own is the genome of the node that swaps.
func (s *swapWorld) own(discovery string) string {
	return genome("self", "[golgi]\ndiscovery = ["+discovery+"]\n"+lighthouseAt(s.light), callerCell("", "steady", "late"))
}

// routable reports whether the node that swaps sends calls to another one.
func (s *swapWorld) routable(ctx context.Context, node string) (bool, error) {
	_, list, err := peersOf(ctx, s.k)
	return slices.ContainsFunc(list, func(p peer) bool { return p.serves(node) }), err
}

func (s *swapWorld) seen(ctx context.Context, node string) error {
	_, err := until(ctx, callWithin, node+" is seen", func() (bool, error) { return s.routable(ctx, node) })
	return err
}

func (s *swapWorld) unseen(ctx context.Context, node string) (time.Duration, error) {
	return until(ctx, 2*callWithin, node+" is gone", func() (bool, error) {
		ok, err := s.routable(ctx, node)
		return !ok, err
	})
}

// arrived waits until both that are up all the time see a node, which from then
// on may not be missing.
func (s *swapWorld) arrived(ctx context.Context, node string) error {
	for _, k := range s.table.kernels {
		if _, err := until(ctx, callWithin, node+" is seen", func() (bool, error) {
			_, list, err := peersOf(ctx, k)
			return slices.ContainsFunc(list, func(p peer) bool { return p.serves(node) }), err
		}); err != nil {
			return err
		}
	}
	s.table.up(node)
	return nil
}

// rounds swaps under load.
func (s *swapWorld) rounds(ctx context.Context, f findings) error {
	if err := load(ctx, s.k, netprobe.Plan{Cell: "steady", Rate: swapRate, MS: swapMS, Fresh: swapFresh}); err != nil {
		return err
	}
	s.table = watchTables(ctx, 10*time.Millisecond, s.k, s.kSteady)
	s.table.up("steady")
	s.table.up("self")
	var err error
	done := 0
	for ; done < swaps && err == nil; done++ {
		from, to := "discovery-multicast", "discovery-lighthouse"
		if done%2 == 1 {
			from, to = to, from
		}
		if err = s.round(ctx, from, to); err != nil {
			err = fmt.Errorf("swap %d, %s for %s: %w", done+1, from, to, err)
		}
	}
	seen, lookErr := s.table.end()
	r, uerr := unload(ctx, s.k)
	if err = errors.Join(err, lookErr, uerr); r == nil || r.Calls == 0 {
		return err
	}
	rate := float64(r.Calls) / (float64(r.MS) / 1000)
	f.add("swap-calls", err == nil && r.Failed() == 0 && rate > 0.95*swapRate && r.Fresh > r.Calls/(2*swapFresh),
		"%d of %d, %.0f/s, %d over new links %s", r.Failed(), r.Calls, rate, r.Fresh, strings.Join(r.Texts[:min(2, len(r.Texts))], "; "))
	f.add("swap-start", err == nil && s.started <= startBound, "%s", ms(s.started))
	f.add("swap-kill", err == nil && s.gone <= goneBound, "%s", ms(s.gone))
	f.add("swap-table", err == nil && seen.missing == 0 && seen.looks > swaps*100, "%d of %d looks, %s apart at most; never fewer than %d of the %d up at all times",
		seen.missing, seen.looks, ms(seen.gap), seen.fewest, len(s.table.kernels))
	return err
}

// round swaps once, while a host starts and another one dies.
func (s *swapWorld) round(ctx context.Context, from, to string) error {
	doomed, err := s.doomed.Boot(ctx, s.both("doomed"))
	if err != nil {
		return err
	}
	if err := s.arrived(ctx, "doomed"); err != nil {
		return err
	}
	if err := expect(ctx, s.k, "late", callWithin); err != nil {
		return err
	}
	swapped := make(chan error, 1)
	go func() { swapped <- s.swap(ctx, from, to) }()
	s.table.down("doomed")
	doomed.Kill()
	killed := time.Now()
	begin, err := netprobe.Now()
	if err != nil {
		return err
	}
	late, err := s.late.Exec(s.both("late"))
	if err != nil {
		return err
	}
	o, gerr := goal(ctx, s.k)
	if err := errors.Join(<-swapped, gerr); err != nil {
		return err
	}
	s.started = max(s.started, time.Duration(o.Ended-begin))
	if _, err := s.unseen(ctx, "doomed"); err != nil {
		return err
	}
	s.gone = max(s.gone, time.Since(killed))
	if err := errors.Join(late.Ready(ctx), s.arrived(ctx, "late")); err != nil {
		return err
	}
	s.table.down("late")
	if err := late.Down(ctx); err != nil {
		return err
	}
	_, err = s.unseen(ctx, "late")
	return err
}

func (s *swapWorld) swap(ctx context.Context, args ...string) error {
	r, err := s.k.Command(ctx, append([]string{"plugin", "swap"}, args...)...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("plugin swap: exit code %d: %s", r.Code, r.Stderr)
	}
	return err
}

// mistakes tries to swap for what does not work, in the ways there are. The
// discovery in use, multicast after an even number of swaps, is to stay, and
// the message to say what is wrong.
func (s *swapWorld) mistakes(ctx context.Context, f findings) error {
	if err := load(ctx, s.k, netprobe.Plan{Cell: "steady", Rate: 200, MS: swapMS, Fresh: 4}); err != nil {
		return err
	}
	ok, texts := 0, []string{}
	dead := s.self.Host.Addrs()[0].String() + ":1" // nobody is there
	bad := strings.ReplaceAll(s.own(`"multicast"`), s.light, dead)
	for _, try := range []struct {
		what, genome, want string
		args               []string
	}{
		{"a program that is no plugin", "", "multicast", []string{"plugin", "swap", "discovery-multicast", "BIN/echo"}},
		{"a lighthouse that is not there", strings.Replace(bad, `["multicast"]`, `["lighthouse"]`, 1), "lighthouse", []string{"up", filepath.Join(s.self.Dir, "genome.toml")}},
		{"a plugin that does not exist", strings.Replace(s.own(`"./nothing"`), "\n[plugins", "\n[plugins", 1), "nothing", []string{"up", filepath.Join(s.self.Dir, "genome.toml")}},
	} {
		if try.genome != "" {
			if err := s.lab.Rewrite(s.self.Dir, try.genome); err != nil {
				return err
			}
		}
		for i, a := range try.args {
			try.args[i] = strings.ReplaceAll(a, "BIN", filepath.Dir(s.lab.Command))
		}
		r, err := s.k.Command(ctx, try.args...)
		if err != nil {
			return err
		}
		still, err := s.routable(ctx, "steady")
		if err != nil {
			return err
		}
		if r.Code != 0 && strings.Contains(r.Stderr, try.want) && still && s.sources(ctx) == "multicast" {
			ok++
		} else {
			texts = append(texts, fmt.Sprintf("%s: exit code %d, in use %q, %s", try.what, r.Code, s.sources(ctx), firstLine(r.Stderr)))
		}
	}
	r, err := unload(ctx, s.k)
	if err != nil {
		return err
	}
	f.add("swap-refused", ok == 3 && r.Failed() == 0, "%d of 3, %d of %d calls failed %s", ok, r.Failed(), r.Calls, strings.Join(append(texts, r.Texts...), "; "))
	return nil
}

// sources names the discoveries in use.
func (s *swapWorld) sources(ctx context.Context) string {
	list, err := s.k.PS(ctx)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, p := range list {
		if name, ok := strings.CutPrefix(p.Name, "discovery-"); ok && p.State == "ready" {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// tryTransport exchanges the QUIC transport of the calling and of the called
// node under load, for itself with another setting and for a program.
func tryTransport(ctx context.Context, l *lab.Lab, f findings) (err error) {
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	list, err := w.sites("self", "steady")
	if err != nil {
		return err
	}
	if err := l.Build(ctx, "plugins/transport-quic"); err != nil {
		return err
	}
	calls := genome("self", byMulticast, callerCell("", "steady"))
	answers := genome("steady", byMulticast, echoCell("steady", "steady"))
	steady, err := list[1].Boot(ctx, answers)
	if err != nil {
		return err
	}
	self, err := list[0].Boot(ctx, calls)
	if err != nil {
		return err
	}
	if err := expect(ctx, self, "steady", callWithin); err != nil {
		return err
	}
	if _, err := goal(ctx, self); err != nil {
		return err
	}
	setting := "[plugins.transport-quic]\nidle = \"20s\"\n"
	for _, try := range []struct {
		id string
		do func() error
	}{
		{"swap-dialler", func() error { return apply(ctx, l, self, calls+setting) }},
		{"swap-listener", func() error { return apply(ctx, l, steady, answers+setting) }},
		{"swap-program", func() error {
			return errors.Join(swapQUIC(ctx, l, self), swapQUIC(ctx, l, steady))
		}},
	} {
		if err := load(ctx, self, netprobe.Plan{Cell: "steady", Rate: 400, MS: swapMS, Fresh: 8}); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		begin := time.Now()
		doErr := try.do()
		took := time.Since(begin)
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		r, err := unload(ctx, self)
		if err != nil {
			return err
		}
		f.add(try.id, doErr == nil && r.Failed() == 0, "%d of %d, swapped in %s %s", r.Failed(), r.Calls, ms(took), strings.Join(append(r.Texts[:min(2, len(r.Texts))], errText(doErr)), "; "))
	}
	return nil
}

func swapQUIC(ctx context.Context, l *lab.Lab, k *lab.Kernel) error {
	r, err := k.Command(ctx, "plugin", "swap", "transport-quic", l.Bin("transport-quic"))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("plugin swap: exit code %d: %s", r.Code, r.Stderr)
	}
	return err
}

// errText is an error in a value; empty if there is none.
func errText(err error) string {
	if err == nil {
		return ""
	}
	return firstLine(err.Error())
}
