package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) walletCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wallet",
		Short: "Show what this node has earned and spent",
		Long: `Wallet sums up the book of this node: what it has, what it may spend, and what there is with every
other node. Amounts are in ATP: 1 ATP is 100 ms of CPU time. See docs/billing.md.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.bank(cmd, func(c *admin.Client) error {
				w, err := c.Wallet(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(w, func(out io.Writer) error { return walletText(out, w) })
			})
		},
	}
	a.outputFlag(cmd)
	cmd.AddCommand(a.walletHistoryCommand(), a.walletWhyCommand(), a.walletCreditCommand())
	return cmd
}

// bank connects to the kernel that is meant.
func (a *app) bank(cmd *cobra.Command, ask func(*admin.Client) error) error {
	c, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	return bankHint(ask(c))
}

func bankHint(err error) error {
	if err != nil && sdk.CodeOf(err) == sdk.CodeUnavailable && strings.Contains(err.Error(), `"golgi.ledger" is empty`) {
		return withHint(err, `ledger = "json" in section [golgi] gives it one`)
	}
	return err
}

func walletText(w io.Writer, b *admin.Wallet) error {
	price := "serves its mesh free: it is no donor"
	if b.Donor {
		price = priceText(b.Price) + " ATP for 100 ms of CPU time"
	}
	err := pairs(w, [][2]string{
		{"node", fmt.Sprintf("%s (%s)", b.Name, b.Node.Short())},
		{"balance", fmt.Sprintf("%s: earned %s, spent %s", b.Balance, b.Earned, b.Spent)},
		{"available", b.Available.String()}, {"reserved", b.Reserved.String()},
		{"price", price}, {"free", b.Free.String() + " of work was given away"},
	})
	if err != nil || len(b.Peers) == 0 {
		return err
	}
	var rows [][]string
	for _, p := range b.Peers {
		rows = append(rows, []string{
			p.Node.Short(), cmp.Or(p.Name, "-"), amountText(p.Balance), amountText(p.Earned), amountText(p.Spent), amountText(p.Reserved),
			amountText(p.Claimed + p.Disputed), amountText(p.Free), creditText(&p),
		})
	}
	fmt.Fprintln(w)
	return table(w, []string{"NODE", "NAME", "BALANCE", "EARNED", "SPENT", "RESERVED", "UNSIGNED", "FREE", "CREDIT"}, rows)
}

// creditText is how much a node may owe this one.
func creditText(p *admin.WalletPeer) string {
	switch {
	case p.Blocked:
		return "blocked: it cheated"
	case p.Denied:
		return "none: it is denied"
	case p.Default:
		return amountText(p.Credit) + " (default)"
	}
	return amountText(p.Credit)
}

// amountText is an amount in a column whose heading says that it is in ATP.
func amountText(a sdk.ATP) string { return strings.TrimSuffix(a.String(), " ATP") }

// priceText is a price in ATP.
func priceText(milli uint32) string { return amountText(sdk.ATP(milli) * (sdk.OneATP / 1000)) }

type historyFlags struct {
	since string
	tail  int
	peer  string
}

func (f *historyFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.since, "since", "", "only entries since a time (2006-01-02T15:04:05Z) or for a duration (10m)")
	cmd.Flags().IntVar(&f.tail, "tail", f.tail, "only the last ones, so many (0: all)")
}

func (f *historyFlags) query() (admin.EntryQuery, error) {
	l := logsFlags{since: f.since, tail: f.tail}
	q, err := l.query(nil, time.Now())
	return admin.EntryQuery{Since: q.Since, Tail: q.Tail, Peer: f.peer}, err
}

func (a *app) walletHistoryCommand() *cobra.Command {
	f := historyFlags{tail: 20}
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show the entries of the book",
		Long: `History shows the last entries of the book, the oldest of them first. "cellkernel wallet why" says
what one is for.`,
		Example:           "  cellkernel wallet history --tail 100 --peer desk\n  cellkernel wallet history --since 1h --tail 0 -o json",
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query()
			if err != nil {
				return err
			}
			return a.bank(cmd, func(c *admin.Client) error { return a.history(cmd, c, q) })
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.peer, "peer", "", "only entries about a node, by its name or id")
	a.outputFlag(cmd)
	return cmd
}

func (a *app) history(cmd *cobra.Command, c *admin.Client, q admin.EntryQuery) error {
	if a.output == "json" {
		return c.Entries(cmd.Context(), q, func(e admin.Entry) error { return writeJSON(a.stdout, e) })
	}
	var rows [][]string
	err := c.Entries(cmd.Context(), q, func(e admin.Entry) error {
		rows = append(rows, []string{
			strconv.FormatUint(e.Seq, 10), e.Time.Format(time.RFC3339), e.What, entryPeer(&e), amountText(e.Amount), jobsText(e.Jobs),
		})
		return nil
	})
	if err != nil {
		return err
	}
	return table(a.stdout, []string{"ENTRY", "TIME", "WHAT", "NODE", "ATP", "FOR"}, rows)
}

func entryPeer(e *admin.Entry) string { return cmp.Or(e.PeerName, e.Peer.Short(), "-") }

// jobsText sums up a bill.
func jobsText(jobs []admin.EntryJob) string {
	var parts []string
	for _, j := range jobs {
		what := fmt.Sprintf("%s.%s", j.Cell, cmp.Or(j.Method, "?"))
		if j.Calls == 0 { // the call has not ended yet, or is on an earlier bill
			parts = append(parts, "part of "+what)
		} else {
			parts = append(parts, fmt.Sprintf("%d × %s", j.Calls, what))
		}
		if len(parts) == 3 && len(jobs) > 3 {
			return strings.Join(parts, ", ") + fmt.Sprintf(" and %d more", len(jobs)-3)
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

func (a *app) walletWhyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why ENTRY",
		Short: "Say what one entry of the book is for",
		Long: `Why takes an entry apart: which node, which cells and methods, how many calls, how much CPU time,
what metered it, the price, what it comes to, and whether both signatures hold. ENTRY is a number
that "cellkernel wallet history" shows.`,
		Args:              args(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, words []string) error {
			seq, err := strconv.ParseUint(words[0], 10, 62)
			if err != nil || seq == 0 {
				return usage(fmt.Errorf("explain entry %q: want a number from 1 on", words[0]))
			}
			return a.bank(cmd, func(c *admin.Client) error {
				return c.Entries(cmd.Context(), admin.EntryQuery{Seq: seq}, func(e admin.Entry) error {
					return a.show(&e, func(w io.Writer) error { return whyText(w, &e) })
				})
			})
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// whats say what kinds of entries are.
var whats = map[string]string{
	"credit": "how much the node may owe this one", "reserve": "set aside for work that the node is going to do",
	"void": "was set aside and not needed", "claim": "asked of the node for work done for it", "earn": "the node has signed for work done for it",
	"spend": "this node has signed for work that the node did", "adopt": "a receipt that had been lost, with both signatures",
	"block": "the node was caught cheating", "free": "work given away, in CPU time", "snapshot": "the state of the book, for the next start",
}

func whyText(w io.Writer, e *admin.Entry) error {
	list := [][2]string{
		{"entry", fmt.Sprintf("%d of %s", e.Seq, e.Time.Format(time.RFC3339))},
		{"what", e.What + ": " + cmp.Or(whats[e.What], "?")},
	}
	if e.Peer != "" {
		list = append(list, [2]string{"node", strings.TrimSpace(e.PeerName + " " + string(e.Peer))})
	}
	list = append(list, [2]string{"amount", e.Amount.String()})
	if r := e.Receipt; r != nil {
		list = append(list, [][2]string{
			{"receipt", fmt.Sprintf("%d.%d: in all %s for %d µs of CPU time and %d calls", r.Epoch, r.Seq, r.Amount, int64(r.CPU), r.Calls)},
			{"payee", fmt.Sprintf("%s: signature %s", r.Payee.Short(), verdictText(r.PayeeSigned))},
			{"payer", fmt.Sprintf("%s: signature %s", r.Payer.Short(), verdictText(r.PayerSigned))},
		}...)
	}
	for _, p := range e.Postings {
		list = append(list, [2]string{"posting", fmt.Sprintf("%s onto %s", p.Amount, p.Account)})
	}
	if err := pairs(w, list); err != nil || len(e.Jobs) == 0 {
		return err
	}
	var rows [][]string
	for _, j := range e.Jobs {
		rows = append(rows, []string{
			string(j.From), string(j.Cell), cmp.Or(j.Method, "-"), strconv.FormatUint(j.Calls, 10), strconv.FormatInt(int64(j.CPU), 10),
			j.Meter, priceText(j.Price), amountText(j.Amount),
		})
	}
	fmt.Fprintln(w)
	return table(w, []string{"CALLER", "CELL", "METHOD", "CALLS", "CPU µs", "METER", "PRICE", "ATP"}, rows)
}

func verdictText(ok bool) string {
	if ok {
		return "holds"
	}
	return "is missing or does not hold"
}

func (a *app) walletCreditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "credit NODE AMOUNT",
		Short: "Say how much a node may owe this one",
		Long: `Credit lets a node have work done here until it owes AMOUNT, in ATP, instead of what every member may
owe. 0 is for nodes that have to earn first. NODE is a name or id that "cellkernel peers" shows, or the
beginning of an id.`,
		Example:           "  cellkernel wallet credit desk 36000",
		Args:              args(2, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, words []string) error {
			amount, err := parseATP(words[1])
			if err != nil {
				return usage(fmt.Errorf("set credit of %q: %w", words[0], err))
			}
			c, err := a.connectToChange(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := c.SetCredit(cmd.Context(), words[0], amount)
			if err != nil {
				return bankHint(err)
			}
			return a.show(p, func(w io.Writer) error {
				owes := "it owes " + max(p.Balance, 0).String()
				if p.Balance < 0 {
					owes = "this node owes it " + (-p.Balance).String()
				}
				_, err := fmt.Fprintf(w, "node %s may owe %s; %s\n", printable(cmp.Or(p.Name, p.Node.Short())), p.Credit, owes)
				return err
			})
		},
	}
	a.outputFlag(cmd)
	return cmd
}

// parseATP reads an amount in ATP, to the CPU-microsecond.
func parseATP(s string) (sdk.ATP, error) {
	whole, rest, _ := strings.Cut(strings.TrimSpace(strings.TrimSuffix(s, "ATP")), ".")
	for len(rest) < 5 {
		rest += "0"
	}
	v, err := strconv.ParseUint(whole+rest, 10, 59)
	if err != nil || whole == "" || len(rest) > 5 {
		return 0, fmt.Errorf("amount %q: want a number of ATP like 36000 or 12.5, with at most five decimals", s)
	}
	return sdk.ATP(v), nil
}
