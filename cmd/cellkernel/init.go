package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen"
	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/scaffold"
	"github.com/cellkernel/cellkernel/examples"
)

type initFlags struct {
	module string
	sdk    string
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: `Write a directory in which "cellkernel up" works at once`,
		Long: `Init writes a genome.toml, the declaration of a service, a cell that serves it and a job that
calls it. Inside a Go module they become part of it, elsewhere they get one of their own.`,
		Example: "  cellkernel init shop && cd shop && cellkernel up",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			dir := "."
			if len(words) == 1 {
				dir = words[0]
			}
			return a.initDir(cmd.Context(), dir, f)
		},
	}
	a.outputFlag(cmd)
	cmd.Flags().StringVar(&f.module, "module", "", "path of a new Go module (default: the directory's name)")
	cmd.Flags().StringVar(&f.sdk, "sdk", "", "use the sdk of this checkout instead of a released one")
	return cmd
}

func (a *app) initDir(ctx context.Context, dir string, f initFlags) error {
	template, err := examples.Template()
	if err != nil {
		return err
	}
	module, err := scaffold.FindModule(dir, f.module)
	if err != nil {
		return err
	}
	path, err := module.Import(dir)
	if err != nil {
		return withHint(usage(fmt.Errorf("init %q: %w", dir, err)), "name a directory of letters and digits, or leave the Go module around it")
	}
	names, err := scaffold.Copy(dir, template, examples.TemplatePath, path)
	if errors.Is(err, scaffold.ErrExist) {
		return withHint(err, "init never overwrites: name another directory")
	}
	if err != nil {
		return err
	}
	for i, n := range names {
		names[i] = filepath.Join(dir, n)
	}
	err = a.show(names, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, strings.Join(names, "\n"))
		return err
	})
	if err != nil {
		return err
	}
	if err := module.Require(ctx, f.sdk, func(s string) { fmt.Fprintln(a.stderr, s) }); err != nil {
		return fmt.Errorf("make module %q: %w", module.Path, err)
	}
	// The template's generated code is that of another package.
	if _, err := gen.Run(ctx, []string{"./..."}, gen.Options{Dir: dir}); err != nil {
		return err
	}
	return nil
}
