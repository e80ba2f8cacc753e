package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) ledgerExportCommand() *cobra.Command {
	format := "jsonl"
	cmd := &cobra.Command{
		Use:   "export [DIR]",
		Short: "Write the whole book for other programs",
		Long: `Export writes every entry of the book to standard output: as a line of JSON, with everything it says
and the bytes that are stored, or as lines of CSV, one for each posting. It asks the kernel that is
meant or, given a directory with a book, reads that without one, up to where it is damaged: then it
ends with 1 and says how far it came.`,
		Example: "  cellkernel ledger export > book.jsonl\n  cellkernel ledger export /mnt/backup/ledger --format csv",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			out := bufio.NewWriterSize(a.stdout, 64<<10)
			write, end := exporter(out, format)
			var last uint64 // that was written
			yield := func(e admin.Entry) error {
				last = e.Seq
				return write(e)
			}
			if len(words) > 0 {
				err := a.exportFiles(cmd, words[0], yield)
				return errors.Join(partial(err, last), end(), out.Flush())
			}
			return a.bank(cmd, func(c *admin.Client) error {
				err := c.Entries(cmd.Context(), admin.EntryQuery{}, yield)
				return errors.Join(partial(err, last), end(), out.Flush())
			})
		},
	}
	f := cmd.Flags()
	f.Var(&choice{value: &format, allowed: []string{"jsonl", "csv"}}, "format", "jsonl or csv")
	// The names are constants, so this can not fail.
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"jsonl", "csv"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// partial says how far an export came that did not come to its end.
func partial(err error, last uint64) error {
	if err == nil || last == 0 {
		return err
	}
	return fmt.Errorf("%w: what was written is a part of the book and ends with record %d", err, last)
}

// exportFiles yields the entries of the book in a directory, up to where it is
// damaged.
func (a *app) exportFiles(cmd *cobra.Command, dir string, yield func(admin.Entry) error) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		err = sdk.Errorf(sdk.CodeNotFound, "there is no book: no such directory")
	}
	if err != nil {
		return fmt.Errorf("export %q: %w", dir, err)
	}
	defer root.Close()
	owner, err := bookOwner(cmd.Context(), root)
	var damage *bookDamage
	if err != nil && !errors.As(err, &damage) {
		return fmt.Errorf("export %q: %w", dir, err)
	}
	r := wallet.NewReader(owner)
	report, err := walkBook(cmd.Context(), root, func(rec sdk.Record) error {
		e, err := r.Entry(rec)
		if err != nil {
			return err
		}
		return yield(e)
	})
	if err != nil {
		return fmt.Errorf("export %q: %w", dir, err)
	}
	if report.Torn > 0 {
		fmt.Fprintf(a.stderr, "%d bytes of an append that is not whole are left out\n", report.Torn)
	}
	return nil
}

// exporter writes entries in a format. End writes what is held back.
func exporter(w io.Writer, format string) (yield func(admin.Entry) error, end func() error) {
	if format == "jsonl" {
		return func(e admin.Entry) error { return writeJSON(w, e) }, func() error { return nil }
	}
	c := csv.NewWriter(w)
	_ = c.Write([]string{"seq", "time", "id", "what", "node", "amount_us", "account", "posting_us"}) // Flush returns the error
	return func(e admin.Entry) error {
			for _, p := range append(e.Postings, admin.EntryPosting{})[:max(len(e.Postings), 1)] {
				posting := ""
				if p.Account != "" {
					posting = strconv.FormatInt(int64(p.Amount), 10)
				}
				row := []string{
					strconv.FormatUint(e.Seq, 10), e.Time.Format(time.RFC3339Nano), e.ID, e.What, string(e.Peer),
					strconv.FormatInt(int64(e.Amount), 10), string(p.Account), posting,
				}
				if err := c.Write(row); err != nil {
					return err
				}
			}
			return nil
		}, func() error {
			c.Flush()
			return c.Error()
		}
}
