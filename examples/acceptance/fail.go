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

const explainWithin = 5 * time.Second

// A mistake is a genome that can not work, and what up must say about it.
type mistake struct {
	name   string
	genome string
	want   []string
	member string // genome.toml of the member directory "member"; empty: there is none
}

func mistakes(port int) []mistake {
	const target = "[cells.target]\ncommand = [\"BIN/target\"]\n"
	return []mistake{
		{name: "cycle", want: []string{"a", "b", "c", "cycle", "->"}, genome: ring},
		{name: "unknown axon", want: []string{"genome.toml:4", "targat", "target"}, genome: target + "[cells.a.axons]\nx = \"axon://targat\"\n[cells.a]\ncommand = [\"BIN/target\"]\n"},
		{name: "one name twice", want: []string{"target", "genome.toml", "member/genome.toml"}, genome: "[workspace]\nmembers = [\"member\"]\n" + target, member: "[genome]\nname = \"target\"\ncommand = [\"BIN/target\"]\n"},
		{name: "port in use", want: []string{"in use", fmt.Sprint(port)}, genome: fmt.Sprintf("[kernel]\nmetrics = \"127.0.0.1:%d\"\n", port) + target},
		{name: "missing runner", want: []string{"no-such-runner"}, genome: "[cells.a]\ncommand = [\"no-such-runner\", \"a.py\"]\n"},
		{name: "misspelt key", want: []string{"genome.toml:3", "replicsa", "replicas"}, genome: target + "replicsa = 2\n"},
		{name: "wrong type", want: []string{"genome.toml:3", "replicas"}, genome: target + "replicas = \"two\"\n"},
		{name: "unreadable file", want: []string{"genome.toml"}, genome: ""},
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
	for _, m := range list {
		explained, err := tryMistake(ctx, l, m)
		if err != nil {
			return err
		}
		if !explained {
			silent = append(silent, m.name)
		}
	}
	value := fmt.Sprintf("%d of %d", len(list)-len(silent), len(list))
	if len(silent) > 0 {
		value += ", not: " + strings.Join(silent, ", ")
	}
	f.add("fail-messages", len(silent) == 0, "%s", value)
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
	ok := r.Code == 1 && r.Took <= 5*time.Second && contains(r.Stderr, "broken", "the disk is on fire")
	f.add("fail-exit", ok, "%s, exit code %d", r.Took.Round(time.Millisecond), r.Code)
	return nil
}

// tryMistake reports whether up ends at once and says what is wrong.
func tryMistake(ctx context.Context, l *lab.Lab, m mistake) (bool, error) {
	dir, err := l.Write("mistake", m.genome)
	if err != nil {
		return false, err
	}
	if m.member != "" {
		member := filepath.Join(dir, "member")
		if err := os.Mkdir(member, 0o755); err != nil {
			return false, err
		}
		if err := l.Rewrite(member, m.member); err != nil {
			return false, err
		}
	}
	if m.genome == "" { // a directory can not be read, not even by root
		path := filepath.Join(dir, "genome.toml")
		if err := os.Remove(path); err != nil {
			return false, err
		}
		if err := os.MkdirAll(filepath.Join(path, "genome.toml", "x"), 0o755); err != nil {
			return false, err
		}
	}
	limited, cancel := context.WithTimeout(ctx, explainWithin)
	defer cancel()
	r, err := l.Run(limited, dir, "up", filepath.Join(dir, "genome.toml"))
	if limited.Err() != nil && ctx.Err() == nil {
		return false, nil // it runs, as if nothing were wrong
	}
	return err == nil && r.Code != 0 && contains(r.Stderr, m.want...), err
}

func contains(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
