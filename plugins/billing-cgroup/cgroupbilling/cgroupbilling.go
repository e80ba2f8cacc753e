// Package cgroupbilling meters processes by their cgroups: what a process and
// all it has ever started have used of the CPU, to the microsecond, counted by
// the operating system from its first instruction. (The seed calls the one who
// watches a process its nucleus.)
//
// # Where a process is placed
//
// [Billing.Place] makes a directory before the process exists, and the kernel
// of this node has it born there. The ladder, the best source first:
//
//   - cgroup2: cpu.stat of a cgroup of version 2, wherever that is mounted. It
//     is there whether or not any controller is. Limits are set where their
//     controllers are delegated.
//   - cpuacct: cpuacct.usage of a cgroup of version 1, which the process joins
//     before its program begins.
//   - procfs: /proc/PID/stat, in steps of 10 ms, without children that nobody
//     has waited for. When the process has ended the kernel's rusage takes its
//     place.
//
// The plugin keeps nothing: directories are named after workloads, and every
// reading is the operating system's. So it can be killed at any time, and the
// next one reads on.
package cgroupbilling

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/procfs"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Plugin returns the billing "cgroup".
func Plugin() plugin.Plugin { return plugin.Billing("cgroup", DefaultConfig(), New) }

// A rung is one source of the ladder that places processes.
type rung interface {
	// place makes the directory of a workload.
	place(w sdk.Workload) (sdk.Placement, error)
}

// A Billing meters. It is safe for concurrent use.
type Billing struct {
	proc procfs.FS
	rung rung   // nil: processes are not placed
	note string // why it is none of those before it on the ladder
	log  *slog.Logger
}

// New looks which source works here.
func New(_ context.Context, c Config, host plugin.Host) (*Billing, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, fmt.Errorf("open /proc: %w", err)
	}
	b := &Billing{proc: proc, log: host.Log()}
	var whys []error
	for _, source := range c.Ladder {
		var err error
		switch source {
		case sourceCgroup2:
			b.rung, err = newUnified(proc)
		case sourceCpuacct:
			b.rung, err = newCpuacct(proc)
		case sourceProcfs:
			b.rung = nil
		}
		if err == nil {
			if err := errors.Join(whys...); err != nil {
				b.note = err.Error()
			}
			b.log.Debug("processes are metered", "by", source, "note", b.note)
			return b, nil
		}
		whys = append(whys, fmt.Errorf("no %s: %w", source, err))
	}
	return nil, fmt.Errorf("find a source: %w", errors.Join(whys...))
}

// Place makes the meter of a process that does not exist yet. Asking again for
// the same workload gives the same place.
func (b *Billing) Place(_ context.Context, w sdk.Workload) (sdk.Placement, error) {
	p := sdk.Placement{Source: sourceProcfs}
	if b.rung != nil {
		var err error
		if p, err = b.rung.place(w); err != nil {
			return sdk.Placement{}, fmt.Errorf("place %s: %w", w.ID, err)
		}
	} else if w.Limits != (sdk.Limits{}) {
		p.Note = "limits have no effect without cgroup2"
	}
	if b.note != "" {
		p.Note = joinNotes(b.note, p.Note)
	}
	return p, nil
}

func joinNotes(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// Usage reads the meters of live processes.
func (b *Billing) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	var all []sdk.Usage
	for _, r := range live {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if u, ok := b.read(r); ok {
			all = append(all, u)
		}
	}
	return all, nil
}

// read reads one meter. It is false if the process is gone.
func (b *Billing) read(r sdk.Running) (sdk.Usage, bool) {
	own, ok := b.process(r.PID, r.StartTime)
	if !ok {
		return sdk.Usage{}, false
	}
	u := sdk.Usage{ID: r.ID, CPU: own.cpu, RSS: own.rss, Source: sourceProcfs}
	if r.Placement.Cgroup == "" {
		return u, true
	}
	g := groupAt(r.Placement)
	cpu, err := g.cpu()
	if err != nil {
		return u, true // somebody has removed it: better than nothing
	}
	u.CPU, u.Stall, u.Source = cpu, g.stall(), g.source
	u.RSS = max(u.RSS, b.resident(g))
	return u, true
}

// Close reads the meter for the last time and removes it. The process and all
// it has started are gone.
func (b *Billing) Close(ctx context.Context, r sdk.Running, exit sdk.Exit) (sdk.Usage, error) {
	u := sdk.Usage{ID: r.ID, CPU: exit.CPU, Source: sourceRusage}
	if r.Placement.Cgroup == "" {
		return u, nil
	}
	g := groupAt(r.Placement)
	if cpu, err := g.cpu(); err == nil {
		u.CPU, u.Stall, u.Source = cpu, g.stall(), g.source
	}
	if err := g.remove(ctx); err != nil {
		b.log.Warn("remove a cgroup", "workload", string(r.ID), "error", err)
	}
	return u, nil
}
