package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

type pluginTestFlags struct {
	config  string
	verbose bool
	options plugintest.Options
}

func (a *app) pluginTestCommand() *cobra.Command {
	var f pluginTestFlags
	cmd := &cobra.Command{
		Use:   "test PATH [ARG]...",
		Short: "Hold a plugin against the contract of its kind",
		Long: `Test starts the executable at PATH as a kernel would, checks every clause of the contract of its
kind, and says which it keeps. The plugin may be written in any language. It ends with 1 if a clause
is broken.`,
		Example: "  cellkernel plugin test ./bin/transport-tcp\n  cellkernel plugin test ./lighthouse --config '{\"servers\":[\"127.0.0.1:9443\"]}' -o json",
		Args:    args(1, -1),
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := f.complete(a); err != nil {
				return usage(err)
			}
			if info, err := os.Stat(words[0]); errors.Is(err, os.ErrNotExist) {
				return sdk.Errorf(sdk.CodeNotFound, "test plugin %q: no such file", words[0])
			} else if err == nil && info.IsDir() {
				return sdk.Errorf(sdk.CodeNotFound, "test plugin %q: it is a directory, no program", words[0])
			}
			report := plugintest.Run(cmd.Context(), plugintest.Command(words[0], words[1:]...), f.options)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			for i, r := range report.Results {
				// The sdk's advice is to run what runs here.
				report.Results[i].Why, _, _ = strings.Cut(r.Why, "; try `cellkernel plugin test")
			}
			err := notPlugin(words[0], report)
			if err == nil || a.output == "json" {
				err = a.show(report, func(w io.Writer) error { return reportText(w, report) })
			}
			if err == nil && !report.OK {
				return &exitError{exitFailed}
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "{}", "the plugin's section as JSON; @FILE reads a file")
	fl.StringVar(&f.options.Host, "listen", "", "where a transport is to listen (default: what usually works)")
	fl.BoolVar(&f.options.Alone, "alone", false, "two instances of this discovery can not meet")
	fl.BoolVar(&f.options.Volatile, "volatile", false, "this ledger forgets everything when it ends")
	fl.DurationVar(&f.options.Timeout, "timeout", 30*time.Second, "of one clause")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "show what the plugin logs")
	a.outputFlag(cmd)
	return cmd
}

// complete turns the flags into options.
func (f *pluginTestFlags) complete(a *app) error {
	text, err := a.message(f.config)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &f.options.Config); err != nil {
		return fmt.Errorf("read flag --config: %w", err)
	}
	if f.options.Timeout <= 0 {
		return fmt.Errorf("read flag --timeout: want a positive duration, got %v", f.options.Timeout)
	}
	if f.verbose {
		f.options.Log = func(level slog.Level, line []byte) {
			fmt.Fprintf(a.stderr, "%s %s\n", level, printable(string(line)))
		}
	}
	return nil
}

// silent is what the sdk says of a process that does not introduce itself.
const silent = "it never said that it is a plugin"

// notPlugin is an error if what was tested is another program, such as a cell:
// then there is no contract that it could break.
func notPlugin(path string, r plugintest.Report) error {
	if r.Kind != "" || len(r.Results) == 0 {
		return nil
	}
	_, rest, found := strings.Cut(r.Results[0].Why, silent)
	if !found {
		return nil
	}
	return withHint(fmt.Errorf("test plugin %q: is not a plugin: %s%s", path, silent, rest),
		"a plugin's main function calls plugin.Serve: docs/plugins.md; what a genome.toml calls a cell is started by \"cellkernel up\"")
}

func reportText(w io.Writer, r plugintest.Report) error {
	var rows [][]string
	for _, c := range r.Results {
		rows = append(rows, []string{c.Verdict, c.Clause, c.Promise, strings.ReplaceAll(c.Why, "\n", " ")})
	}
	if err := table(w, []string{"VERDICT", "CLAUSE", "PROMISE", "WHY"}, rows); err != nil {
		return err
	}
	verdict := "keeps its contract"
	if !r.OK {
		verdict = "breaks its contract"
	}
	_, err := fmt.Fprintf(w, "\n%s %s %s\n", printable(r.Kind+"-"+r.Name), printable(r.Version), verdict)
	return err
}
