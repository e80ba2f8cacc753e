package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) meshCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "mesh", Short: "Make, list and renew the meshes of this machine"}
	group(cmd)
	cmd.AddCommand(a.meshCreateCommand(), a.meshListCommand(), a.meshRotateCommand())
	return cmd
}

func (a *app) meshCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a mesh that other machines can be invited to",
		Long: `Create makes the secret of a new mesh in ~/.cell/NAME (CELLKERNEL_HOME moves it). It is for the first
machine of a mesh; the others join. It never replaces a secret.`,
		Example:           "  cellkernel mesh create home",
		Args:              args(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, words []string) error {
			name, err := sdk.ParseCellName(words[0])
			if err != nil {
				return usage(fmt.Errorf("create mesh: %w", err))
			}
			m, err := membership.Open(name, "", "")
			if err != nil {
				return err
			}
			defer m.Close()
			id, err := m.CreateMesh()
			if errors.Is(err, fs.ErrExist) {
				return withHint(fmt.Errorf("create mesh %q: this machine is in it already", name), `"cellkernel mesh list" shows it, "cellkernel mesh rotate" gives it a new secret`)
			}
			if err != nil {
				return err
			}
			a.sayMesh(string(name))
			return a.showMesh(admin.Rotation{Mesh: string(name), MeshID: id})
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// showMesh writes the name and the id of a mesh that is new, or has a new secret.
func (a *app) showMesh(r admin.Rotation) error {
	return a.show(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "mesh %s %s\n", printable(r.Mesh), printable(r.MeshID))
		return err
	})
}

// sayMesh says how a genome.toml names its mesh.
func (a *app) sayMesh(name string) {
	fmt.Fprintf(a.stderr, "cellkernel: this machine is in mesh %s; what a genome.toml boots is in it, too, if it says\n\n    [kernel]\n    mesh = %q\n\n", printable(name), name)
}

func (a *app) meshListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List the named meshes that this machine is in",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			list, err := membership.Meshes()
			if err != nil {
				return err
			}
			if list == nil {
				list = []membership.Mesh{}
			}
			return a.show(list, func(w io.Writer) error {
				var rows [][]string
				for _, m := range list {
					rows = append(rows, []string{m.Name, m.ID, strings.Join(m.Nodes, ","), m.Dir, m.Problem})
				}
				return table(w, []string{"MESH", "ID", "NODES", "DIR", "PROBLEM"}, rows)
			})
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// rotates is what is asked before.
const rotates = "all other machines are out of it until they are invited again"

func (a *app) meshRotateCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rotate [NAME]",
		Short: "Replace the secret of a mesh: every other machine is out until it is invited again",
		Long: `Rotate gives the mesh of the genome.toml here, or the one that is named, a new secret. Kernels of this
machine that are in it end all links to other members within a second. There is no time in which
both secrets count: whoever is not invited again is out. It asks first; where nobody can answer, --yes does.`,
		Example:           "  cellkernel mesh rotate\n  cellkernel mesh rotate home --yes",
		Args:              args(0, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, words []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			m, done, err := a.meshToChange(ctx, words)
			if err != nil {
				return err
			}
			defer done()
			if !yes {
				if err := a.confirm(cmd.Context(), "rotate "+meshText(ctx, m, words), rotates); err != nil {
					return err
				}
			}
			ctx, cancel = brief(cmd) // anew: people answer when they like
			defer cancel()
			r, err := m.RotateMesh(ctx)
			if err != nil {
				return memberHint(err)
			}
			fmt.Fprintf(a.stderr, "cellkernel: links ended: %d; all other machines have to be invited again\n", r.Links)
			return a.showMesh(*r)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	a.outputFlag(cmd)
	return cmd
}

// meshText names the mesh that is to be changed. What is wrong with that of the
// genome the change itself will say.
func meshText(ctx context.Context, m admin.Member, words []string) string {
	if len(words) > 0 {
		return fmt.Sprintf("mesh %q", words[0])
	}
	who, err := m.Identity(ctx)
	if err != nil {
		return "the mesh of this genome.toml"
	}
	return fmt.Sprintf("mesh %q", who.Mesh)
}

// meshToChange is the mesh that is named, by its files, or the one of the genome.
func (a *app) meshToChange(ctx context.Context, words []string) (admin.Member, func(), error) {
	if len(words) == 0 {
		return a.member(ctx)
	}
	list, err := membership.Meshes()
	if err != nil {
		return nil, nil, err
	}
	if !slices.ContainsFunc(list, func(m membership.Mesh) bool { return m.Name == words[0] }) {
		return nil, nil, withHint(sdk.Errorf(sdk.CodeNotFound, "find mesh %.70q: this machine is not in it", words[0]), `"cellkernel mesh list" lists the meshes`)
	}
	m, err := membership.Open(sdk.CellName(words[0]), "", "")
	if err != nil {
		return nil, nil, err
	}
	return m, func() { _ = m.Close() }, nil
}
