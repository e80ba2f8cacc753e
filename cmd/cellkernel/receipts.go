package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/wallet"
)

func (a *app) receiptsCommand() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "receipts NODE",
		Short: "List the receipts that this node and another have both signed",
		Long: `Receipts lists what this node and another have agreed on, in either direction. The sums are cumulative:
the last receipt of each direction is the whole truth. With -o json it is a file that convinces
whoever knows the two ids: "cellkernel ledger verify FILE" checks it, anywhere.`,
		Example:           "  cellkernel receipts desk\n  cellkernel receipts desk -o json > receipts.json",
		Args:              args(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, words []string) error {
			f.peer = words[0]
			q, err := f.query()
			if err != nil {
				return err
			}
			q.Receipts = true
			return a.bank(cmd, func(c *admin.Client) error { return a.receipts(cmd, c, q) })
		},
	}
	f.add(cmd)
	a.outputFlag(cmd)
	return cmd
}

func (a *app) receipts(cmd *cobra.Command, c *admin.Client, q admin.EntryQuery) error {
	file := wallet.File{Format: wallet.Format, Receipts: []wallet.FileReceipt{}}
	var rows [][]string
	err := c.Entries(cmd.Context(), q, func(e admin.Entry) error {
		if len(file.Receipts) == wallet.MaxReceipts {
			return withHint(fmt.Errorf("list receipts: more than %d", wallet.MaxReceipts), "--tail or --since leaves some out")
		}
		if a.output == "json" {
			file.Receipts = append(file.Receipts, wallet.NewFileReceipt(&e))
			return nil
		}
		r, way := e.Receipt, "paid"
		if r.Payer == e.Peer {
			way = "earned"
		}
		rows = append(rows, []string{
			fmt.Sprintf("%d.%d", r.Epoch, r.Seq), strconv.FormatUint(e.Seq, 10), e.Time.Format(time.RFC3339), way, amountText(e.Amount),
			amountText(r.Amount), strconv.FormatInt(int64(r.CPU), 10), strconv.FormatUint(r.Calls, 10),
		})
		return nil
	})
	if err != nil {
		return err
	}
	if a.output == "json" {
		return writeJSON(a.stdout, file)
	}
	if err := table(a.stdout, []string{"NUMBER", "ENTRY", "TIME", "WAY", "ATP", "IN ALL", "CPU µs IN ALL", "CALLS IN ALL"}, rows); err != nil {
		return err
	}
	return a.refusals(cmd, c, q.Peer)
}

// refusals says why this node does not sign what a node asks for, if that is so.
func (a *app) refusals(cmd *cobra.Command, c *admin.Client, who string) error {
	w, err := c.Wallet(cmd.Context())
	if err != nil {
		return err
	}
	for _, p := range w.Peers {
		if p.Refused != "" && (p.Name == who || strings.HasPrefix(string(p.Node), who)) {
			if _, err := fmt.Fprintf(a.stdout, "node %s asks for more, which this node does not sign: %s\n", p.Node.Short(), printable(p.Refused)); err != nil {
				return err
			}
		}
	}
	return nil
}
