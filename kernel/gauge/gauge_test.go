package gauge_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/gauge"
	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/sdk"
)

const id = sdk.WorkloadID("cell/worker#1@1")

// A fake is a billing that answers what it is told, or not at all.
type fake struct {
	mu     sync.Mutex
	place  sdk.Placement
	cpu    time.Duration
	down   bool
	asked  int
	closed []sdk.Exit
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) ask(ctx context.Context) error {
	f.mu.Lock()
	f.asked++
	down := f.down
	f.mu.Unlock()
	if down {
		<-ctx.Done() // as the catalog does while a plugin is being started again
		return ctx.Err()
	}
	return nil
}

func (f *fake) Place(ctx context.Context, _ sdk.Workload) (sdk.Placement, error) {
	return f.place, f.ask(ctx)
}

func (f *fake) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	if err := f.ask(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []sdk.Usage
	for _, r := range live {
		all = append(all, sdk.Usage{ID: r.ID, CPU: f.cpu, Source: "cgroup2"})
	}
	return all, nil
}

func (f *fake) Close(ctx context.Context, r sdk.Running, exit sdk.Exit) (sdk.Usage, error) {
	if err := f.ask(ctx); err != nil {
		return sdk.Usage{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = append(f.closed, exit)
	return sdk.Usage{ID: r.ID, CPU: f.cpu, Source: "cgroup2"}, nil
}

// A bench is a gauge that runs, and what it charged.
type bench struct {
	gauge   *gauge.Gauge
	billing *fake
	charges []meter.Charge
	billed  int
	own     time.Duration
	end     func()
}

func newBench(t *testing.T) *bench {
	b := &bench{billing: &fake{}}
	b.gauge = gauge.New(gauge.Options{Billing: b.billing, Reading: func() func() { return func() { b.billed++ } }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.gauge.Run(ctx) }()
	b.end = func() { cancel(); <-done }
	b.gauge.Place(ctx, sdk.Workload{ID: id, Cell: "worker"})
	b.gauge.Started(sdk.Running{ID: id, PID: 1, StartTime: 1}, "", func() sdk.Usage { return sdk.Usage{CPU: b.own, Source: "cgroup2"} })
	return b
}

// work counts cpu for a caller.
func (b *bench) work(cpu time.Duration) {
	b.gauge.Counted(id, meter.Counters{CPU: cpu, Split: "time", Lines: []meter.Line{{Link: 1, Node: "far", From: "a", Method: "W.Do", Weight: cpu}}})
}

func (b *bench) charged(source string) (sum sdk.ATP) {
	list, taken := b.gauge.Charges()
	taken()
	b.charges = append(b.charges, list...)
	for _, c := range b.charges {
		if c.Source == source {
			sum += c.CPU
		}
	}
	return sum
}

func TestWhoIsCountedIsReadAndCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.billing.set(func() { b.billing.cpu = 40 * time.Millisecond })
		b.work(40 * time.Millisecond)
		time.Sleep(time.Second)
		if got := b.charged("cgroup2/time"); got != 40_000 {
			t.Errorf("charged %d µs", got)
		}
		b.end()
		if l := b.gauge.Totals(); len(l) != 1 || l[0] != (gauge.Total{Node: "far", From: "a", Cell: "worker", CPU: 40_000}) {
			t.Errorf("totals %+v", l)
		}
	})
}

// That charges are on bills is told by whoever puts them there, once.
func TestChargesAreBilledWhenTheirTakerSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.billing.set(func() { b.billing.cpu = 40 * time.Millisecond })
		b.work(40 * time.Millisecond)
		time.Sleep(time.Second)
		list, taken := b.gauge.Charges()
		if len(list) != 1 || b.billed != 0 {
			t.Errorf("%d charges, billed %d times before they were", len(list), b.billed)
		}
		_, none := b.gauge.Charges()
		none()
		if b.billed != 0 {
			t.Error("who was given nothing says that it is billed")
		}
		if taken(); b.billed != 1 {
			t.Errorf("billed %d times, want once", b.billed)
		}
		b.end()
	})
}

// As long as nobody works nobody is asked.
func TestIdlenessCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		before := b.billing.asked
		time.Sleep(time.Hour)
		b.billing.set(func() {
			if b.billing.asked != before {
				t.Errorf("asked %d times in an idle hour", b.billing.asked-before)
			}
		})
		b.end()
	})
}

// A billing that is absent loses nothing: the kernel reads, and says so.
func TestTheKernelReadsForAnAbsentBilling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.billing.set(func() { b.billing.down, b.own = true, 10*time.Millisecond })
		b.work(10 * time.Millisecond)
		time.Sleep(time.Second)
		b.billing.set(func() { b.billing.down, b.billing.cpu = false, 30*time.Millisecond })
		b.work(30 * time.Millisecond)
		time.Sleep(time.Second)
		b.end()
		if byKernel, byPlugin := b.charged("cgroup2 (kernel)/time"), b.charged("cgroup2/time"); byKernel != 10_000 || byPlugin != 20_000 {
			t.Errorf("charged %d µs as the kernel has read, %d as the billing; want 10000 and 20000", byKernel, byPlugin)
		}
	})
}

// What a process used between its last words and its end is its node's own.
func TestTheLastReadingIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.work(5 * time.Millisecond)
		b.billing.set(func() { b.billing.cpu = 5 * time.Millisecond })
		time.Sleep(time.Second)
		b.billing.set(func() { b.billing.cpu = 7 * time.Millisecond })
		b.gauge.Ended(id, sdk.Exit{Code: 3, CPU: 7 * time.Millisecond})
		time.Sleep(time.Second)
		b.end()
		if len(b.billing.closed) != 1 || b.billing.closed[0].Code != 3 {
			t.Errorf("closed with %+v", b.billing.closed)
		}
		if theirs, own := b.charged("cgroup2/time"), b.charged("cgroup2"); theirs != 5000 || own != 2000 {
			t.Errorf("charged %d µs to the caller, %d to the node; want 5000 and 2000", theirs, own)
		}
		if left := b.gauge.Usage(t.Context()); len(left) != 0 {
			t.Errorf("still reads %v", left)
		}
	})
}

// Whoever is in the cgroup of a cell is killed with it: a billing must not be
// able to name that of another.
func TestPlacesAreChecked(t *testing.T) {
	run := t.TempDir()
	dir := func(name, procs string) string {
		path := filepath.Join(run, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte(procs), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fresh, taken := dir("fresh", ""), dir("taken", "1\n")
	for place, want := range map[string]string{
		fresh: fresh, taken: "", run: "", filepath.Dir(run): "", filepath.Join(run, "missing"): "", filepath.Join(fresh, "below"): "",
	} {
		f := &fake{place: sdk.Placement{Cgroup: place, Source: "cgroup2"}}
		g := gauge.New(gauge.Options{Billing: f, Below: run})
		if got := g.Place(t.Context(), sdk.Workload{ID: id, Cell: "worker"}); got.Cgroup != want {
			t.Errorf("a billing that says %q places in %q, want %q", place, got.Cgroup, want)
		}
	}
}

func TestNotesAreToldOnce(t *testing.T) {
	var notes []string
	f := &fake{place: sdk.Placement{Source: "procfs", Note: "limits have no effect"}}
	g := gauge.New(gauge.Options{Billing: f, Note: func(text string) { notes = append(notes, text) }})
	for _, cell := range []sdk.CellName{"worker", "worker", "other"} {
		g.Place(t.Context(), sdk.Workload{ID: id, Cell: cell})
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "limits") {
		t.Errorf("notes %q", notes)
	}
	if got := g.Source("cgroup2"); got != "procfs" {
		t.Errorf("source %q", got)
	}
}

// A place of a process that never began is given back.
func TestPlacesOfStartsThatFailAreRemoved(t *testing.T) {
	run := t.TempDir()
	path := filepath.Join(run, "a")
	f := &fake{place: sdk.Placement{Cgroup: path, Source: "cgroup2"}}
	g := gauge.New(gauge.Options{Billing: f, Below: run})
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.Place(t.Context(), sdk.Workload{ID: id, Cell: "worker"})
	os.Remove(filepath.Join(path, "cgroup.procs")) // as in a real one, it is no obstacle
	g.Over(id)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the place is still there: %v", err)
	}
}
