// The command acceptance plays the user of cellkernel: it builds the command,
// boots kernels, kills what it can, measures, and writes what it found as a
// table and as accept.json. It kills only processes that run out of a
// directory of its own, and leaves nothing behind.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
)

type options struct {
	only []string // ids of rows or names of groups; none: all
	list bool
	out  string
	repo string
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		os.Exit(2) // flag has said why
	}
	if o.list {
		list(os.Stdout)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := accept(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "acceptance:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var only string
	fs := flag.NewFlagSet("acceptance", flag.ContinueOnError)
	fs.StringVar(&only, "only", "", "rows or groups to try, separated by commas")
	fs.BoolVar(&o.list, "list", false, "list the rows and try nothing")
	fs.StringVar(&o.out, "o", "accept.json", "write the rows to this file")
	fs.StringVar(&o.repo, "repo", ".", "the working tree to try")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, id := range o.only {
		if !known(id) {
			err := fmt.Errorf("acceptance: no row and no group is named %q", id)
			fmt.Fprintln(os.Stderr, err)
			return o, err
		}
	}
	repo, err := filepath.Abs(o.repo)
	o.repo = repo
	return o, err
}

// A row is a sentence about cellkernel, and whether it holds.
type row struct {
	ID    string `json:"id"`
	What  string `json:"what"`
	Value string `json:"value"`
	Bound string `json:"bound"`
	OK    bool   `json:"ok"`
}

// A finding is what was measured for one row.
type finding struct {
	value string
	ok    bool
}

// findings are collected by a group, by id.
type findings map[string]finding

func (f findings) add(id string, ok bool, format string, args ...any) {
	f[id] = finding{fmt.Sprintf(format, args...), ok}
}

// A group tries several rows with the same kernels.
type group struct {
	name   string
	within time.Duration
	rows   []row // without value
	try    func(ctx context.Context, l *lab.Lab, f findings) error
}

// wanted reports whether one of the group's rows, or all of them, are.
func (g *group) wanted(only []string) bool {
	family, _, _ := strings.Cut(g.name, "-")
	return len(only) == 0 || slices.Contains(only, g.name) || slices.Contains(only, family) ||
		slices.ContainsFunc(g.rows, func(r row) bool { return slices.Contains(only, r.ID) })
}

func known(id string) bool {
	return slices.ContainsFunc(groups(), func(g group) bool { return g.wanted([]string{id}) })
}

func list(w io.Writer) {
	for _, g := range groups() {
		fmt.Fprintf(w, "%s (at most %s)\n", g.name, g.within)
		for _, r := range g.rows {
			fmt.Fprintf(w, "  %-20s %s: %s\n", r.ID, r.What, r.Bound)
		}
	}
}

// accept tries all wanted groups and writes what they found.
func accept(ctx context.Context, o options) (ok bool, err error) {
	l, err := lab.New(ctx, o.repo)
	if err != nil {
		return false, err
	}
	var rows []row
	for _, g := range groups() {
		if g.wanted(o.only) && ctx.Err() == nil {
			rows = append(rows, g.run(ctx, l)...)
		}
	}
	if err := l.Close(); err != nil {
		return false, err
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return false, fmt.Errorf("encode rows: %w", err)
	}
	if err := os.WriteFile(o.out, append(b, '\n'), 0o644); err != nil {
		return false, fmt.Errorf("write rows: %w", err)
	}
	failed := slices.ContainsFunc(rows, func(r row) bool { return !r.OK })
	return !failed && ctx.Err() == nil, ctx.Err()
}

// run tries a group and prints its rows. A row without a finding did not hold.
func (g *group) run(ctx context.Context, l *lab.Lab) []row {
	ctx, cancel := context.WithTimeout(ctx, g.within)
	defer cancel()
	begin, f := time.Now(), findings{}
	err := g.try(ctx, l, f)
	rows := slices.Clone(g.rows)
	for i := range rows {
		r := &rows[i]
		found, ok := f[r.ID]
		switch {
		case ok:
			r.Value, r.OK = found.value, found.ok
		case err != nil:
			r.Value = "not measured: " + firstLine(err.Error())
		default:
			r.Value = "not measured"
		}
		fmt.Printf("%-6s %-20s %-70s %s (%s)\n", verdict(r.OK), r.ID, r.What, r.Value, r.Bound)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", g.name, err)
	}
	fmt.Fprintf(os.Stderr, "%s took %s\n", g.name, time.Since(begin).Round(100*time.Millisecond))
	return rows
}

func verdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAILED"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
