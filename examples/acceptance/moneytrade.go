package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/examples/bench/result"
)

const (
	costPairs   = 20
	costFor     = 3 * time.Second // of a load
	agreeWithin = 30 * time.Second
	benchWithin = 8 * time.Minute
)

// A purse is what rows need of "wallet -o json", in CPU-microseconds.
type purse struct {
	Earned  int64 `json:"earned_us"`
	Spent   int64 `json:"spent_us"`
	Claimed int64 `json:"claimed_us"`
	Peers   []struct {
		Open     int64  `json:"open_us"`
		Receipts uint64 `json:"receipts"`
	} `json:"peers"`
}

func purseOf(ctx context.Context, k *lab.Kernel) (p purse, err error) {
	r, err := k.Command(ctx, "wallet", "-o", "json")
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &p); err != nil {
		return p, fmt.Errorf("read wallet: exit code %d: %w\n%s", r.Code, err, r.Stderr)
	}
	return p, nil
}

// receipts is how many there are with both signatures.
func (p purse) receipts() (n uint64) {
	for _, x := range p.Peers {
		n += x.Receipts
	}
	return n
}

// agreed waits until nothing is open between a client and its donor.
func agreed(ctx context.Context, client, donor *lab.Kernel) (spent, earned purse, took time.Duration, err error) {
	took, err = until(ctx, agreeWithin, "both wallets say the same", func() (bool, error) {
		var err, err2 error
		spent, err = purseOf(ctx, client)
		earned, err2 = purseOf(ctx, donor)
		ok := spent.Spent == earned.Earned && earned.Claimed == 0 && len(earned.Peers) == 1 && earned.Peers[0].Open == 0
		return ok, errors.Join(err, err2)
	})
	return spent, earned, took, err
}

// tryTrade runs the bench between two new nodes with default settings, of which
// one is a donor.
func tryTrade(ctx context.Context, l *lab.Lab, f findings) (err error) {
	for _, pkg := range []string{"examples/bench/coordinator", "examples/bench/worker"} {
		if err := l.Build(ctx, pkg); err != nil {
			return err
		}
	}
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	sites, err := w.sites("client", "donor")
	if err != nil {
		return err
	}
	out := filepath.Join(l.Dir, "trade.json")
	donor, err := sites[1].Boot(ctx, genome("donor", "donor = true\n",
		"[cells.worker]\ncommand = [\"BIN/worker\"]\nreplicas = 4\nlisten = true\n[cells.echo]\ncommand = [\"BIN/worker\"]\nlisten = true\n"))
	if err != nil {
		return err
	}
	client, err := sites[0].Boot(ctx, genome("client", "", fmt.Sprintf("[cells.coordinator]\ncommand = [\"BIN/coordinator\"]\nargs = [\"--replicas\", \"4\", \"--json\", %q]\njob = true\n"+
		"axons = { worker = \"axon://worker\", echo = \"axon://echo\" }\n", out)))
	if err != nil {
		return err
	}
	if _, err := client.Await(ctx, benchWithin, "the bench is done", func(list []lab.Process) bool {
		return slices.ContainsFunc(list, func(p lab.Process) bool { return p.Name == "coordinator" && p.State == "done" })
	}); err != nil {
		return fmt.Errorf("%w\n%s", err, client.Stderr())
	}
	return judgeTrade(ctx, out, client, donor, f)
}

func judgeTrade(ctx context.Context, out string, client, donor *lab.Kernel, f findings) error {
	r, err := result.Read(out)
	if err != nil {
		return err
	}
	var failed uint64
	for _, row := range r.Results {
		failed += row.Errors
	}
	f.add("trade-bench", failed == 0 && len(r.Results) > 0, "%d errors in %d rows", failed, len(r.Results))
	spent, earned, took, err := agreed(ctx, client, donor)
	f.add("trade-wallets", err == nil && spent.Spent > 0 && spent.receipts() > 0, "spent %d us, earned %d us by %d receipts, %s after the end", spent.Spent, earned.Earned, spent.receipts(), ms(took))
	return err
}

// A market is a client that calls the echo of a donor.
type market struct{ client, donor *lab.Kernel }

// newMarket boots both on hosts of their own; free ones keep no book and meter
// nothing.
func newMarket(ctx context.Context, w *world, name string, free bool) (m market, err error) {
	sites, err := w.sites(name+"c", name+"d")
	if err != nil {
		return m, err
	}
	donor, both := "donor = true\n", ""
	if free {
		donor, both = "", "ledger = \"\"\nbilling = \"\"\n"
	}
	cell := name + "echo"
	if m.donor, err = sites[1].Boot(ctx, genome(name+"d", donor+byMulticast+both, echoCell(cell, cell))); err != nil {
		return m, err
	}
	m.client, err = sites[0].Boot(ctx, genome(name+"c", byMulticast+both, callerCell("", cell)))
	if err != nil {
		return m, err
	}
	if err := expect(ctx, m.client, cell, callWithin); err != nil {
		return m, err
	}
	_, err = goal(ctx, m.client)
	return m, err
}

// rate is how many calls a second are answered, 64 in flight.
func (m market) rate(ctx context.Context, cell string) (float64, error) {
	if err := load(ctx, m.client, netprobe.Plan{Cell: cell, Callers: 64, MS: 10_000, Bytes: 64}); err != nil {
		return 0, err
	}
	if err := pause(ctx, costFor); err != nil {
		return 0, err
	}
	r, err := unload(ctx, m.client)
	if err != nil {
		return 0, err
	}
	if r.Failed() > 0 {
		return 0, fmt.Errorf("call %s: %d of %d failed: %v", cell, r.Failed(), r.Calls, r.Texts)
	}
	return float64(r.OK) / (float64(r.MS) / 1000), nil
}

// tryCost compares calls that are billed with calls that are not, in pairs in
// either order.
func tryCost(ctx context.Context, l *lab.Lab, f findings) (err error) {
	w, err := newWorld(l)
	if err != nil {
		return err
	}
	defer w.end(&err)
	paid, err := newMarket(ctx, w, "paid", false)
	if err != nil {
		return err
	}
	free, err := newMarket(ctx, w, "free", true)
	if err != nil {
		return err
	}
	before, err := purseOf(ctx, paid.client)
	if err != nil {
		return err
	}
	var costs []float64
	for i := range costPairs {
		var with, without float64
		for j := range 2 {
			if (i+j)%2 == 0 {
				with, err = paid.rate(ctx, "paidecho")
			} else {
				without, err = free.rate(ctx, "freeecho")
			}
			if err != nil {
				return err
			}
		}
		costs = append(costs, without/with-1)
	}
	slices.Sort(costs)
	median := (costs[costPairs/2-1] + costs[costPairs/2]) / 2
	spent, _, _, err := agreed(ctx, paid.client, paid.donor)
	n := spent.receipts() - before.receipts()
	f.add("trade-cost", median <= 0.03 && n > 0 && err == nil, "%+.1f %% (quarters %+.1f, %+.1f), %d receipts, the wallets agree on %d us",
		100*median, 100*costs[costPairs/4], 100*costs[costPairs*3/4], n, spent.Spent)
	return err
}
