package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) inviteCommand() *cobra.Command {
	var r admin.InviteRequest
	var revoke bool
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Let one more machine into the mesh",
		Long: `Invite prints one line for "cellkernel join" on another machine. It is good once, for ten minutes, as
long as this kernel runs; whoever reads it can join. It is the only thing on standard output, so
that it can be piped. The kernel must listen for other machines: a cell has listen = true.`,
		Example:           "  cellkernel invite\n  cellkernel invite | ssh other.example cellkernel join",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			c, err := a.connectToChange(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			if revoke {
				n, err := c.Revoke(ctx)
				if err == nil {
					err = a.show(map[string]int{"revoked": n}, func(w io.Writer) error {
						_, err := fmt.Fprintf(w, "revoked %d\n", n)
						return err
					})
				}
				return err
			}
			i, err := c.Invite(ctx, r)
			if err != nil {
				return inviteHint(err)
			}
			return a.showInvitation(i)
		},
	}
	cmd.Flags().StringArrayVar(&r.Addresses, "address", nil, "another address of this machine: host, host:port or scheme://host:port")
	cmd.Flags().BoolVar(&revoke, "revoke", false, "make all invitations void that were not used yet")
	a.outputFlag(cmd)
	return cmd
}

// inviteHint says how a kernel comes to listen for other machines.
func inviteHint(err error) error {
	if sdk.CodeOf(err) == sdk.CodeUnavailable && strings.Contains(err.Error(), "nothing of this node listens") {
		return withHint(err, `give a cell listen = true in genome.toml, then "cellkernel up"`)
	}
	return err
}

func (a *app) showInvitation(i *admin.Invitation) error {
	if a.output == "json" {
		return writeJSON(a.stdout, i)
	}
	fmt.Fprintf(a.stderr, "cellkernel: an invitation to mesh %s by node %s, good once, until %s, at\n",
		printable(i.Mesh), printable(string(i.NodeID)), i.Until.Local().Format(time.TimeOnly))
	for _, addr := range i.Addresses {
		fmt.Fprintf(a.stderr, "    %s\n", printable(addr))
	}
	fmt.Fprintln(a.stderr, `give this line to "cellkernel join" on the other machine, and to nobody else:`)
	_, err := fmt.Fprintln(a.stdout, printable(i.Code))
	return err
}
