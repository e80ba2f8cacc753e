package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

const (
	atOnce  = time.Second     // up fails
	givenUp = 5 * time.Second // it runs, as if nothing were wrong
)

// exit codes of mistakes
const (
	failed  = 1
	misread = 3
)

// A mistake is a genome that can not work, and what up must say about it.
type mistake struct {
	name   string
	genome string
	code   int
	want   []string
	exact  string // all that up must say; empty: what is wanted is enough
	member string // genome.toml of the member directory "member"; empty: there is none
	secret bool   // nobody but its owner may read the genome
}

func mistakes(port int) []mistake {
	const target = "[cells.target]\ncommand = [\"BIN/target\"]\n"
	return []mistake{
		{name: "cycle", code: misread, want: []string{"genome.toml:4", "a -> b -> c -> a"}, genome: ring},
		{name: "unknown axon", code: misread, want: []string{"genome.toml:6", "targat", `did you mean "target"`}, genome: "[golgi]\ndiscovery = []\n" + target + "[cells.a.axons]\nx = \"axon://targat\"\n[cells.a]\ncommand = [\"BIN/target\"]\n"},
		{name: "one name twice", code: misread, want: []string{"cells.target", " genome.toml:3", "member/genome.toml:1"}, genome: "[workspace]\nmembers = [\"member\"]\n" + target, member: "[genome]\nname = \"target\"\ncommand = [\"BIN/target\"]\n"},
		{name: "port in use", code: failed, want: []string{"in use", fmt.Sprint(port)}, genome: fmt.Sprintf("[kernel]\nmetrics = \"127.0.0.1:%d\"\n", port) + target},
		{name: "missing runner", code: failed, want: []string{`cell "a"`, `"no-such-runner": not found`}, genome: "[cells.a]\ncommand = [\"no-such-runner\", \"a.py\"]\n"},
		{name: "misspelt key", code: misread, want: []string{"genome.toml:3", "replicsa", `did you mean "replicas"`}, genome: target + "replicsa = 2\n"},
		{name: "wrong type", code: misread, want: []string{"genome.toml:3", "cells.target.replicas", `want an integer, got the string "two"`}, genome: target + "replicas = \"two\"\n"},
		{name: "unreadable file", code: misread, exact: "genome.toml: permission denied\ncellkernel: read genome.toml: 1 mistake\n", genome: target, secret: true},
	}
}

const ring = `
[cells.a]
command = ["BIN/target"]
axons   = { b = "axon://b" }
[cells.b]
command = ["BIN/target"]
axons   = { c = "axon://c" }
[cells.c]
command = ["BIN/target"]
axons   = { a = "axon://a" }
`

func tryFail(ctx context.Context, l *lab.Lab, f findings) error {
	if err := tryExit(ctx, l, f); err != nil {
		return err
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("take a port: %w", err)
	}
	defer busy.Close()
	list := mistakes(busy.Addr().(*net.TCPAddr).Port)
	var silent []string
	var slowest time.Duration
	for _, m := range list {
		r, err := tryMistake(ctx, l, m)
		if err != nil {
			return err
		}
		slowest = max(slowest, r.Took)
		if !m.explained(r) {
			silent = append(silent, m.name)
		}
	}
	value := fmt.Sprintf("%d of %d, the slowest in %s", len(list)-len(silent), len(list), slowest.Round(time.Millisecond))
	if len(silent) > 0 {
		value += ", not: " + strings.Join(silent, ", ")
	}
	f.add("fail-messages", len(silent) == 0 && slowest <= atOnce, "%s", value)
	return nil
}

func tryExit(ctx context.Context, l *lab.Lab, f findings) error {
	dir, err := l.Write("exit", "[cells.broken]\ncommand = [\"BIN/target\", \"-exit\"]\n")
	if err != nil {
		return err
	}
	r, err := l.Run(ctx, dir, "up")
	if err != nil {
		return err
	}
	ok := r.Code == 1 && r.Took <= atOnce && contains(r.Stderr, "broken", "the disk is on fire")
	f.add("fail-exit", ok, "%s, exit code %d", r.Took.Round(time.Millisecond), r.Code)
	return nil
}

// tryMistake has up try a genome with a mistake.
func tryMistake(ctx context.Context, l *lab.Lab, m mistake) (lab.Result, error) {
	dir, err := l.Write("mistake", m.genome)
	if err != nil {
		return lab.Result{}, err
	}
	if m.member != "" {
		member := filepath.Join(dir, "member")
		if err := os.Mkdir(member, 0o755); err != nil {
			return lab.Result{}, err
		}
		if err := l.Rewrite(member, m.member); err != nil {
			return lab.Result{}, err
		}
	}
	limited, cancel := context.WithTimeout(ctx, givenUp)
	defer cancel()
	genome, run := filepath.Join(dir, "genome.toml"), l.Run
	if m.secret {
		if err := os.Chmod(genome, 0); err != nil {
			return lab.Result{}, err
		}
		run = l.RunAsNobody // root may read everything
	}
	r, err := run(limited, dir, "up", genome)
	if limited.Err() != nil && ctx.Err() == nil {
		return r, nil
	}
	return r, err
}

// explained reports whether up has said what is wrong, and failed as it should.
func (m mistake) explained(r lab.Result) bool {
	said := m.exact == "" || r.Stderr == m.exact
	return said && r.Code == m.code && contains(r.Stderr, m.want...)
}

func contains(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
