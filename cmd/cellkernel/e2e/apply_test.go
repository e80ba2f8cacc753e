package e2e_test

import (
	"os"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/kernel/admin"
)

// pids returns the process of each replica.
func (n *node) pids() map[string]int {
	n.t.Helper()
	m := map[string]int{}
	for _, p := range n.processes() {
		m[p.ID()] = p.PID
	}
	return m
}

// changed compares two lists of processes: "a#1 new, b#1 gone".
func changed(before, after map[string]int) (list []string) {
	for id, pid := range after {
		if old, was := before[id]; !was {
			list = append(list, id+" new")
		} else if old != pid {
			list = append(list, id+" replaced")
		}
	}
	for id := range before {
		if _, is := after[id]; !is {
			list = append(list, id+" gone")
		}
	}
	return list
}

func TestUpTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	const rest = `
[cells.stays]
command = ["PROBE", "serve"]
replicas = 2
`
	n := newNode(t, rest+`
[cells.edited]
command = ["PROBE", "serve"]
axons = { stays = "axon://stays" }
[cells.removed]
command = ["PROBE", "serve"]
[cells.grows]
command = ["PROBE", "serve"]
`)
	n.up()
	before := n.pids()
	n.write("genome.toml", rest+`
[cells.edited]
command = ["PROBE", "serve"]
env = { NEW = "1" }
axons = { stays = "axon://stays", added = "axon://added" }
[cells.added]
command = ["PROBE", "serve"]
[cells.grows]
command = ["PROBE", "serve"]
replicas = 2
`)
	r := n.want(9, "up", "--dry-run")
	contains(t, r.err, "remove cells.removed", "add cells.added", "scale cells.grows: 1 -> 2", "restart cells.edited (env)", "update cells.edited (axons)")
	if got := changed(before, n.pids()); len(got) != 0 {
		t.Errorf("a dry run changed %q", got)
	}
	n.want(0, "up")
	after := n.pids()
	got := map[string]bool{}
	for _, c := range changed(before, after) {
		got[c] = true
	}
	for _, want := range []string{"edited#1 replaced", "removed#1 gone", "added#1 new", "grows#2 new"} {
		if !got[want] {
			t.Errorf("want %q in %v", want, got)
		}
	}
	if len(got) != 4 {
		t.Errorf("changed %v, want four things", got)
	}
	n.mustRelay(n.client(n.mesh(), "edited"), "added")
	contains(t, n.want(0, "up").err, "none: this is what runs")
	// A wrong edit changes nothing, and says where it is wrong.
	n.write("genome.toml", "[cells.stays]\ncommand = [\"PROBE\"]\nreplicsa = 3\n")
	contains(t, n.want(3, "up").err, `genome.toml:3:1: cells.stays.replicsa: unknown key (did you mean "replicas"?)`)
	if got := changed(after, n.pids()); len(got) != 0 {
		t.Errorf("a wrong file changed %q", got)
	}
}

// An edit of wiring alone reaches cells that run.
func TestRewiring(t *testing.T) {
	t.Parallel()
	const cells = "[cells.x]\ncommand = [\"PROBE\", \"serve\"]\n[cells.y]\ncommand = [\"PROBE\", \"serve\"]\n[cells.caller]\ncommand = [\"PROBE\", \"serve\"]\n"
	n := newNode(t, cells+"axons = { dep = \"axon://x\" }\n")
	n.up()
	before, c := n.pids(), n.client(n.mesh(), "caller")
	if out := n.mustRelay(c, "dep"); out.Reply.Cell != "x" {
		t.Fatalf("got %+v", out.Reply)
	}
	n.write("genome.toml", cells+"axons = { dep = \"axon://y\" }\n")
	n.want(0, "up")
	if got := changed(before, n.pids()); len(got) != 0 {
		t.Errorf("rewiring replaced %q", got)
	}
	n.eventually("calls go to the other cell", func() bool { return n.mustRelay(c, "dep").Reply.Cell == "y" })
}

// A changed Go file is built and its cell replaced; the other stays.
func TestUpBuildsWhatChanged(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	if err := os.Remove(n.path("genome.toml")); err != nil {
		t.Fatal(err)
	}
	n.want(0, "init", ".", "--sdk", checkout)
	n.write("sleeper/main.go", `package main

import (
	"context"

	"github.com/cellkernel/cellkernel/sdk/cell"
)

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error { return m.Serve(ctx) })
}
`)
	n.write("genome.toml", "[cells.greeter]\npackage = \"./greeter\"\n[cells.sleeper]\npackage = \"./sleeper\"\n")
	n.up()
	before := n.pids()
	contains(t, n.want(0, "up").err, "none: this is what runs")
	text, err := os.ReadFile(n.path("sleeper/main.go"))
	if err != nil {
		t.Fatal(err)
	}
	n.write("sleeper/main.go", strings.Replace(string(text), "return m.Serve(ctx)", "println(\"second edition\")\n\t\treturn m.Serve(ctx)", 1))
	n.want(9, "up", "--dry-run")
	if got := changed(before, n.pids()); len(got) != 0 {
		t.Errorf("a dry run changed %q", got)
	}
	n.want(0, "up")
	if got := changed(before, n.pids()); len(got) != 1 || got[0] != "sleeper#1 replaced" {
		t.Errorf("changed %q, want the sleeper alone", got)
	}
	contains(t, n.want(0, "logs", "sleeper").out, "second edition")
	// What does not compile leaves everything as it runs.
	before = n.pids()
	n.write("sleeper/main.go", "package main\n\nfunc main() { undefined() }\n")
	contains(t, n.want(1, "up").err, "sleeper", "undefined: undefined")
	if got := changed(before, n.pids()); len(got) != 0 {
		t.Errorf("a build that failed changed %q", got)
	}
}

// Four replicas are replaced one by one by a version whose messages have one
// more field and which has one more method, while callers of both versions use
// them, and back again.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	genome := func(version string) string {
		return `
[cells.store]
command = ["PROBE", "` + version + `"]
replicas = 4
[cells.oldcaller]
command = ["PROBE", "serve"]
axons = { store = "axon://store" }
[cells.newcaller]
command = ["PROBE", "serve"]
axons = { store = "axon://store" }
`
	}
	n := newNode(t, genome("old"))
	n.up()
	m := n.mesh()
	older, newer := n.client(m, "oldcaller"), n.client(m, "newcaller")
	order := api.Order{To: "store", Method: "put1", Callers: 8, DeadlineMS: 5000, PauseUS: 1000}
	n.load(older, &order)
	order.Method = "put2"
	n.load(newer, &order)
	for _, version := range []string{"new", "old"} {
		before := n.pids()
		n.write("genome.toml", genome(version))
		contains(t, n.want(0, "up").err, "restart cells.store (command)")
		if got := changed(before, n.pids()); len(got) != 4 {
			t.Errorf("to %s: changed %q, want the four of the store", version, got)
		}
		n.more(older, 200)
		n.more(newer, 200)
	}
	t.Logf("old callers: %+v", *n.flawless(older))
	t.Logf("new callers: %+v", *n.flawless(newer))
	for _, p := range n.processes() {
		if p.State != admin.StateReady {
			t.Errorf("after the upgrades: %+v", p)
		}
	}
}
