package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

func tryRoll(ctx context.Context, l *lab.Lab, f findings) error {
	k, err := l.Boot(ctx, "roll", targets)
	if err != nil {
		return err
	}
	if err := startLoad(ctx, k, probe.Plan{Rate: loadRate}); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	before, err := k.PS(ctx)
	if err != nil {
		return err
	}
	newer := strings.Replace(targets, `["BIN/target"]`, `["BIN/target2"]`, 1)
	if err := apply(ctx, l, k, newer); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	r, err := stopLoad(ctx, k)
	if err != nil {
		return err
	}
	after, err := k.PS(ctx)
	if err != nil {
		return err
	}
	replaced := changed(only(before, "target"), after)
	f.add("roll-calls", r.ReadErrors+r.WriteErrors == 0 && replaced == 4, "%d of %d; %d replicas replaced %s", r.ReadErrors+r.WriteErrors, r.Calls, replaced, strings.Join(r.Texts[:min(1, len(r.Texts))], ""))
	var reply struct{ Text string }
	err = k.Call(ctx, "target.Version", probe.None{}, &reply)
	f.add("roll-new", err == nil && reply.Text == "two", "%v", err == nil && reply.Text == "two")
	touched := changed(except(before, "target"), after)
	edited := strings.Replace(newer, "[cells.spare]\n", "[cells.spare]\nenv = { EDITED = \"1\" }\n", 1)
	if err := apply(ctx, l, k, edited); err != nil {
		return err
	}
	last, err := k.PS(ctx)
	if err != nil {
		return err
	}
	touched += changed(except(after, "spare"), last)
	spare := changed(only(after, "spare"), last)
	f.add("roll-only", touched == 0 && spare == 1, "%d", touched)
	return k.Down(ctx)
}

// apply edits the genome of a running kernel and says up again.
func apply(ctx context.Context, l *lab.Lab, k *lab.Kernel, genome string) error {
	if err := l.Rewrite(k.Dir, genome); err != nil {
		return err
	}
	r, err := k.Command(ctx, "up", filepath.Join(k.Dir, "genome.toml"))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("up again: exit code %d\n%s", r.Code, r.Stderr)
	}
	return err
}

func only(list []lab.Process, name string) (out []lab.Process) {
	for _, p := range list {
		if p.Name == name {
			out = append(out, p)
		}
	}
	return out
}

func except(list []lab.Process, name string) (out []lab.Process) {
	for _, p := range list {
		if p.Name != name {
			out = append(out, p)
		}
	}
	return out
}

// tryReadme does what the README says, in a clone that has nothing but what
// was committed.
func tryReadme(ctx context.Context, l *lab.Lab, f findings) error {
	clone := filepath.Join(l.Dir, "clone")
	if r, err := l.Exec(ctx, l.Dir, "git", "clone", "--quiet", l.Repo, clone); err != nil || r.Code != 0 {
		return fmt.Errorf("clone: exit code %d: %w\n%s", r.Code, err, r.Stderr)
	}
	up, err := l.Exec(ctx, clone, "go", "run", "./cmd/cellkernel", "up", "examples/bench/genome.toml")
	if err != nil {
		return err
	}
	ok := up.Code == 0 && strings.Contains(up.Stdout, "CELL'S CLAIMS")
	f.add("readme-up", ok, "exit code %d, %s", up.Code, up.Took.Round(time.Second))
	test, err := l.Exec(ctx, clone, "go", "test", "./...")
	if err != nil {
		return err
	}
	f.add("readme-test", test.Code == 0, "exit code %d, %s", test.Code, test.Took.Round(time.Second))
	return nil
}
