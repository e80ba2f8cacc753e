package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Check and copy the book of a node",
		Long:  `Ledger works on the book in which a node notes what it has earned and spent: see docs/billing.md.`,
	}
	group(cmd)
	cmd.AddCommand(a.ledgerVerifyCommand(), a.ledgerExportCommand())
	return cmd
}

func (a *app) ledgerVerifyCommand() *cobra.Command {
	var each bool
	cmd := &cobra.Command{
		Use:   "verify [DIR|FILE]",
		Short: "Check every byte of a book, or receipts of somebody else",
		Long: `Verify reads the whole book in a directory, by default that of this node, and checks every line, the
chain of hashes, the sums of all accounts, and that every entry keeps the rules of money. No kernel
needs to run; where one does, it is not disturbed. Nothing is changed. It ends with 1 if the book is
damaged, or ends before its checkpoint does, and says which byte of which file, and behind which record.

Both signatures of receipts are checked, in a long book of the first 50 000 and of the last with
each node: a receipt names the one before it by its hash, so the last signature is for all of them.
With --signatures each is checked by itself.

FILE is what "cellkernel receipts -o json" wrote, anywhere: all signatures and sums are checked.`,
		Example: "  cellkernel ledger verify /mnt/backup/ledger\n  cellkernel ledger verify receipts.json -o json",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			path, err := a.bookPath(words)
			if err != nil {
				return err
			}
			v, err := verifyPath(cmd.Context(), path, each)
			if err != nil {
				return fmt.Errorf("verify %q: %w", path, err)
			}
			if err := a.show(v, v.text); err != nil || v.sound() {
				return err
			}
			return &exitError{exitFailed}
		},
	}
	cmd.Flags().BoolVar(&each, "signatures", false, "check every signature by itself, however long that takes")
	a.outputFlag(cmd)
	return cmd
}

// bookPath returns the path that was named, or where the node of the genome
// that is meant keeps its book.
func (a *app) bookPath(words []string) (string, error) {
	if len(words) > 0 {
		return words[0], nil
	}
	var p admin.Plan
	if err := a.planFrom(&p, nil); err != nil {
		return "", err
	}
	g, _, err := load(p)
	if err != nil {
		return "", err
	}
	mesh, err := membership.Path(sdk.CellName(g.Kernel.Mesh), filepath.Dir(p.File))
	return filepath.Join(mesh, g.Kernel.Node, "ledger", genome.PluginName(sdk.KindLedger, g.Golgi.Ledger)), err
}

// A verified thing is a book or a file of receipts.
type verified interface {
	sound() bool
	text(w io.Writer) error
}

func verifyPath(ctx context.Context, path string, each bool) (verified, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, sdk.Errorf(sdk.CodeNotFound, "there is no book: no such file or directory")
	case err != nil:
		return nil, err
	case info.IsDir():
		return verifyBook(ctx, path, each)
	}
	return verifyReceipts(path)
}

// A bookVerdict is what was found of a book.
type bookVerdict struct {
	OK       bool       `json:"ok"`
	Records  uint64     `json:"records"` // that can be believed
	Node     sdk.NodeID `json:"node,omitempty"`
	Head     string     `json:"head"`
	Segments int        `json:"segments"`
	Accounts int        `json:"accounts"`
	Bytes    int64      `json:"bytes"`
	Torn     int64      `json:"torn"` // bytes of an append that is not whole

	Signatures wallet.Signatures `json:"signatures"`

	File  string `json:"file,omitempty"` // where it is damaged
	Byte  int64  `json:"byte"`
	Cause string `json:"cause,omitempty"`
}

// verifyBook checks the book in dir. Damage is no error.
func verifyBook(ctx context.Context, dir string, each bool) (*bookVerdict, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	v := &bookVerdict{}
	if v.Node, err = bookOwner(ctx, root); err != nil && !v.damaged(err) {
		return nil, err
	}
	audit := wallet.NewAudit(v.Node, each)
	r, err := walkBook(ctx, root, func(rec sdk.Record) error {
		if !audit.Take(rec) {
			return errFound
		}
		return nil
	})
	found := audit.End()
	v.Records, v.Signatures = found.Records, found.Signatures
	v.Head, v.Segments, v.Accounts, v.Bytes, v.Torn = hex.EncodeToString(r.Head.Hash[:]), r.Segments, len(r.Balances), r.Bytes, r.Torn
	switch {
	case found.Err != nil:
		v.Cause = found.Err.Error()
	case err != nil && !v.damaged(err):
		return nil, err
	}
	v.OK = err == nil && found.Err == nil
	return v, nil
}

// damaged notes where a book is damaged, if that is what err says.
func (v *bookVerdict) damaged(err error) bool {
	var d *bookDamage
	if !errors.As(err, &d) {
		return false
	}
	v.Records, v.File, v.Byte, v.Cause = d.Seq, d.File, d.Offset, d.Cause
	return true
}

// errFound ends a walk early.
var errFound = errors.New("found")

// bookOwner says whose book it is: the first receipt tells. Before that nothing
// depends on it.
func bookOwner(ctx context.Context, root *os.Root) (owner sdk.NodeID, err error) {
	_, err = walkBook(ctx, root, func(rec sdk.Record) error {
		var ok bool
		if owner, ok = wallet.Owner(rec); ok {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return owner, err
}

func (v *bookVerdict) sound() bool { return v.OK }

func (v *bookVerdict) text(w io.Writer) error {
	switch {
	case !v.OK && v.File == "":
		_, err := fmt.Fprintf(w, "WRONG behind record %d: %s\n", v.Records, printable(v.Cause))
		return err
	case !v.OK:
		_, err := fmt.Fprintf(w, "DAMAGED: %s, byte %d, behind record %d: %s\n", printable(v.File), v.Byte, v.Records, printable(v.Cause))
		return err
	}
	fmt.Fprintf(w, "ok: %d records in %d segments (%s), %d accounts, head %s; %d signatures hold", v.Records, v.Segments, bytesText(v.Bytes), v.Accounts, v.Head, v.Signatures.Checked)
	if v.Signatures.Covered > 0 {
		fmt.Fprintf(w, ", and by them %d of receipts before", v.Signatures.Covered)
	}
	fmt.Fprintln(w)
	if v.Torn > 0 {
		fmt.Fprintf(w, "and %d bytes of an append that is not whole: behind a crash, one that was never acknowledged, which the next start cuts off; "+
			"in a copy, one that was being made, or the copy was cut short\n", v.Torn)
	}
	return nil
}

// A receiptVerdict is what was found of a file of receipts.
type receiptVerdict struct{ *wallet.Finding }

// maxReceiptFile is how large such a file may be, in bytes.
const maxReceiptFile = 1 << 30

func verifyReceipts(path string) (verified, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var file wallet.File
	if err := json.NewDecoder(io.LimitReader(f, maxReceiptFile)).Decode(&file); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "read receipts: %v", err)
	}
	found, err := wallet.Check(&file)
	if err != nil {
		return nil, err
	}
	return receiptVerdict{found}, nil
}

func (v receiptVerdict) sound() bool { return v.OK }

func (v receiptVerdict) text(w io.Writer) error {
	for _, p := range v.Problems {
		fmt.Fprintf(w, "WRONG: %s\n", printable(p))
	}
	for _, id := range v.Cheats {
		fmt.Fprintf(w, "node %s has signed two receipts with one number: this file proves it\n", id)
	}
	for _, t := range v.Totals {
		chain := "the chain is whole"
		if t.Gaps > 0 {
			chain = fmt.Sprintf("%d places where receipts are left out", t.Gaps)
		}
		fmt.Fprintf(w, "%d receipts; by the last, %d.%d, node %s owes node %s %s in all, for %d µs of CPU time and %d calls; %s\n",
			t.Receipts, t.Epoch, t.Seq, t.Payer, t.Payee, t.Amount, int64(t.CPU), t.Calls, chain)
	}
	if v.OK {
		_, err := fmt.Fprintln(w, "ok: both signatures of each hold")
		return err
	}
	_, err := fmt.Fprintln(w, "the file is not what both have signed")
	return err
}
