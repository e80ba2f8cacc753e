package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

const samples = 20_000

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
