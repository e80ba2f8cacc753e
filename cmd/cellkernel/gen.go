package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen"
)

func (a *app) genCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "gen [PACKAGE]...",
		Short: "Generate the code of services from their Go interfaces",
		Long: `Gen reads the interfaces marked //cell:service of the packages (default: the one of the working
directory) and writes registration, client, encoders and the pinned layout beside them. Files that
would not change are not touched. To find no such interface at all is an error.`,
		Example: "  cellkernel gen ./...\n  cellkernel gen --check ./...",
		RunE: func(cmd *cobra.Command, patterns []string) error {
			results, err := gen.Run(cmd.Context(), patterns, gen.Options{Check: check})
			if err != nil {
				return err
			}
			if len(results) == 0 { // a check that looks at nothing would always be content
				return withHint(errors.New("generate: no interface there is marked //cell:service"),
					`"cellkernel gen ./..." looks at all packages of a module`)
			}
			return a.showGenerated(results, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; end with 9 if something would change")
	a.outputFlag(cmd)
	return cmd
}

// generated is a gen.Result as JSON.
type generated struct {
	Package  string   `json:"package"`
	Dir      string   `json:"dir"`
	Services []string `json:"services"`
	Files    []string `json:"files"`
	Changed  []string `json:"changed"`
}

// present is list as JSON has it: none is [], not null.
func present(list []string) []string { return append([]string{}, list...) }

// showGenerated lists what changed, one path a line.
func (a *app) showGenerated(results []gen.Result, check bool) error {
	list := []generated{}
	changed := false
	for _, r := range results {
		list = append(list, generated{r.Package, r.Dir, present(r.Services), present(r.Files), present(r.Changed)})
		changed = changed || len(r.Changed) > 0
	}
	err := a.show(list, func(w io.Writer) error {
		for _, r := range results {
			for _, name := range r.Changed {
				if _, err := fmt.Fprintln(w, relative(filepath.Join(r.Dir, name))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && check && changed {
		return &exitError{exitChanges}
	}
	return err
}
