// Package gauge reads the meters of cells. It asks the billing plugin where a
// process is to be born, how much those that run have used, and what one that
// has ended had used in the end; and gives what it learns to package meter,
// together with what the processes say of their callers.
//
// A billing that is absent changes nothing but the source: counters are
// absolute, and until it is back the kernel reads them itself. While no cell
// answers a call nobody is asked anything.
package gauge

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	// interval is the time between two readings while cells work.
	interval = 100 * time.Millisecond
	// patience bounds each call of the billing: starts, and charges, go on
	// without it.
	patience = 250 * time.Millisecond
	// byKernel marks what the kernel has read itself.
	byKernel = " (kernel)"
)

// Options configure a Gauge.
type Options struct {
	// Billing returns the plugin. nil if there is none: then everything is
	// read by the kernel and nobody is charged.
	Billing sdk.Billing
	// Below is the directory in which cgroups of cells may be, empty for none.
	Below string
	// Reading is called before meters are read, and what it returns when the
	// charges that came of it are on bills: until then they count as use that
	// nobody was told of. nil for nobody.
	Reading func() (taken func())
	// Note tells people something. nil for nobody.
	Note func(string)
	Log  *slog.Logger
}

// A Gauge reads meters. It is safe for concurrent use. Its methods may be
// called before and after Run.
type Gauge struct {
	opt  Options
	wake chan struct{} // capacity 1
	wg   sync.WaitGroup

	mu     sync.Mutex // guards all below
	lives  map[sdk.WorkloadID]*life
	meter  meter.Meter
	dirty  bool // somebody has counted since the last round
	source string
	noted  map[string]bool
	totals map[pair]sdk.ATP
	owed   map[entry]*meter.Charge // not taken yet
	taken  func()                  // of the last reading; nil when Charges gave it away
}

// A life is a process from its placement to its last reading.
type life struct {
	cell    sdk.CellName
	running sdk.Running
	own     func() sdk.Usage // by the kernel itself
	dirty   bool             // to be read in the next round
	ended   bool
	last    sdk.Usage // of a process that has ended
}

// New makes a Gauge.
func New(o Options) *Gauge {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Gauge{opt: o, wake: make(chan struct{}, 1), lives: make(map[sdk.WorkloadID]*life), noted: make(map[string]bool), totals: make(map[pair]sdk.ATP), owed: make(map[entry]*meter.Charge)}
}

// Source says in words what meters cells here: the source of the last cell
// that was placed, or fallback if none was.
func (g *Gauge) Source(fallback string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return cmp.Or(g.source, fallback)
}

// Place says where a process is to be born. It does not fail: a billing that
// does not answer in time, or nonsense, places nothing.
func (g *Gauge) Place(ctx context.Context, w sdk.Workload) sdk.Placement {
	var p sdk.Placement
	if g.opt.Billing != nil {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		got, err := g.opt.Billing.Place(ctx, w)
		if err == nil {
			err = g.sound(got)
		}
		if err == nil {
			p = got
		} else {
			g.opt.Log.Warn("place a cell", "workload", string(w.ID), "error", err)
		}
		g.mu.Lock()
		g.source = cmp.Or(p.Source, g.source)
		g.mu.Unlock()
		if p.Note != "" {
			g.note("metering: " + p.Note)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lives[w.ID] = &life{cell: w.Cell, running: sdk.Running{ID: w.ID, Placement: p}}
	return p
}

// note tells something once.
func (g *Gauge) note(text string) {
	g.mu.Lock()
	known := g.noted[text]
	g.noted[text] = true
	g.mu.Unlock()
	if !known && g.opt.Note != nil {
		g.opt.Note(text)
	}
}

// Started tells that a process runs. own reads its meter without the billing;
// cgroup is where it was born, if the billing has not said it.
func (g *Gauge) Started(r sdk.Running, cgroup string, own func() sdk.Usage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lives[r.ID]
	if l == nil {
		return
	}
	r.Placement = l.running.Placement
	if r.Placement.Cgroup == "" && cgroup != "" {
		r.Placement = sdk.Placement{Cgroup: cgroup, Source: "cgroup2"}
	}
	l.running, l.own = r, own
}

// Ended tells that a process and all it has started are gone. It does not wait.
func (g *Gauge) Ended(id sdk.WorkloadID, exit sdk.Exit) {
	g.wg.Go(func() {
		g.mu.Lock()
		l := g.lives[id]
		g.mu.Unlock()
		if l == nil || l.own == nil {
			return
		}
		last := g.close(l, exit)
		g.mu.Lock()
		defer g.mu.Unlock()
		l.last, l.ended, l.dirty = last, true, true
		g.stir()
	})
}

// close takes the last reading of a process.
func (g *Gauge) close(l *life, exit sdk.Exit) sdk.Usage {
	own := l.own()
	own.Source += byKernel
	if g.opt.Billing == nil {
		return own
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u, err := g.opt.Billing.Close(ctx, l.running, exit)
	if err != nil {
		g.opt.Log.Info("the billing does not close a meter: the kernel has read it", "workload", string(l.running.ID), "error", err)
		u = own
	}
	removeCgroup(l.running.Placement)
	return u
}

// Over forgets a process that never began, and removes its place.
func (g *Gauge) Over(id sdk.WorkloadID) {
	g.mu.Lock()
	l := g.lives[id]
	began := l != nil && l.own != nil
	if l != nil && !began {
		delete(g.lives, id)
	}
	g.mu.Unlock()
	if l != nil && !began {
		removeCgroup(l.running.Placement)
	}
}

// Counted takes what a process says of itself, which must be fresh: it is read
// soon.
func (g *Gauge) Counted(id sdk.WorkloadID, c meter.Counters) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lives[id]
	if l == nil || g.opt.Billing == nil {
		return
	}
	g.meter.Counted(id, l.cell, c)
	l.dirty = true
	g.stir()
}

// stir makes sure that there is a round. The caller holds mu.
func (g *Gauge) stir() {
	g.dirty = true
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Run reads and charges until ctx is done, and then once more.
func (g *Gauge) Run(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-g.wake:
		}
		// What the process said last may be on its way when it has ended.
		t.Reset(interval)
		select {
		case <-ctx.Done():
		case <-t.C:
			g.round(ctx)
		}
	}
	g.wg.Wait()
	g.round(context.WithoutCancel(ctx))
}

// round reads who has counted, and charges.
func (g *Gauge) round(ctx context.Context) {
	var taken func()
	if g.opt.Reading != nil {
		taken = g.opt.Reading()
	}
	live := g.due()
	usage := g.readAll(ctx, live)
	g.mu.Lock()
	g.taken = taken
	for _, l := range live {
		u, ok := usage[l.running.ID]
		if ok {
			g.meter.Measured(l.cell, u)
		}
		if l.ended && g.lives[l.running.ID] == l {
			g.meter.Measured(l.cell, l.last)
			g.meter.Ended(l.running.ID)
			delete(g.lives, l.running.ID)
		}
	}
	g.add(g.meter.Charges())
	g.mu.Unlock()
}

// due takes the processes that are to be read.
func (g *Gauge) due() []*life {
	g.mu.Lock()
	defer g.mu.Unlock()
	var due []*life
	for _, l := range g.lives {
		if l.dirty {
			l.dirty = false
			due = append(due, l)
		}
	}
	g.dirty = false
	return due
}

// Usage reads all processes now.
func (g *Gauge) Usage(ctx context.Context) map[sdk.WorkloadID]sdk.Usage {
	g.mu.Lock()
	all := make([]*life, 0, len(g.lives))
	for _, l := range g.lives {
		all = append(all, l)
	}
	g.mu.Unlock()
	return g.readAll(ctx, all)
}

// readAll asks the billing for all at once, and reads itself what that leaves out.
func (g *Gauge) readAll(ctx context.Context, lives []*life) map[sdk.WorkloadID]sdk.Usage {
	var live []sdk.Running
	owns := make(map[sdk.WorkloadID]func() sdk.Usage)
	g.mu.Lock()
	for _, l := range lives {
		if l.own != nil && !l.ended {
			live, owns[l.running.ID] = append(live, l.running), l.own
		}
	}
	g.mu.Unlock()
	all := make(map[sdk.WorkloadID]sdk.Usage, len(live))
	if g.opt.Billing != nil && len(live) > 0 {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		list, err := g.opt.Billing.Usage(ctx, live)
		if err != nil {
			g.opt.Log.Info("the billing does not read: the kernel does", "error", err)
		}
		for _, u := range list {
			all[u.ID] = u
		}
	}
	for id, own := range owns {
		if _, ok := all[id]; !ok {
			u := own()
			u.ID, u.Source = id, u.Source+byKernel
			all[id] = u
		}
	}
	return all
}
