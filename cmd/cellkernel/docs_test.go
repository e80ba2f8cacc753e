package main

import (
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// section is what docs/cli.md says about one command.
type section struct {
	text  string
	flags map[string]bool
}

var (
	headingLine = regexp.MustCompile("^## `(cellkernel[a-z ]*)`$")
	flagRow     = regexp.MustCompile("^\\| `(?:-[a-zA-Z], )?--([a-z-]+)")
)

func readDocs(t *testing.T) map[string]*section {
	t.Helper()
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*section{}
	var now *section
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if m := headingLine.FindStringSubmatch(line); m != nil {
			now = &section{flags: map[string]bool{}}
			out[m[1]] = now
		}
		if now == nil {
			continue
		}
		now.text += line + "\n"
		if m := flagRow.FindStringSubmatch(line); m != nil {
			now.flags[m[1]] = true
		}
	}
	return out
}

// commands lists every command that people see, by path.
func commands(cmd *cobra.Command) map[string]*cobra.Command {
	out := map[string]*cobra.Command{cmd.CommandPath(): cmd}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			maps.Copy(out, commands(sub))
		}
	}
	return out
}

// docs/cli.md and the tree of commands say the same, either way.
func TestDocsDescribeEveryCommandAndFlag(t *testing.T) {
	docs := readDocs(t)
	tree := commands(newApp(nil, io.Discard, io.Discard).root())
	for path := range docs {
		if tree[path] == nil {
			t.Errorf("docs/cli.md describes %q: no such command", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(tree)) {
		cmd, doc := tree[path], docs[path]
		if doc == nil {
			t.Errorf("docs/cli.md does not describe %q", path)
			continue
		}
		use := strings.TrimSuffix(cmd.UseLine(), " [flags]")
		if !strings.Contains(doc.text, use) || !strings.Contains(doc.text, cmd.Short) {
			t.Errorf("docs/cli.md: %q: want the usage %q and the sentence %q", path, use, cmd.Short)
		}
		have := map[string]bool{}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { have[f.Name] = !f.Hidden })
		cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) { have[f.Name] = !f.Hidden })
		for name, shown := range have {
			if shown && name != "help" && !doc.flags[name] {
				t.Errorf("docs/cli.md: %q: flag --%s is missing", path, name)
			}
		}
		for name := range doc.flags {
			if !have[name] {
				t.Errorf("docs/cli.md: %q: there is no flag --%s", path, name)
			}
		}
	}
}

func TestDocsListEveryExitCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"| 0 |", "| 1 |", "| 2 |", "| 3 |", "| 4 |", "| 5 |", "| 6 |", "| 7 |", "| 8 |", "| 9 |", "| 130 |"} {
		if !strings.Contains(string(text), row) {
			t.Errorf("docs/cli.md: no row %q", row)
		}
	}
}
