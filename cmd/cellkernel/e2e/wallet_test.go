package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newFair is a trade between nodes that find each other, and so have names.
func newFair(t *testing.T) *trade {
	t.Helper()
	home, light := newMesh(t), freeDoor(t)
	farNode(t, home, "lamp", "").start("lighthouse", "--listen", "127.0.0.1:"+light).err.await(t, "127.0.0.1:"+light)
	golgi := `
[golgi]
listen = "127.0.0.1:0"
discovery = ["lighthouse"]
[plugins.discovery-lighthouse]
servers = ["127.0.0.1:` + light + `"]
beat = "500ms"
`
	d := &trade{t: t, kernels: make(map[*node]*kernel)}
	d.donor = farNode(t, home, "donor", golgi+"[cells.work]\ncommand = [\"PROBE\", \"serve\"]\nlisten = true\n")
	d.client = farNode(t, home, "client", golgi+`
[cells.asker]
command = ["PROBE", "serve"]
listen = true
axons = { work = { to = ["axon://work"], wait = false } }
`)
	d.kernels[d.donor] = d.donor.up("--donor")
	d.kernels[d.client] = d.client.up()
	d.client.eventually("they know each other", func() bool {
		return strings.Contains(d.client.want(0, "peers").out, " donor ") && strings.Contains(d.donor.want(0, "peers").out, " client ")
	})
	return d
}

// paid waits until so much more was paid for work.
func (d *trade) paid() {
	d.t.Helper()
	before := d.client.wallet().Spent
	d.client.eventually("work is paid for", func() bool { return d.client.wallet().Spent > before+10_000 })
}

// What one node earns another spends: every command says the same, and
// receipts convince a third.
func TestEveryCommandSaysTheSameOfMoney(t *testing.T) {
	t.Parallel()
	d := newFair(t)
	d.load()
	d.paid()
	d.unload()
	d.agree()
	earned := d.donor.wallet().Earned.String()
	contains(t, d.donor.want(0, "wallet").out, "price        1 ATP for 100 ms of CPU time", " client ", "36000 (default)", "earned "+earned)
	contains(t, d.client.want(0, "wallet").out, "spent "+earned, "it is no donor")
	last := ""
	for line := range strings.Lines(d.client.want(0, "wallet", "history", "--tail", "0").out) {
		if f := strings.Fields(line); len(f) > 3 && f[2] == "spend" && f[3] == "donor" {
			last = f[0]
		}
	}
	contains(t, d.client.want(0, "wallet", "why", last).out,
		"spend: this node has signed for work that the node did", "payee ", "signature holds", "asker   work  Probe.Work", "CPU µs")
	d.client.want(4, "wallet", "why", "1000000000")
	file := filepath.Join(t.TempDir(), "receipts.json")
	if err := os.WriteFile(file, []byte(d.donor.want(0, "receipts", "client", "-o", "json").out), 0o600); err != nil {
		t.Fatal(err)
	}
	third := newNode(t, "")
	contains(t, third.want(0, "ledger", "verify", file).out, earned+" in all", "the chain is whole", "ok: both signatures of each hold")
	for _, n := range []*node{d.donor, d.client} {
		records := n.wallet().Records
		if lines := strings.Count(n.want(0, "ledger", "export").out, "\n"); uint64(lines) < records {
			t.Errorf("export: %d lines of %d records", lines, records)
		}
	}
}

// Who has no credit is told by exit code 7 what it owes, what it may owe, and
// how to earn.
func TestNoCreditIsAnExitCode(t *testing.T) {
	t.Parallel()
	d := newFair(t)
	d.donor.want(0, "wallet", "credit", "client", "0")
	poor := d.client.want(7, "call", "work.Echo", `{"Text":"x"}`, "--timeout", "20s")
	contains(t, poor.err, "gives this node a credit of 0 ATP, and it owes 0 ATP", `earn some there by "up --donor"`, "hint: ")
	contains(t, d.donor.want(0, "wallet", "credit", "client", "100").out, "node client may owe 100 ATP; it owes 0 ATP")
	d.client.eventually("with credit it works", func() bool { return d.client.ck("call", "work.Echo", `{"Text":"x"}`).code == 0 })
}

// The ledger's program is exchanged under load: nothing is lost, also not by
// one that does not have the book, which does not take its place.
func TestLedgerIsSwappedUnderLoad(t *testing.T) {
	t.Parallel()
	d := newTrade(t, "")
	d.load()
	d.paid()
	for _, n := range []*node{d.donor, d.client} {
		before := n.process("ledger-json").PID
		n.want(0, "plugin", "swap", "ledger-json", ledgerFile)
		if now := n.process("ledger-json").PID; now == before {
			t.Errorf("process %d is still the ledger", now)
		}
		d.paid()
		before = n.process("ledger-json").PID
		r := n.ck("plugin", "swap", "ledger-json", otherLedger)
		if now := n.process("ledger-json").PID; r.code == 0 || now != before {
			t.Errorf("a ledger without the book: exit code %d, process %d in the place of %d\n%s", r.code, now, before, r.err)
		}
		contains(t, r.err, "another version of itself only")
		d.paid()
	}
	d.unload()
	d.agree()
	contains(t, d.donor.want(0, "plugin", "list").out, ledgerFile)
}
