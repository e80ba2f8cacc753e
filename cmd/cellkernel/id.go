package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/sdk"
)

// A member is what a node is in its mesh, as its kernel says or as it is
// on disk.
type member interface {
	admin.Member
	admin.Guard
}

// member finds the node of the genome that was named or is nearest: its
// kernel if it runs, else its files. The caller calls done.
func (a *app) member(ctx context.Context) (m member, done func(), err error) {
	var p admin.Plan
	if err := a.planFrom(&p, nil); err != nil {
		return nil, nil, err
	}
	c, err := kernelOf(ctx, p.File)
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		return c, c.Close, nil
	}
	g, _, err := load(p)
	if err != nil {
		return nil, nil, err
	}
	files, err := membership.Open(sdk.CellName(g.Kernel.Mesh), sdk.CellName(g.Kernel.Node), filepath.Dir(p.File))
	if err != nil {
		return nil, nil, err
	}
	return files, func() { _ = files.Close() }, nil
}

// memberHint says how to get into a mesh that this machine is not in.
func memberHint(err error) error {
	var missing *membership.NotMemberError
	if !errors.As(err, &missing) {
		return err
	}
	return withHint(err, `"cellkernel mesh create %s" makes it; if other machines are in it, "cellkernel invite" there and "cellkernel join" here`, missing.Mesh)
}

func (a *app) idCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "id",
		Short: "Say who this node is",
		Long: `Id shows the name, id and public key of the node that the genome.toml here describes, and its mesh.
No kernel needs to run: like "up", id makes the key of a node that has none yet, and says so.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			m, done, err := a.member(ctx)
			if err != nil {
				return err
			}
			defer done()
			id, err := m.Identity(ctx)
			if err != nil {
				return err
			}
			if id.New {
				fmt.Fprintf(a.stderr, "cellkernel: made the key of node %s\n", id.Node)
			}
			return a.show(id, func(w io.Writer) error { return idText(w, id) })
		},
	}
	a.outputFlag(cmd)
	return cmd
}

func idText(w io.Writer, id *admin.Identity) error {
	mesh := id.Mesh + " " + id.MeshID
	if id.MeshID == "" {
		mesh += "(this machine is not in it)"
	}
	return pairs(w, [][2]string{
		{"node", id.Node}, {"id", string(id.NodeID)}, {"fingerprint", id.Fingerprint}, {"key", id.PublicKey},
		{"mesh", mesh}, {"file", id.File},
	})
}

// pairs writes what things are called, and what they are.
func pairs(w io.Writer, list [][2]string) error {
	for _, p := range list {
		if _, err := fmt.Fprintf(w, "%-12s %s\n", p[0], strings.ReplaceAll(printable(p[1]), "\n", " ")); err != nil {
			return err
		}
	}
	return nil
}
