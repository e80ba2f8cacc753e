package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const (
	cycles      = 10_000
	warmCycles  = 200
	levelWithin = 10 * time.Second // until what was closed is gone everywhere
	samples     = 20_000
)

// victims is a genome in which a rogue may be run beside a load.
const victims = `
[cells.target]
command = ["BIN/target"]

[cells.spare]
command = ["BIN/target"]

[cells.load]
command = ["BIN/load"]

[cells.load.axons]
target = "axon://target"
spare  = "axon://spare"

[cells.rogue]
command = ["true"]
job     = true

[cells.rogue.axons]
target = "axon://target"
`

// rogue runs the rogue cell by hand.
func rogue(ctx context.Context, k *lab.Kernel, l *lab.Lab, args ...string) (string, error) {
	command := append([]string{"run", "rogue", "--", l.Bin("rogue")}, args...)
	r, err := l.Exec(ctx, k.Dir, l.Command, command...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("run rogue %v: exit code %d\n%s", args, r.Code, r.Stderr)
	}
	return r.Stdout, err
}

// level is what all processes hold.
type level struct {
	fds    map[string]int
	vitals probe.Vitals
}

func measureLevel(ctx context.Context, k *lab.Kernel) (level, error) {
	v := level{fds: map[string]int{}}
	// First what needs a link of its own.
	if err := k.Call(ctx, "target.Vitals", probe.None{}, &v.vitals); err != nil {
		return v, err
	}
	list, err := k.PS(ctx)
	if err != nil {
		return v, err
	}
	for _, p := range list {
		if p.PID == 0 || p.Kind == "cell" && p.Name != "target" {
			continue
		}
		if v.fds[p.Name], err = lab.Descriptors(p.PID); err != nil {
			return v, err
		}
	}
	return v, nil
}

func tryLinks(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "links", victims)
	if err != nil {
		return err
	}
	if _, err := rogue(ctx, k, l, "cycle", "target", fmt.Sprint(warmCycles)); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	before, err := measureLevel(ctx, k)
	if err != nil {
		return err
	}
	if _, err := rogue(ctx, k, l, "cycle", "target", fmt.Sprint(cycles)); err != nil {
		return err
	}
	after, err := settled(ctx, k, before)
	if err != nil {
		return err
	}
	more := 0
	for name, n := range after.fds {
		more = max(more, n-before.fds[name])
	}
	f.add("links-fds", more <= 0, "%d (kernel %d, then %d)", max(0, more), before.fds["kernel"], after.fds["kernel"])
	goroutines := int(after.vitals.Goroutines) - int(before.vitals.Goroutines)
	f.add("links-goroutines", goroutines <= 0, "%d", goroutines)
	heap := int64(after.vitals.HeapBytes) - int64(before.vitals.HeapBytes)
	f.add("links-heap", heap <= 1<<20, "%d KiB", heap>>10)
	return k.Down(ctx)
}

// settled measures until no process holds more descriptors than before, or
// until it was patient enough.
func settled(ctx context.Context, k *lab.Kernel, before level) (level, error) {
	end := time.Now().Add(levelWithin)
	for {
		v, err := measureLevel(ctx, k)
		if err != nil {
			return v, err
		}
		calm := v.vitals.Goroutines <= before.vitals.Goroutines
		for name, n := range v.fds {
			calm = calm && n <= before.fds[name]
		}
		if calm || time.Now().After(end) {
			return v, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return v, err
		}
	}
}

func tryHostile(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "hostile", victims+loud)
	if err != nil {
		return err
	}
	if err := loudly(ctx, k, "stop"); err != nil {
		return err
	}
	before, err := residents(ctx, k)
	if err != nil {
		return err
	}
	calm, err := sampleSpare(ctx, k)
	if err != nil {
		return err
	}
	if err := loudly(ctx, k, "start"); err != nil {
		return err
	}
	type hurt struct {
		out string
		err error
	}
	done := make(chan hurt, 1)
	go func() {
		out, err := rogue(ctx, k, l, "hurt", "target")
		done <- hurt{out, err}
	}()
	pressed, err := sampleSpare(ctx, k)
	h := <-done
	if err != nil {
		return err
	}
	if h.err != nil {
		return h.err
	}
	after, err := residents(ctx, k)
	if err != nil {
		return err
	}
	f.add("hostile-rss", after-before <= 64<<20, "%d KiB", (after-before)>>10)
	f.add("hostile-p99", pressed.P99US <= 2*calm.P99US && pressed.Errors == 0, "%.2f x (%.0f us, then %.0f us)", pressed.P99US/max(calm.P99US, 1), calm.P99US, pressed.P99US)
	return hostileLogs(ctx, k, f, h.out)
}

const loud = `
[cells.loud]
command = ["BIN/target", "-loud"]
`

// loudly stops or starts the loud cell.
func loudly(ctx context.Context, k *lab.Kernel, verb string) error {
	r, err := k.Command(ctx, verb, "loud")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s the loud cell: exit code %d\n%s", verb, r.Code, r.Stderr)
	}
	return err
}

// residents returns the memory of the kernel and of the target.
func residents(ctx context.Context, k *lab.Kernel) (int64, error) {
	list, err := k.PS(ctx)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range list {
		if p.Kind == "kernel" || p.Name == "target" {
			rss, err := lab.RSS(p.PID)
			if err != nil {
				return 0, err
			}
			sum += rss
		}
	}
	return sum, nil
}

// sampleSpare times calls to a cell that nobody hurts.
func sampleSpare(ctx context.Context, k *lab.Kernel) (*probe.Times, error) {
	t := new(probe.Times)
	return t, k.Call(ctx, "load.Sample", probe.Plan{Cell: "spare", Rate: samples}, t)
}

func hostileLogs(ctx context.Context, k *lab.Kernel, f findings, out string) error {
	ended := map[string]bool{}
	if err := json.Unmarshal([]byte(out), &ended); err != nil {
		return fmt.Errorf("read what rogue found: %w", err)
	}
	n := 0
	for _, ok := range ended {
		if ok {
			n++
		}
	}
	f.add("hostile-ended", n == 3 && len(ended) == 3, "%d of %d", n, len(ended))
	r, err := k.Command(ctx, "logs", "target")
	if err != nil {
		return err
	}
	lines := 0
	for line := range strings.Lines(r.Stdout) {
		if strings.Contains(line, "cell=rogue") {
			lines++
		}
	}
	f.add("hostile-log", lines == 3, "%d for 3", lines)
	return k.Down(ctx)
}
