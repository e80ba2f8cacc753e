package main

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

const runs = 10

// targets is a genome with four targets, one more of another name, and a load.
const targets = `
[golgi]
plugin_restarts = { max = 5, within = "1s" }

[cells.target]
command  = ["BIN/target"]
replicas = 4
restarts = { max = 1000, within = "30s" }

[cells.spare]
command = ["BIN/target"]

[cells.load]
command = ["BIN/load"]

[cells.load.axons]
target = "axon://target"
spare  = "axon://spare"
`

func tryBoot(ctx context.Context, l *lab.Lab, f findings) error {
	if err := tryHello(ctx, l, f); err != nil {
		return err
	}
	var took []time.Duration
	for range runs {
		begin := time.Now()
		k, err := l.Boot(ctx, "boot", "[cells.target]\ncommand = [\"BIN/target\"]\n")
		if err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		if err := k.Down(ctx); err != nil {
			return err
		}
	}
	slices.Sort(took)
	f.add("boot-plugins", took[runs/2] <= 300*time.Millisecond, "%s", took[runs/2].Round(time.Millisecond))
	return tryIdle(ctx, l, f)
}

func tryHello(ctx context.Context, l *lab.Lab, f findings) error {
	const line = "hello, world"
	genome := filepath.Join(l.Repo, "examples", "hello", "genome.toml")
	if _, _, err := l.Text(ctx, 2*time.Minute, line, "up", genome); err != nil { // builds
		return err
	}
	var took []time.Duration
	for range runs {
		d, _, err := l.Text(ctx, 20*time.Second, line, "up", genome)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	median, worst := took[runs/2], took[runs-1]
	f.add("hello-median", median <= time.Second, "%s", median.Round(time.Millisecond))
	f.add("hello-worst", worst <= 2*time.Second, "%s", worst.Round(time.Millisecond))
	return nil
}

func tryIdle(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "idle", targets)
	if err != nil {
		return err
	}
	list, err := k.PS(ctx)
	if err != nil {
		return err
	}
	var largest lab.Memory
	for _, p := range list {
		if p.Kind != "plugin" {
			continue
		}
		m, err := lab.MemoryOf(p.PID)
		if err != nil {
			return err
		}
		if m.All > largest.All {
			largest = m
		}
	}
	f.add("plugin-rss", largest.All > 0 && largest.All <= 20_000_000, "%.1f MB, of it RssAnon %.1f MB, RssFile %.1f MB",
		float64(largest.All)/1e6, float64(largest.Anon)/1e6, float64(largest.File)/1e6)
	if err := pause(ctx, 2*time.Second); err != nil { // what booting left to do
		return err
	}
	before, err := ticks(l)
	if err != nil {
		return err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	after, err := ticks(l)
	if err != nil {
		return err
	}
	f.add("idle-cpu", after-before <= 5, "%d ms", 10*(after-before))
	return k.Down(ctx)
}

// ticks returns the CPU time of all processes of the lab, in units of 10 ms.
func ticks(l *lab.Lab) (int64, error) {
	live, err := l.Processes()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, p := range live {
		n, err := lab.CPU(p.PID)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// pause lets time pass in which something is measured.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
