package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Check and copy the book of a node",
		Long:  `Ledger works on the book in which a node notes what it has earned and spent: see docs/billing.md.`,
	}
	group(cmd)
	cmd.AddCommand(a.ledgerVerifyCommand())
	return cmd
}

func (a *app) ledgerVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check every byte of a book",
		Long: `Verify reads the whole book in a directory and checks every line, the chain of hashes, and the sums
of all accounts. No kernel needs to run; where one does, it is not disturbed. Nothing is changed. It
ends with 1 if the book is damaged, and says which byte of which file, and behind which record.`,
		Example: "  cellkernel ledger verify /mnt/backup/ledger",
		Args:    args(1, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			v, err := verifyBook(cmd.Context(), words[0])
			if err != nil {
				return err
			}
			if err := a.show(v, v.text); err != nil || v.OK {
				return err
			}
			return &exitError{exitFailed}
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// A verdict is what was found of a book.
type verdict struct {
	OK       bool   `json:"ok"`
	Records  uint64 `json:"records"` // that can be believed
	Head     string `json:"head,omitempty"`
	Segments int    `json:"segments,omitempty"`
	Accounts int    `json:"accounts,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
	Torn     int64  `json:"torn,omitempty"` // bytes of an append that is not whole
	File     string `json:"file,omitempty"` // where it is damaged
	Byte     int64  `json:"byte,omitempty"`
	Cause    string `json:"cause,omitempty"`
}

// verifyBook checks the book in dir. Damage is no error.
func verifyBook(ctx context.Context, dir string) (*verdict, error) {
	root, err := openBook(dir)
	if err != nil {
		return nil, fmt.Errorf("verify %q: %w", dir, err)
	}
	defer root.Close()
	r, err := walkBook(ctx, root, nil)
	v := &verdict{
		OK: err == nil, Records: r.Head.Seq, Head: hex.EncodeToString(r.Head.Hash[:]), Segments: r.Segments,
		Accounts: len(r.Balances), Bytes: r.Bytes, Torn: r.Torn,
	}
	var d *bookDamage
	if errors.As(err, &d) {
		v.Records, v.File, v.Byte, v.Cause = d.Seq, d.File, d.Offset, d.Cause
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("verify %q: %w", dir, err)
	}
	return v, nil
}

// openBook opens the directory of a book.
func openBook(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, sdk.Errorf(sdk.CodeNotFound, "no such directory")
	}
	return root, err
}

func (v *verdict) text(w io.Writer) error {
	if !v.OK {
		_, err := fmt.Fprintf(w, "DAMAGED: %s, byte %d, behind record %d: %s\n", printable(v.File), v.Byte, v.Records, printable(v.Cause))
		return err
	}
	fmt.Fprintf(w, "ok: %d records in %d segments (%s), %d accounts, head %s\n", v.Records, v.Segments, bytesText(v.Bytes), v.Accounts, v.Head)
	if v.Torn > 0 {
		fmt.Fprintf(w, "and %d bytes of an append that is not whole: it was never acknowledged, and the next start cuts it off\n", v.Torn)
	}
	return nil
}
