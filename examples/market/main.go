// Command market has one node sell CPU time to another, on this machine and
// without root:
//
//	go run ./examples/market
//
// It makes a mesh for the run, a lighthouse by which the two nodes find each
// other, a donor that serves the cell "burner" for ATP, and a client whose job
// "shopper" has it compute. Then it shows how they found each other, that what
// they say is encrypted, who did the work, the logs, and both wallets, which
// have to agree. All of it is on loopback addresses, and removed in the end.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	tasks := flag.Int("tasks", 100, "how many tasks of 20 ms the client has done")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := trade(ctx, os.Stdout, *tasks); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "market:", err)
		os.Exit(1)
	}
}

// trade opens the market, lets the client buy, and shows what came of it.
func trade(ctx context.Context, w io.Writer, tasks int) (err error) {
	m, err := openMarket(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := m.close(); err == nil {
			err = e
		}
	}()
	donor, err := m.node(ctx, "donor", fmt.Sprintf("[cells.burner]\npackage  = %q\nreplicas = 2\nlisten   = true\n", m.source("burner")), "--donor")
	if err != nil {
		return err
	}
	client, err := m.node(ctx, "client", fmt.Sprintf(`[cells.shopper]
package = %q
job     = true
args    = ["%d"]
listen  = true
axons   = { burner = "axon://burner" }
`, m.source("shopper"), tasks))
	if err != nil {
		return err
	}
	if err := client.jobEnds(ctx, "shopper"); err != nil {
		return err
	}
	return show(ctx, w, donor, client)
}

// show runs the commands that a user would, and compares the wallets.
func show(ctx context.Context, w io.Writer, donor, client *node) error {
	if err := steps(ctx, w, []step{
		{"discovery: the client has found the donor", client, []string{"peers"}},
		{"encryption: how the client's job reaches the donor's cell", client, []string{"explain", "burner", "--from", "shopper"}},
		{"balancing: who did the work, from the client's log", client, []string{"logs", "shopper"}},
		{"logs of the donor's cells", donor, []string{"logs", "burner"}},
	}); err != nil {
		return err
	}
	sold, bought, err := agree(ctx, donor, client) // by now the meters have been read for the last time, too
	if err != nil {
		return err
	}
	if err := steps(ctx, w, []step{
		{"the donor's wallet", donor, []string{"wallet"}},
		{"the client's wallet", client, []string{"wallet"}},
		{"what both have signed, last", client, []string{"receipts", "donor", "--tail", "1"}},
	}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nthe wallets agree: the donor has earned %d CPU-microseconds, the client has spent %d\n", sold.Earned, bought.Spent)
	return err
}

// A step is a command and what it shows.
type step struct {
	what string
	n    *node
	args []string
}

func steps(ctx context.Context, w io.Writer, list []step) error {
	for _, s := range list {
		out, err := s.n.run(ctx, s.args...)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "\n== %s\n$ cellkernel %s\n%s", s.what, words(s.args), out)
	}
	return nil
}

// A wallet is what this example needs of "cellkernel wallet -o json".
type wallet struct {
	Earned  int64 `json:"earned_us"`
	Spent   int64 `json:"spent_us"`
	Claimed int64 `json:"claimed_us"`
	Peers   []struct {
		Open int64 `json:"open_us"`
	} `json:"peers"`
}

// agreesWithin is how soon both books say the same when the work is done.
const agreesWithin = 30 * time.Second

// agree waits until nothing is open between the two nodes.
func agree(ctx context.Context, donor, client *node) (sold, bought wallet, err error) {
	ctx, cancel := context.WithTimeout(ctx, agreesWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		sold, err = donor.wallet(ctx)
		if err == nil {
			bought, err = client.wallet(ctx)
		}
		if err != nil {
			return sold, bought, err
		}
		if len(sold.Peers) > 0 && sold.Earned > 0 && sold.Earned == bought.Spent && sold.Claimed == 0 && sold.Peers[0].Open == 0 {
			return sold, bought, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return sold, bought, fmt.Errorf("the wallets do not agree: the donor has earned %d, the client has spent %d", sold.Earned, bought.Spent)
		}
	}
}

func (n *node) wallet(ctx context.Context) (v wallet, err error) {
	out, err := n.run(ctx, "wallet", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	return v, err
}
