package e2e_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/examples/netlab"
	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// A trade is a donor and a node that calls its cell "work" from its cell "asker".
type trade struct {
	t             *testing.T
	client, donor *node
	kernels       map[*node]*kernel
	since         time.Time // a load has begun
}

// newTrade boots both. More is put into the donor's section [kernel].
func newTrade(t *testing.T, more string) *trade {
	t.Helper()
	d := prepareTrade(t, more)
	d.boot()
	return d
}

func (d *trade) boot() {
	d.t.Helper()
	d.kernels[d.donor] = d.donor.up("--donor")
	d.kernels[d.client] = d.client.up()
}

func prepareTrade(t *testing.T, more string) *trade {
	t.Helper()
	home, port := newMesh(t), freeDoor(t)
	d := &trade{t: t, kernels: make(map[*node]*kernel)}
	d.donor = farNode(t, home, "donor", more+"\n[golgi]\ndiscovery = []\nlisten = \"127.0.0.1:"+port+`"
[cells.work]
command = ["PROBE", "serve"]
listen = true
`)
	d.client = farNode(t, home, "client", `
[golgi]
discovery = []
[cells.asker]
command = ["PROBE", "serve"]
axons = { work = "axon://127.0.0.1:`+port+`/work" }
`)
	return d
}

func (n *node) wallet() admin.Wallet {
	n.t.Helper()
	var w admin.Wallet
	if err := json.Unmarshal([]byte(n.want(0, "wallet", "-o", "json").out), &w); err != nil {
		n.t.Fatal(err)
	}
	return w
}

func (d *trade) load() {
	d.t.Helper()
	order := &api.Order{To: "work", Method: "work", Callers: 4, DeadlineMS: 2000, PauseUS: 2000}
	if _, err := d.client.client(d.client.mesh(), "asker").Load(d.t.Context(), order); err != nil {
		d.t.Fatal(err)
	}
}

func (d *trade) unload() {
	d.t.Helper()
	r, err := d.client.client(d.client.mesh(), "asker").Tally(d.t.Context(), &api.Query{Stop: true})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Logf("%d calls, %d answered; the first that was not: %s", r.Calls, r.OK, r.First)
}

// agree waits until both books say the same and nothing is open.
func (d *trade) agree() {
	d.t.Helper()
	begun := time.Now()
	var client, donor admin.Wallet
	d.client.eventually("the wallets agree", func() bool {
		client, donor = d.client.wallet(), d.donor.wallet()
		return client.Spent == donor.Earned && donor.Claimed == 0 && len(donor.Peers) == 1 && donor.Peers[0].Open == 0
	})
	d.client.inTime("the wallets agree", time.Since(begun), 5*time.Second)
	d.t.Logf("spent and earned: %s", client.Spent)
	if client.Spent == 0 || client.Balance != -donor.Balance {
		d.t.Errorf("spent %s, balances %s and %s", client.Spent, client.Balance, donor.Balance)
	}
	for _, n := range []*node{d.client, d.donor} {
		n.want(0, "ledger", "verify")
	}
}

// kill kills something and waits until it is back.
func (d *trade) kill(n *node, what string) {
	d.t.Helper()
	if what != "kernel" {
		c, before := n.admin(), n.process(what)
		kill(d.t, before.PID, syscall.SIGKILL)
		n.awaitRestart(c, before)
		return
	}
	d.restart(n)
	if n == d.client {
		d.load()
	}
}

// restart kills a kernel and boots it again.
func (d *trade) restart(n *node) {
	d.t.Helper()
	d.kernels[n].finish()
	args := []string{}
	if n == d.donor {
		args = append(args, "--donor")
	}
	d.kernels[n] = n.up(args...)
}

// What one node earned is what the other spent, to the microsecond, although
// kernels and plugins are killed under load. MONEY_KILLS says how many.
func TestBooksAgreeWhateverIsKilled(t *testing.T) {
	t.Parallel()
	kills := 8
	if v := os.Getenv("MONEY_KILLS"); v != "" {
		var err error
		if kills, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	d := newTrade(t, "")
	d.load()
	d.client.eventually("something is paid", func() bool { return d.client.wallet().Spent > 0 })
	if w := d.client.wallet(); w.Reserved == 0 || w.Available != 36_000*100_000+w.Balance-w.Reserved {
		t.Errorf("the client's wallet: %+v", w)
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for i := range kills {
		n := []*node{d.client, d.donor}[r.IntN(2)]
		what := []string{"kernel", "ledger-json", "billing-cgroup"}[r.IntN(3)]
		if i < 2 { // each kernel at least once
			n, what = []*node{d.client, d.donor}[i], "kernel"
		}
		before := d.client.wallet().Spent
		d.kill(n, what)
		d.client.eventually("more is paid behind a killed "+what, func() bool { return d.client.wallet().Spent > before })
	}
	d.unload()
	d.agree()
}

// Without credit nothing is done, and the answer says why.
func TestNoCredit(t *testing.T) {
	t.Parallel()
	d := newTrade(t, "credit = 0")
	asker := d.client.client(d.client.mesh(), "asker")
	out := d.client.relay(asker, "work", patience/2)
	if out.Code != "no_atp" || out.Executed != "no" {
		t.Errorf("a call: got %+v", out)
	}
	contains(t, out.Error, "a credit of 0 ATP", "up --donor")
	if w := d.donor.wallet(); w.Earned != 0 {
		t.Errorf("the donor's wallet: %+v", w)
	}
	d.donor.want(0, "wallet", "credit", string(d.client.wallet().Node), "5")
	d.client.eventually("its credit counts", func() bool { return d.client.relay(asker, "work", patience/2).Code == "" })
}

// roundTrip is the shortest time from a proposal to its signature, by the
// donor's book, whose entries have the times at which they were asked for.
func (d *trade) roundTrip() time.Duration {
	d.t.Helper()
	least, claimed := time.Hour, time.Time{}
	for line := range strings.Lines(d.donor.want(0, "wallet", "history", "--tail", "1000", "-o", "json").out) {
		e := parsed[admin.Entry](d.t, line)
		switch {
		case e.What == "claim":
			claimed = e.Time
		case e.What == "earn" && !claimed.IsZero():
			least = min(least, e.Time.Sub(claimed)+time.Millisecond) // of which both are full ones
		}
	}
	if least == time.Hour {
		d.t.Fatal("no receipt was signed")
	}
	return least
}

// A payer whose kernel is stopped signs nothing, while its cells go on calling:
// the donor works for them up to its bound and not beyond. What it did is
// signed when the kernel goes on.
func TestStoppedPayer(t *testing.T) {
	t.Parallel()
	d := newTrade(t, "")
	d.load()
	d.client.eventually("something is paid", func() bool { return d.client.wallet().Spent > 0 })
	rtt := d.roundTrip()
	cpu := d.donor.process("work#1").CPUUS
	d.kernels[d.client].signal(syscall.SIGSTOP)
	owed := func() sdk.ATP {
		w := d.donor.wallet()
		return w.Claimed + w.Peers[0].Open
	}
	before, since := owed(), time.Now()
	d.donor.eventually("it works no more", func() bool {
		if now := owed(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	// What its cell has used since, by its cgroup, what nobody is charged for included.
	took, bound := sdk.ATP(d.donor.process("work#1").CPUUS-cpu), exposure(rtt)
	t.Logf("it did %s that nobody signed, used %s since the payer was stopped, the bound is %s: a receipt takes %s", before, took, bound, rtt)
	if before > bound || before == 0 {
		t.Errorf("it did %s without a signature, the bound is %s", before, bound)
	}
	d.kernels[d.client].signal(syscall.SIGCONT)
	was := d.donor.wallet().Earned
	d.donor.eventually("it goes on", func() bool { return d.donor.wallet().Earned > was+before })
	d.unload()
	d.agree()
}

// A donor whose kernel is stopped works on for as long as the cells were told,
// which is a second.
func TestStoppedDonor(t *testing.T) {
	t.Parallel()
	d := newTrade(t, "")
	d.load()
	d.client.eventually("something is paid", func() bool { return d.client.wallet().Spent > 0 })
	asker := d.client.client(d.client.mesh(), "asker")
	answered := func() int64 {
		r, err := asker.Tally(t.Context(), &api.Query{})
		if err != nil {
			t.Fatal(err)
		}
		return r.OK
	}
	d.kernels[d.donor].signal(syscall.SIGSTOP)
	before, since, stopped := answered(), time.Now(), time.Now()
	d.client.eventually("nothing is answered any more", func() bool {
		if now := answered(); now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
	d.client.inTime("cells stop", since.Sub(stopped), time.Second)
	d.kernels[d.donor].signal(syscall.SIGCONT)
	d.client.eventually("it goes on", func() bool { return answered() > before })
	d.unload()
	d.agree()
}

// That a node is a donor is announced, and a command that has no credit there
// ends with 7 and says what helps.
func TestDonorsAreAnnounced(t *testing.T) {
	lab := netlab.New(t)
	home := newMesh(t)
	donor := hostNode(t, lab, netlab.V4, home, "donor", storeCell)
	client := hostNode(t, lab, netlab.V4, home, "client", "[cells.shop]\ncommand = [\"PROBE\", \"serve\"]\naxons = { store = \"axon://store\" }\n")
	donor.up("--donor", "--set", "kernel.credit=0")
	client.up()
	client.awaitPeer("donor", admin.PeerVerified)
	for _, p := range client.peers().Peers {
		if p.Name == "donor" && !p.Donor {
			t.Errorf("peers: got %+v", p)
		}
	}
	r := client.want(7, "call", "store.Probe.Echo", `{"Text":"x"}`)
	contains(t, r.err, "a credit of 0 ATP, and it owes 0 ATP", "up --donor")
	donor.want(0, "wallet", "credit", "client", "100")
	client.eventually("its credit counts", func() bool { return client.ck("call", "store.Probe.Echo", `{"Text":"x"}`).code == 0 })
}
