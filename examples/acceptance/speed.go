package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/bench/result"
)

func tryBench(ctx context.Context, l *lab.Lab, f findings) error {
	out := filepath.Join(l.Dir, "bench.json")
	_, _, err := l.Text(ctx, 8*time.Minute, "CELL'S CLAIMS", "up", filepath.Join(l.Repo, "examples", "bench", "genome.toml"),
		"--set", fmt.Sprintf("cells.coordinator.args=[%q,%q,%q,%q]", "--replicas", "4", "--json", out))
	if err != nil {
		return err
	}
	r, err := result.Read(out)
	if err != nil {
		return err
	}
	ratio := func(id, key string, bound float64) {
		x := r.Ratios[key].VsGRPC
		f.add(id, x >= bound, "%.1f x", x)
	}
	ratio("bench-64", "echo-64B/64", 10)
	ratio("bench-256", "echo-64B/256", 20)
	ratio("bench-64k", "echo-64KiB/8", 6)
	one, _ := result.Find(r.Results, "echo-64B", 1, result.Cellkernel)
	raw, ok := result.Find(r.Results, "echo-64B", 1, result.Raw)
	if ok && raw.P50US > 0 {
		f.add("bench-median", one.P50US <= 1.5*raw.P50US, "%.2f x (%.1f us, raw %.1f us)", one.P50US/raw.P50US, one.P50US, raw.P50US)
	}
	many, _ := result.Find(r.Results, "echo-64B", 64, result.Cellkernel)
	f.add("bench-rate", many.CallsPerS >= 100_000, "%.0f", many.CallsPerS)
	errs := faults(r.Results)
	broken := 0
	for _, c := range r.Claims {
		switch {
		case strings.HasPrefix(c.Claim, "burn-4: "):
			f.add("burn-cpu", c.OK, "%s", c.Value)
		case strings.HasPrefix(c.Claim, "burn-4 by burn-1"):
			f.add("burn-scale", c.OK, "%s", c.Value)
		case !c.OK:
			broken++
		}
	}
	f.add("bench-errors", errs == 0 && broken == 0, "%d, %d", errs, broken)
	return nil
}

// tryFar runs the benchmark between two machines, which are hosts of a network
// lab. On loopback addresses, which others than root get, it is no network.
func tryFar(ctx context.Context, l *lab.Lab, f findings) error {
	if err := l.Build(ctx, "examples/far"); err != nil {
		return err
	}
	out := filepath.Join(l.Dir, "far.json")
	said, err := l.Exec(ctx, l.Repo, l.Bin("far"), "bench", "--json", out)
	if err != nil {
		return err
	}
	r, err := result.Read(out)
	if err != nil {
		return errors.Join(err, fmt.Errorf("far bench: exit code %d: %s", said.Code, said.Stderr))
	}
	if !strings.Contains(said.Stderr, "network namespaces") {
		return fmt.Errorf("far bench: it had no network lab: %s", firstLine(said.Stderr))
	}
	judge := func(id, name string, inFlight int, by string, bound float64) {
		ours, okOurs := result.Find(r.Results, name, inFlight, result.CellkernelQUIC)
		other, okOther := result.Find(r.Results, name, inFlight, by)
		x := ours.CallsPerS / max(other.CallsPerS, 1)
		f.add(id, okOurs && okOther && x >= bound, "%.2f x (%.0f by %.0f calls/s)", x, ours.CallsPerS, other.CallsPerS)
	}
	judge("far-64", "echo-64B", 64, result.GRPCTLS, 3)
	judge("far-256", "echo-64B", 256, result.GRPCTLS, 7)
	judge("far-64k", "echo-64KiB", 8, result.RawQUIC, 0.6)
	f.add("far-errors", len(r.Results) == 15 && faults(r.Results) == 0, "%d in %d rows", faults(r.Results), len(r.Results))
	return nil
}

// faults counts the calls that failed, or had a reply that was not right.
func faults(rows []result.Row) (n uint64) {
	for _, row := range rows {
		n += row.Errors
	}
	return n
}

func tryMesh(ctx context.Context, l *lab.Lab, f findings) error {
	genome := filepath.Join(l.Repo, "examples", "mesh", "genome.toml")
	args := func(more ...string) string {
		list := append([]string{"--replicas", "50"}, more...)
		return fmt.Sprintf("cells.observer.args=[\"%s\"]", strings.Join(list, `","`))
	}
	if _, _, err := l.Text(ctx, 2*time.Minute, "50/50", "up", genome, "--set", args("--quick")); err != nil { // builds
		return err
	}
	out := filepath.Join(l.Dir, "mesh.json")
	boot, _, err := l.Text(ctx, 2*time.Minute, "50/50", "up", genome, "--set", args("--json", out))
	if err != nil {
		return err
	}
	f.add("mesh-boot", boot <= 2*time.Second, "%s", boot.Round(time.Millisecond))
	r, err := result.Read(out)
	if err != nil {
		return err
	}
	if len(r.Claims) != 6 {
		return fmt.Errorf("read mesh: %d claims, want 6", len(r.Claims))
	}
	for i, id := range []string{"mesh-rate", "mesh-equal", "mesh-p99", "mesh-reach", "", "mesh-share"} {
		if id != "" {
			f.add(id, r.Claims[i].OK, "%s", r.Claims[i].Value)
		}
	}
	reach, self := r.Claims[3], r.Claims[4]
	f.add("mesh-reach", reach.OK && self.OK, "%s; %s", reach.Value, self.Value)
	return nil
}
