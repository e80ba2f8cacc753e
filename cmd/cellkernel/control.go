package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) startCommand() *cobra.Command {
	cmd := a.targetCommand("start", "Start cells that are stopped, done or failed", admin.Controller.Start)
	cmd.Long = "Start starts all replicas of cells and waits until they are ready."
	return cmd
}

func (a *app) stopCommand() *cobra.Command {
	cmd := a.targetCommand("stop", "Drain and stop cells until they are started again", admin.Controller.Stop)
	cmd.Long = "Stop lets all replicas of cells finish what they do, and ends them."
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	cmd := a.targetCommand("restart", "Replace the replicas of cells one after the other", admin.Controller.Restart)
	cmd.Long = "Restart replaces the replicas of cells, each as soon as the one before it is ready.\nCells that have failed are started afresh."
	return cmd
}

// targetCommand is a command that does one thing to every cell it names.
func (a *app) targetCommand(verb, short string, do func(admin.Controller, context.Context, admin.Target) error) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " NAME...",
		Short:             short,
		Args:              args(1, -1),
		ValidArgsFunction: a.completeCells,
		RunE: func(cmd *cobra.Command, names []string) error {
			var targets []admin.Target
			for _, n := range names {
				t, err := admin.ParseTarget(n)
				if err != nil {
					return usage(fmt.Errorf("%s %q: %w", verb, n, err))
				}
				targets = append(targets, t)
			}
			c, err := a.connectToChange(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, t := range targets {
				if err := do(c, cmd.Context(), t); err != nil {
					return withCellHint(err)
				}
			}
			return nil
		},
	}
}

// withCellHint says where the names of cells are to be found.
func withCellHint(err error) error {
	if sdk.CodeOf(err) != sdk.CodeNotFound {
		return err
	}
	return withHint(err, `"cellkernel ps" lists the cells`)
}

func (a *app) scaleCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "scale NAME N | NAME=N...",
		Short:             "Set how many replicas of a cell run",
		Long:              "Scale sets the number of replicas and waits until they are ready, or gone. It lasts until the\nnext \"cellkernel up\"; the file decides then.",
		Example:           "  cellkernel scale worker 8\n  cellkernel scale worker=8 store=2",
		Args:              args(1, -1),
		ValidArgsFunction: a.completeCells,
		RunE: func(cmd *cobra.Command, words []string) error {
			wants, err := parseScales(words)
			if err != nil {
				return usage(err)
			}
			c, err := a.connectToChange(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			for _, s := range wants {
				if err := c.Scale(cmd.Context(), s.cell, s.replicas); err != nil {
					return withCellHint(err)
				}
			}
			return nil
		},
	}
}

type scale struct {
	cell     sdk.CellName
	replicas int
}

// parseScales parses "worker 8" or any number of "worker=8".
func parseScales(words []string) ([]scale, error) {
	if len(words) == 2 && !strings.Contains(words[0]+words[1], "=") {
		words = []string{words[0] + "=" + words[1]}
	}
	var out []scale
	for _, w := range words {
		name, count, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("scale %q: want NAME=N", w)
		}
		cell, err := sdk.ParseCellName(name)
		if err != nil {
			return nil, fmt.Errorf("scale %q: %w", w, err)
		}
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 || n > admin.MaxReplicas {
			return nil, fmt.Errorf("scale %q: want 0 to %d replicas, got %q", name, admin.MaxReplicas, count)
		}
		out = append(out, scale{cell, n})
	}
	return out, nil
}
