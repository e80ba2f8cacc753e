package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/config"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and show the configuration"}
	group(cmd)
	cmd.AddCommand(a.configCheckCommand(), a.configShowCommand())
	return cmd
}

// sourceFlags gives cmd the flags that change a manifest.
func sourceFlags(cmd *cobra.Command, p *admin.Plan) {
	cmd.Flags().StringArrayVar(&p.Sets, "set", nil, "override a setting: section.key=value, as in TOML")
	cmd.Flags().StringArrayVar(&p.Overlays, "overlay", nil, "lay another file over the genome")
}

// loadWords reads the manifest that a command line names.
func (a *app) loadWords(p *admin.Plan, words []string) (*config.Origins, error) {
	if len(words) == 1 && !isManifest(words[0]) {
		return nil, &configError{err: fmt.Errorf("read %q: no such file", words[0])}
	}
	if err := a.planFrom(p, words); err != nil {
		return nil, err
	}
	_, origins, err := load(*p)
	return origins, err
}

func (a *app) configCheckCommand() *cobra.Command {
	var p admin.Plan
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Report every mistake in a genome.toml, starting nothing",
		Long: `Check reads all sources as "up" would. It ends with 3 if there are mistakes. What is allowed and looks like a slip
of the hand, such as an axon to a cell that is not in the genome, is a note.`,
		Args: args(0, 1),
		RunE: func(_ *cobra.Command, words []string) error {
			origins, err := a.loadWords(&p, words)
			var notes config.Errors
			if err == nil {
				notes = origins.Doubts()
			}
			if shown := a.showChecked(err, notes); shown != nil {
				return shown
			}
			return err
		},
	}
	sourceFlags(cmd, &p)
	a.outputFlag(cmd)
	return cmd
}

// A remark is what "config check" says about one place, as JSON.
type remark struct {
	Severity string `json:"severity"` // "error" or "note"
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Key      string `json:"key,omitempty"`
	Text     string `json:"text"`
	Hint     string `json:"hint,omitempty"` // the nearest valid spelling, or what to do
}

// showChecked writes what was found. As text, mistakes are left to whoever
// reports the error.
func (a *app) showChecked(err error, notes config.Errors) error {
	if a.output != "json" {
		for _, n := range notes {
			n.Message = "note: " + n.Message
			fmt.Fprintln(a.stderr, printable(n.Render()))
		}
		return nil
	}
	list := remarks("note", notes)
	var conf *configError
	switch {
	case errors.As(err, &conf) && len(conf.list) > 0:
		list = remarks("error", conf.list)
	case err != nil:
		list = []remark{{Severity: "error", Text: err.Error(), Hint: hintFor(err)}}
	}
	return writeJSON(a.stdout, list)
}

func remarks(severity string, list config.Errors) []remark {
	out := []remark{}
	for _, e := range list {
		out = append(out, remark{severity, e.File, e.Line, e.Column, e.Key, e.Message, e.Suggestion})
	}
	return out
}

func (a *app) configShowCommand() *cobra.Command {
	var p admin.Plan
	var origin, running bool
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show every setting in effect, and where it comes from",
		Long: `Show prints every setting, defaults included: as the files, variables and flags say now, or,
with --running, as the running kernel uses it.`,
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			list, err := a.settings(cmd, &p, words, running)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.settingsJSON(list)
			}
			return settingsText(a.stdout, list, origin)
		},
	}
	sourceFlags(cmd, &p)
	cmd.Flags().BoolVar(&origin, "origin", false, "name the source of every value")
	cmd.Flags().BoolVar(&running, "running", false, "ask the running kernel")
	a.outputFlag(cmd)
	return cmd
}

func (a *app) settings(cmd *cobra.Command, p *admin.Plan, words []string, running bool) ([]admin.Setting, error) {
	if running {
		ctx, cancel := brief(cmd)
		defer cancel()
		c, err := a.connect(ctx)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.Config(ctx)
	}
	origins, err := a.loadWords(p, words)
	if err != nil {
		return nil, err
	}
	var list []admin.Setting
	for _, v := range origins.List() {
		list = append(list, admin.Setting(v))
	}
	return list, nil
}

// settingsJSON writes the settings with their values as JSON has them.
func (a *app) settingsJSON(list []admin.Setting) error {
	type setting struct {
		Key    string `json:"key"`
		Value  any    `json:"value"`
		Origin string `json:"origin"`
	}
	out := []setting{}
	for _, s := range list {
		v, err := config.ParseValue(s.Value)
		if err != nil {
			return fmt.Errorf("show %s: %w", s.Key, err)
		}
		out = append(out, setting{s.Key, v, s.Origin})
	}
	return writeJSON(a.stdout, out)
}

// settingsText writes one setting per line, as TOML with dotted keys.
func settingsText(w io.Writer, list []admin.Setting, origin bool) error {
	for _, s := range list {
		line := s.Key + " = " + s.Value
		if origin {
			line = fmt.Sprintf("%-60s # %s", line, s.Origin)
		}
		if _, err := fmt.Fprintln(w, printable(line)); err != nil {
			return err
		}
	}
	return nil
}
