package e2e_test

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

// freeAddr returns an address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestHello(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[workspace]
main = "visitor"
[cells.greeter]
command = ["PROBE", "serve"]
replicas = 2
[cells.visitor]
command = ["PROBE", "once", "7", "greeter"]
job = true
axons = { greeter = "axon://greeter" }
`)
	k := n.start("up")
	if code := k.exit(); code != 7 {
		t.Errorf("exit code %d, want the main job's 7", code)
	}
	if got := k.out.String(); got != "once from greeter\n" {
		t.Errorf("stdout: got %q, want the main job's line and nothing else", got)
	}
	text := k.err.String()
	contains(t, text, "service   greeter  ready  2/2", "ready     node ", "visitor#1 |", "job says this on standard error")
	if strings.Contains(text, "once from greeter") {
		t.Errorf("what the main job writes to stdout is on stderr, too:\n%s", text)
	}
}

// A cell starts when what it calls is ready, whatever the order in the file;
// commands that know nothing of cells are asked from outside.
func TestBootOrderAndProbes(t *testing.T) {
	t.Parallel()
	tcp, http := freeAddr(t), freeAddr(t)
	n := newNode(t, `
[cells.a]
command = ["PROBE", "serve"]
axons = { b = "axon://b", other = "axon://c" }
[cells.b]
command = ["PROBE", "serve"]
axons = { tcp = "axon://tcp", http = "axon://http", exec = "axon://exec" }
[cells.c]
command = ["PROBE", "serve"]
[cells.tcp]
command = ["PROBE", "listen", "`+tcp+`"]
ready = { tcp = "`+tcp+`" }
[cells.http]
command = ["PROBE", "listen", "`+http+`"]
ready = { http = "http://`+http+`/", within = "20s" }
[cells.exec]
command = ["sh", "-c", "touch DIR/up; exec sleep 1000"]
ready = { exec = ["test", "-e", "up"] }
`)
	n.up()
	var order []string
	for _, e := range eventsUntilReady(n) {
		if e.Process != nil && e.Process.Kind == admin.KindCell {
			order = append(order, e.Process.Name+" "+string(e.Process.State))
		}
	}
	for _, before := range [][2]string{
		{"tcp ready", "b starting"}, {"http ready", "b starting"}, {"exec ready", "b starting"},
		{"b ready", "a starting"}, {"c ready", "a starting"},
	} {
		first, second := slices.Index(order, before[0]), slices.Index(order, before[1])
		if first < 0 || second < 0 || first > second {
			t.Errorf("%q is not before %q in %q", before[0], before[1], order)
		}
	}
	a := n.client(n.mesh(), "a")
	if out := n.mustRelay(a, "other"); out.Reply.Cell != "c" {
		t.Errorf("axon with another key: got %+v, want an answer of c", out.Reply)
	}
	if out := n.relay(a, "c", patience/2); out.Code != "not_found" {
		t.Errorf("call by a name that is no axon: got %+v, want not_found", out)
	}
}

// eventsUntilReady returns what happened up to the posture line.
func eventsUntilReady(n *node) []admin.Event {
	n.t.Helper()
	var events []admin.Event
	err := n.admin().Events(n.ctx(), 0, func(e admin.Event) error {
		events = append(events, e)
		if e.Kind == admin.EventReady {
			return errStop
		}
		return nil
	})
	if err != errStop {
		n.t.Fatalf("follow events: %v", err)
	}
	return events
}

// Members, cells of the root file and the cell of the root directory are one
// genome; paths belong to the file they stand in.
func TestWorkspace(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[workspace]
members = ["parts/member"]
[genome]
name = "root"
command = ["PROBE", "serve"]
[axons]
m = "axon://member"
i = "axon://inline"
[cells.inline]
command = ["PROBE", "serve"]
dir = "parts"
[golgi]
links = 3
`)
	n.write("parts/member/genome.toml", `
[genome]
name = "member"
command = ["sh", "-c", "pwd > where; exec PROBE serve"]
[axons]
loop = { to = ["axon://root"], wait = false }
`)
	n.up()
	m := n.mesh()
	root := n.client(m, "root")
	for name, cell := range map[string]string{"m": "member", "i": "inline"} {
		if out := n.mustRelay(root, name); out.Reply.Cell != cell {
			t.Errorf("call %q: got %+v, want an answer of %s", name, out.Reply, cell)
		}
	}
	// A ring with wait = false boots, and the call works once both are there.
	if out := n.mustRelay(n.client(m, "member"), "loop"); out.Reply.Cell != "root" {
		t.Errorf("call back: got %+v", out.Reply)
	}
	where, err := os.ReadFile(n.path("parts/member/where"))
	if err != nil || strings.TrimSpace(string(where)) != n.path("parts/member") {
		t.Errorf("the member runs in %q (%v), want its own directory", where, err)
	}
	// The command finds the kernel from a member's directory.
	if r := n.want(0, "status", "--genome", n.path("parts/member")); !strings.Contains(r.out, "member") {
		t.Errorf("status from the member: got %q", r.out)
	}
}

func TestOwnNameReachesAnotherReplica(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.twin]\ncommand = [\"PROBE\", \"serve\"]\nreplicas = 3\n")
	n.up()
	first := n.client(n.mesh(), "twin#1")
	seen := map[int32]bool{}
	for range 60 {
		seen[n.mustRelay(first, "twin").Reply.Replica] = true
	}
	if seen[1] || !seen[2] || !seen[3] {
		t.Errorf("twin#1 reached %v by its own name, want 2 and 3 and never itself", seen)
	}
	n.want(0, "scale", "twin", "1")
	if out := n.relay(first, "twin", 300*time.Millisecond); out.Code != "deadline" && out.Code != "unavailable" {
		t.Errorf("alone, by its own name: got %+v, want nobody", out)
	}
}

func TestJunctions(t *testing.T) {
	t.Parallel()
	left := newNode(t, `
[cells.left]
command = ["PROBE", "serve"]
junctions = { right = "../right" }
`)
	right := left.peer("right", `
[cells.right]
command = ["PROBE", "serve"]
replicas = 2
allow = ["left"]
junctions = { left = "../d" }
[cells.stranger]
command = ["PROBE", "serve"]
axons = { right = "axon://right" }
`)
	left.up()
	there := right.up()
	l := left.client(left.mesh(), "left")
	if out := left.mustRelay(l, "right"); out.Reply.Cell != "right" {
		t.Errorf("over the junction: got %+v", out.Reply)
	}
	r := right.mesh()
	if out := right.mustRelay(right.client(r, "right"), "left"); out.Reply.Cell != "left" {
		t.Errorf("over the junction back: got %+v", out.Reply)
	}
	if out := right.relay(right.client(r, "stranger"), "right", patience/2); out.Code != "denied" {
		t.Errorf("a cell that is not in the allow list: got %+v, want denied", out)
	}
	// The other kernel restarts in between.
	there.signal(os.Interrupt.(sysSignal))
	if code := there.exit(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if out := left.relay(l, "right", 300*time.Millisecond); out.Code == "" {
		t.Errorf("without a kernel there: got %+v, want an error", out)
	}
	right.up()
	left.mustRelay(l, "right")
}

func TestUpTakesWhatItIsTold(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.store]
command = ["PROBE", "serve"]
[cells.worker]
command = ["PROBE", "serve"]
axons = { store = "axon://store" }
[cells.other]
command = ["PROBE", "serve"]
`)
	n.write("over.toml", "[cells.worker]\nreplicas = 2\n")
	if r := n.want(9, "up", "--dry-run"); !strings.Contains(r.err, "add cells.worker") || !strings.Contains(r.err, "add cells.other") {
		t.Errorf("dry run: got %q", r.err)
	}
	n.want(5, "status")
	cells := func() string {
		var names []string
		for _, p := range n.processes() {
			if p.Kind == admin.KindCell {
				names = append(names, p.ID())
			}
		}
		return strings.Join(names, " ")
	}
	// A file and a cell: it and what it needs. Detached, with an overlay.
	n.want(0, "up", "genome.toml", "worker", "-d", "--overlay", "over.toml")
	n.t.Cleanup(func() { n.ck("down", "--now") })
	if got := cells(); got != "store#1 worker#1 worker#2" {
		t.Errorf("up FILE CELL: got %q", got)
	}
	n.want(0, "status")
	n.want(0, "down")
	n.want(5, "status")
	// Without what it needs; a setting of the command line counts most.
	n.want(0, "up", "worker", "--no-deps", "-d", "--overlay", "over.toml", "--set", "cells.worker.replicas=3")
	if got := cells(); got != "worker#1 worker#2 worker#3" {
		t.Errorf("up --no-deps: got %q", got)
	}
	// The rest joins what runs.
	n.want(9, "up", "--dry-run")
	n.want(0, "up")
	if got := cells(); got != "other#1 store#1 worker#1" {
		t.Errorf("up: got %q", got)
	}
	n.want(0, "up", "--dry-run")
	n.want(0, "down")
}
