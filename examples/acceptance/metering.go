package main

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

const (
	burnWithin  = 4 * time.Minute // for what takes ten seconds on a machine that has nothing else to do
	settlement  = 2 * time.Second // until what was used is split
	sleeperTime = 10 * time.Second
)

// alone is a genome of four cells that contend for two cores, and one that sleeps.
const alone = `
[golgi]
billing = "cgroup"

[cells.alone]
command  = ["BIN/burner", "-alone"]
replicas = 4
job      = true

[cells.sleeper]
command = ["BIN/burner"]
`

// payers is a genome of one burner, and of those who have it work for them.
const payers = `
[golgi]
billing  = "cgroup"
deadline = "5m"

[cells.burner]
command = ["BIN/burner"]
`

// payer is a cell that has the burner work for it.
func payer(name, flags string) string {
	return fmt.Sprintf("\n[cells.%s]\ncommand = [\"BIN/payer\"%s]\njob = true\n\n[cells.%[1]s.axons]\nburner = \"axon://burner\"\n", name, flags)
}

func tryMeter(ctx context.Context, l *lab.Lab, f findings) error {
	if err := tryAlone(ctx, l, f); err != nil {
		return err
	}
	if err := trySplit(ctx, l, f); err != nil {
		return err
	}
	return tryShares(ctx, l, f)
}

// tryAlone compares what is metered with what processes say they have used.
func tryAlone(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "alone", alone)
	if err != nil {
		return err
	}
	before, err := k.Process(ctx, "cell", "sleeper", 1)
	if err != nil {
		return err
	}
	if err := pause(ctx, sleeperTime/2); err != nil {
		return err
	}
	plugin, err := k.Process(ctx, "plugin", "billing-cgroup", 0)
	if err != nil {
		return err
	}
	if err := k.Signal(plugin, syscall.SIGKILL); err != nil {
		return err
	}
	if err := pause(ctx, sleeperTime/2); err != nil {
		return err
	}
	after, err := k.Process(ctx, "cell", "sleeper", 1)
	if err != nil {
		return err
	}
	slept := time.Duration(after.CPUUS-before.CPUUS) * time.Microsecond
	f.add("meter-sleep", slept <= 20*time.Millisecond, "%s in %s", slept, sleeperTime)
	list, err := awaitDone(ctx, k, "alone")
	if err != nil {
		return err
	}
	m, err := k.Metrics(ctx)
	if err != nil {
		return err
	}
	judgeAlone(list, k.Stderr(), m[`cellkernel_metered_cpu_seconds_total{from="",node="",to="alone"}`], f)
	return k.Down(ctx)
}

var usedLine = regexp.MustCompile(`alone#(\d) +\| used (\d+) us`)

// judgeAlone compares by replica, and in all.
func judgeAlone(list []lab.Process, stderr string, charged float64, f findings) {
	used, sum, worst := map[int]float64{}, 0.0, 0.0
	for _, m := range usedLine.FindAllStringSubmatch(stderr, -1) {
		i, _ := strconv.Atoi(m[1]) // a digit
		us, _ := strconv.ParseFloat(m[2], 64)
		used[i] = us
		sum += us
	}
	for _, p := range list {
		if p.Name == "alone" {
			worst = max(worst, math.Abs(float64(p.CPUUS)/used[p.Replica]-1))
		}
	}
	f.add("meter-rusage", len(used) == 4 && worst <= 0.01, "%.2f %% off, %d cells used %.1f s", 100*worst, len(used), sum/1e6)
	off := charged*1e6/sum - 1
	f.add("meter-kill", math.Abs(off) <= 0.01, "%+.2f %%", 100*off)
}

// trySplit looks whom one burner's CPU is split over: who burns, who holds a
// stream, who has it sleep.
func trySplit(ctx context.Context, l *lab.Lab, f findings) error {
	shares, total, err := split(ctx, l, "split", map[string]string{
		"busy": `, "-how", "spin"`, "open": `, "-how", "hold"`, "lazy": `, "-how", "sleep"`,
	})
	if err != nil {
		return err
	}
	ok := shares["busy"] >= 0.98 && shares["open"] <= 0.01 && shares["lazy"] <= 0.01
	f.add("meter-callers", ok, "%.1f %%, %.1f %%, %.1f %% of %.1f s", 100*shares["busy"], 100*shares["open"], 100*shares["lazy"], total)
	return nil
}

// tryShares looks whether three times the work is three times the CPU.
func tryShares(ctx context.Context, l *lab.Lab, f findings) error {
	shares, total, err := split(ctx, l, "shares", map[string]string{
		"three": `, "-how", "burn", "-each", "100ms", "-calls", "25", "-width", "3"`, "one": `, "-how", "burn", "-each", "100ms", "-calls", "25"`,
	})
	if err != nil {
		return err
	}
	ratio := shares["three"] / shares["one"]
	f.add("meter-ratio", math.Abs(ratio/3-1) <= 0.05, "%.3f of %.1f s", ratio, total)
	return nil
}

// split runs payers and returns what share of the burner's CPU each was charged.
func split(ctx context.Context, l *lab.Lab, name string, flags map[string]string) (map[string]float64, float64, error) {
	genome := payers
	for who, how := range flags {
		genome += payer(who, how)
	}
	k, err := l.Boot(ctx, name, genome)
	if err != nil {
		return nil, 0, err
	}
	for who := range flags {
		if _, err := awaitDone(ctx, k, who); err != nil {
			return nil, 0, err
		}
	}
	m, err := k.Metrics(ctx)
	if err != nil {
		return nil, 0, err
	}
	shares, total := map[string]float64{}, 0.0
	for series, cpu := range m {
		if strings.HasPrefix(series, "cellkernel_metered_cpu_seconds_total{") && strings.HasSuffix(series, `to="burner"}`) {
			total += cpu
		}
	}
	for who := range flags {
		shares[who] = m[fmt.Sprintf("cellkernel_metered_cpu_seconds_total{from=%q,node=\"\",to=\"burner\"}", who)] / total
	}
	return shares, total, k.Down(ctx)
}

// awaitDone waits until all replicas of a job have ended well and what they
// used is split.
func awaitDone(ctx context.Context, k *lab.Kernel, name string) (list []lab.Process, err error) {
	_, err = k.Await(ctx, burnWithin, name+" is done", func(now []lab.Process) bool {
		list = now
		for _, p := range now {
			if p.Name == name && p.State != "done" {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return list, pause(ctx, settlement)
}
