package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) denyCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "deny NODE",
		Short: "Keep a node out of the mesh although it knows the secret",
		Long: `Deny puts a node, by its id or by its name if the running kernel sees one of that name, on the deny
list of the mesh. Kernels of this machine end its links within a second. Other machines have lists
of their own, and a denied node still knows the secret: "cellkernel mesh rotate" changes that.
The list is the file "deny" beside the secret; what is changed there by hand counts at once, too.`,
		Example:           "  cellkernel deny kitchen-pi\n  cellkernel deny --list -o json",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(cmd *cobra.Command, words []string) error {
			if list {
				return args(0, 0)(cmd, words)
			}
			return args(1, 1)(cmd, words)
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.guard(cmd, func(ctx context.Context, m admin.Guard) error {
				if list {
					return a.listDenied(ctx, m)
				}
				d, err := m.Deny(ctx, words[0])
				if sdk.CodeOf(err) == sdk.CodeNotFound {
					return withHint(err, `"cellkernel id" on that machine shows its id`)
				}
				return a.showDenial(d, err)
			})
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list the nodes that are kept out")
	a.outputFlag(cmd)
	return cmd
}

func (a *app) undenyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "undeny NODE",
		Short:             "Take a node off the deny list",
		Long:              `Undeny lets a node in again; "cellkernel deny --list" shows the ids.`,
		Args:              args(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.guard(cmd, func(ctx context.Context, m admin.Guard) error {
				d, err := m.Undeny(ctx, words[0])
				if sdk.CodeOf(err) == sdk.CodeNotFound {
					return withHint(err, `"cellkernel deny --list" shows who is`)
				}
				if err != nil {
					return err
				}
				return a.show(d, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "node %s is not denied any more\n", printable(string(d.NodeID)))
					return err
				})
			})
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// guard does something with the deny list of the mesh that is meant.
func (a *app) guard(cmd *cobra.Command, do func(context.Context, admin.Guard) error) error {
	ctx, cancel := brief(cmd)
	defer cancel()
	m, done, err := a.member(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(ctx, m)
}

func (a *app) showDenial(d *admin.Denial, err error) error {
	if err != nil {
		return err
	}
	return a.show(d, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "denied %s %s, links ended: %d\n", printable(string(d.NodeID)), printable(nameText(d.Node)), d.Links)
		return err
	})
}

func nameText(name string) string {
	if name == "" {
		return "(no name known)"
	}
	return name
}

func (a *app) listDenied(ctx context.Context, m admin.Guard) error {
	list, err := m.Denied(ctx)
	if err != nil {
		return err
	}
	if list == nil {
		list = []admin.Denial{}
	}
	return a.show(list, func(w io.Writer) error {
		for _, d := range list {
			fmt.Fprintln(w, printable(string(d.NodeID)))
		}
		return nil
	})
}
