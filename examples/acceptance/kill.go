package main

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const (
	loadRate     = 2000 // calls/s
	loadDeadline = 1000 // ms
	workerKills  = 20
	pluginKills  = 10
	backWithin   = 20 * time.Second        // given up
	fresh        = 1500 * time.Millisecond // after which the kernel has forgotten a death: see targets
)

// startLoad begins to call the targets, as often as the plan says.
func startLoad(ctx context.Context, k *lab.Kernel, plan probe.Plan) error {
	plan.Cell, plan.DeadlineMS = "target", loadDeadline
	return k.Call(ctx, "load.Start", plan, &probe.None{})
}

// stopLoad ends the load and returns how it went.
func stopLoad(ctx context.Context, k *lab.Kernel) (*probe.Report, error) {
	r := new(probe.Report)
	err := k.Call(ctx, "load.Stop", probe.None{}, r)
	if err == nil && r.Calls == 0 {
		err = fmt.Errorf("stop load: it made no calls")
	}
	return r, err
}

// again reports whether the process is ready under a new number.
func again(was lab.Process) func([]lab.Process) bool {
	return func(list []lab.Process) bool {
		return slices.ContainsFunc(list, func(p lab.Process) bool {
			return p.Kind == was.Kind && p.Name == was.Name && p.Replica == was.Replica && p.PID != was.PID && p.State == "ready"
		})
	}
}

// gone reports whether the process is not ready any more under its number.
func gone(was lab.Process) func([]lab.Process) bool {
	return func(list []lab.Process) bool {
		return !slices.ContainsFunc(list, func(p lab.Process) bool { return p.PID == was.PID && p.State == "ready" })
	}
}

func tryWorker(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "worker", targets)
	if err != nil {
		return err
	}
	if err := startLoad(ctx, k, probe.Plan{Rate: loadRate}); err != nil {
		return err
	}
	var worst time.Duration
	for i := range workerKills {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		p, err := k.Process(ctx, "cell", "target", i%4+1)
		if err != nil {
			return err
		}
		if err := k.Signal(p, syscall.SIGKILL); err != nil {
			return err
		}
		back, err := k.Await(ctx, backWithin, fmt.Sprintf("target#%d is ready again", p.Replica), again(p))
		if err != nil {
			return err
		}
		worst = max(worst, back)
	}
	f.add("worker-back", worst <= time.Second, "%s", worst.Round(time.Millisecond))
	r, err := stopLoad(ctx, k)
	if err != nil {
		return err
	}
	late := time.Duration(r.LateUS) * time.Microsecond
	f.add("worker-late", late <= 100*time.Millisecond, "%s", max(0, late).Round(time.Microsecond))
	f.add("worker-idempotent", r.ReadErrors == 0, "%d of %d", r.ReadErrors, r.Calls/2)
	f.add("worker-others", r.WriteErrors == r.Unavailable, "%d, and %d unavailable, of %d", r.WriteErrors-r.Unavailable, r.Unavailable, r.Calls/2)
	return k.Down(ctx)
}

func tryPlugin(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "plugin", targets)
	if err != nil {
		return err
	}
	if err := startLoad(ctx, k, probe.Plan{Rate: loadRate}); err != nil {
		return err
	}
	plugins, err := pluginsOf(ctx, k)
	if err != nil {
		return err
	}
	var killed []time.Duration
	var noticed, replaced time.Duration
	for _, p := range plugins {
		for range pluginKills {
			d, err := killPlugin(ctx, k, p)
			if err != nil {
				return err
			}
			killed = append(killed, d)
		}
		for range pluginKills {
			n, d, err := stopPlugin(ctx, k, p)
			if err != nil {
				return err
			}
			noticed, replaced = max(noticed, n), max(replaced, d)
		}
	}
	slices.Sort(killed)
	worst := killed[len(killed)-1]
	f.add("plugin-kill", worst <= time.Second, "%s (median %s), %d plugins", worst.Round(time.Millisecond), killed[len(killed)/2].Round(time.Millisecond), len(plugins))
	f.add("plugin-stop", noticed <= 3*time.Second, "%s", noticed.Round(time.Millisecond))
	f.add("plugin-replace", replaced <= 5*time.Second, "%s", replaced.Round(time.Millisecond))
	r, err := stopLoad(ctx, k)
	if err != nil {
		return err
	}
	f.add("plugin-calls", r.ReadErrors+r.WriteErrors == 0, "%d of %d", r.ReadErrors+r.WriteErrors, r.Calls)
	return k.Down(ctx)
}

// pluginsOf returns the names of the plugins.
func pluginsOf(ctx context.Context, k *lab.Kernel) ([]string, error) {
	list, err := k.PS(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range list {
		if p.Kind == "plugin" {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("list plugins: ps has none")
	}
	return names, nil
}

// killPlugin kills a plugin and returns how long it was away.
func killPlugin(ctx context.Context, k *lab.Kernel, name string) (time.Duration, error) {
	p, err := k.Process(ctx, "plugin", name, 0)
	if err != nil {
		return 0, err
	}
	if err := k.Signal(p, syscall.SIGKILL); err != nil {
		return 0, err
	}
	back, err := k.Await(ctx, backWithin, name+" is ready again", again(p))
	if err != nil {
		return 0, err
	}
	return back, pause(ctx, fresh)
}

// stopPlugin stops a plugin and returns how long it took to notice and to
// replace it.
func stopPlugin(ctx context.Context, k *lab.Kernel, name string) (noticed, replaced time.Duration, err error) {
	p, err := k.Process(ctx, "plugin", name, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := k.Signal(p, syscall.SIGSTOP); err != nil {
		return 0, 0, err
	}
	if noticed, err = k.Await(ctx, backWithin, name+" is missed", gone(p)); err != nil {
		return 0, 0, err
	}
	rest, err := k.Await(ctx, backWithin, name+" is replaced", again(p))
	if err != nil {
		return 0, 0, err
	}
	return noticed, noticed + rest, pause(ctx, fresh)
}
