package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// completeLimit bounds what a press of the tab key may wait.
const completeLimit = time.Second

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the completion script of a shell",
		Long: `Completion prints a script that completes commands, flags, and the names of cells, plugins
and methods of the running kernel.`,
		Example:   "  source <(cellkernel completion bash)\n  cellkernel completion zsh > ~/.zfunc/_cellkernel\n  cellkernel completion fish > ~/.config/fish/completions/cellkernel.fish",
		Args:      args(1, 1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, words []string) error {
			root := cmd.Root()
			switch words[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return usage(fmt.Errorf("complete %q: unknown shell: want bash, zsh or fish", words[0]))
		},
	}
}

// complete asks the running kernel; without one there is nothing to offer.
func (a *app) complete(cmd *cobra.Command, ask func(context.Context, admin.Kernel) []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeLimit)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	return ask(ctx, c), cobra.ShellCompDirectiveNoFileComp
}

// names lists the names of the running processes of some kinds, and with
// replicas also those of single replicas.
func names(ctx context.Context, k admin.Kernel, replicas bool, kinds ...string) []string {
	procs, _ := k.Processes(ctx)
	var out []string
	for _, p := range procs {
		if !slices.Contains(kinds, p.Kind) {
			continue
		}
		out = append(out, p.Name)
		if replicas && p.Replica > 0 {
			out = append(out, p.ID())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (a *app) completeCells(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, k admin.Kernel) []string {
		return names(ctx, k, false, admin.KindCell)
	})
}

func (a *app) completeSources(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, k admin.Kernel) []string {
		return names(ctx, k, true, admin.KindCell, admin.KindKernel, admin.KindPlugin)
	})
}

func (a *app) completePlugins(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, k admin.Kernel) []string {
		return names(ctx, k, false, admin.KindPlugin)
	})
}

// completeUp offers the cells of the genome that "up" would read, beside files
// as long as none is named.
func (a *app) completeUp(_ *cobra.Command, words []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	directive := cobra.ShellCompDirectiveNoFileComp
	if len(words) == 0 {
		directive = cobra.ShellCompDirectiveDefault
	}
	var p admin.Plan
	if err := a.planFrom(&p, words); err != nil {
		return nil, directive
	}
	g, _, err := load(p)
	if err != nil {
		return nil, directive
	}
	var names []cobra.Completion
	for _, name := range slices.Sorted(maps.Keys(g.Cells)) {
		if !slices.Contains(words, string(name)) {
			names = append(names, cobra.Completion(name))
		}
	}
	return names, directive
}

// completeMethods offers cells until there is a dot, then the cell's methods.
func (a *app) completeMethods(cmd *cobra.Command, words []string, partial string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(words) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	cell, _, dotted := strings.Cut(partial, ".")
	out, directive := a.complete(cmd, func(ctx context.Context, k admin.Kernel) []string {
		var out []string
		if !dotted {
			for _, n := range names(ctx, k, false, admin.KindCell) {
				out = append(out, n+".")
			}
			return out
		}
		methods, _ := k.Describe(ctx, sdk.CellName(cell))
		for _, m := range methods {
			out = append(out, cobra.CompletionWithDesc(cell+"."+m.Name, m.Doc))
		}
		return out
	})
	if !dotted {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return out, directive
}
