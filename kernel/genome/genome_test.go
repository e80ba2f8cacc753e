package genome_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// valid returns a genome without problems, with cells that have axons to
// others as given: "a:b,c" is a cell a with axons to b and c, "c!" does not wait.
func valid(cells ...string) *genome.Genome {
	g := genome.Default()
	g.File, g.Kernel.Node = "/g/genome.toml", "node"
	for _, spec := range cells {
		name, axons, _ := strings.Cut(spec, ":")
		c := genome.DefaultCell()
		c.Name, c.File, c.Dir, c.Command = sdk.CellName(name), g.File, "/g", []string{"true"}
		for to := range strings.SplitSeq(axons, ",") {
			if to == "" {
				continue
			}
			a := genome.DefaultAxon(g.Golgi)
			to, noWait := strings.CutSuffix(to, "!")
			a.To, a.Wait = []genome.Target{{Cell: sdk.CellName(to)}}, !noWait
			c.Axons[sdk.CellName(to)] = a
		}
		g.Cells[c.Name] = c
	}
	return g
}

func TestDefaultIsValid(t *testing.T) {
	if p := valid("a:b", "b").Validate(); p != nil {
		t.Errorf("problems: %v", p)
	}
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		cells []string
		want  string
		ring  string
	}{
		{nil, "[]", ""},
		{[]string{"b", "a"}, "[a b]", ""},
		{[]string{"a:c", "b:a", "c"}, "[c a b]", ""},
		{[]string{"a:a"}, "[a]", ""},
		{[]string{"a:b", "b:a!"}, "[b a]", ""},
		{[]string{"a:elsewhere"}, "[a]", ""},
		{[]string{"c:a", "a:b", "b:c", "d:a"}, "", "[a b c]"},
	} {
		order, err := genome.Order(valid(c.cells...))
		var cycle *genome.CycleError
		switch {
		case c.ring == "" && (err != nil || fmt.Sprint(order) != c.want):
			t.Errorf("%v: %v, %v, want %s", c.cells, order, err, c.want)
		case c.ring != "" && (!errors.As(err, &cycle) || fmt.Sprint(cycle.Ring) != c.ring):
			t.Errorf("%v: %v, want the ring %s", c.cells, err, c.ring)
		}
	}
}

func TestClosure(t *testing.T) {
	g := valid("a:b", "b:c", "c", "d:a")
	if got, err := g.Closure("b", "a"); err != nil || fmt.Sprint(got) != "[c b a]" {
		t.Errorf("Closure = %v, %v", got, err)
	}
	if _, err := g.Closure("x"); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("Closure of a stranger: %v", err)
	}
}

// TestOrderProperty makes random graphs: either there is an order in which
// each cell follows its needs, or the error is a real ring.
func TestOrderProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "cells")
		var specs []string
		for i := range n {
			to := rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 3).Draw(t, "axons")
			var names []string
			for _, j := range to {
				names = append(names, fmt.Sprintf("c%d", j))
			}
			specs = append(specs, fmt.Sprintf("c%d:%s", i, strings.Join(names, ",")))
		}
		g := valid(specs...)
		order, err := genome.Order(g)
		var cycle *genome.CycleError
		if errors.As(err, &cycle) {
			for i, name := range cycle.Ring {
				next := cycle.Ring[(i+1)%len(cycle.Ring)]
				if !slices.Contains(g.Needs(name), next) {
					t.Fatalf("%v: %s does not need %s", cycle, name, next)
				}
			}
			if len(g.Validate()) == 0 {
				t.Fatalf("Validate does not see %v", cycle)
			}
			return
		}
		if err != nil || len(order) != n || len(g.Validate()) != 0 {
			t.Fatalf("Order = %v, %v; Validate = %v", order, err, g.Validate())
		}
		for i, name := range order {
			for _, need := range g.Needs(name) {
				if !slices.Contains(order[:i], need) {
					t.Fatalf("%v: %s before %s", order, name, need)
				}
			}
		}
	})
}

func TestTwoRings(t *testing.T) {
	problems := valid("a:b", "b:a", "c:d", "d:c", "e:a").Validate()
	if len(problems) != 2 || !strings.Contains(problems[0].Text, "a -> b -> a") || !strings.Contains(problems[1].Text, "c -> d -> c") {
		t.Errorf("problems: %v", problems)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*genome.Genome)
	}{
		{`cells.a.restart: a job runs once`, func(g *genome.Genome) { g.Cells["a"].Job = true }},
		{`cells.a.env.CELLKERNEL_X: variables that begin`, func(g *genome.Genome) { g.Cells["a"].Env["CELLKERNEL_X"] = "" }},
		{`cells.a.args: contains a NUL`, func(g *genome.Genome) { g.Cells["a"].Args = []string{"\x00"} }},
		{`cells.a.ready: want one of`, func(g *genome.Genome) { g.Cells["a"].Ready.TCP, g.Cells["a"].Ready.HTTP = "h:1", "http://h" }},
		{`cells.a.ready.http: want a URL`, func(g *genome.Genome) { g.Cells["a"].Ready.HTTP = "ftp://x" }},
		{`cells.a.ready.tcp: want host:port`, func(g *genome.Genome) { g.Cells["a"].Ready.TCP = "6379" }},
		{`cells.a.allow: want cell names and node ids`, func(g *genome.Genome) { g.Cells["a"].Allow = []string{"A B"} }},
		{`cells.a.axons.b.peers: node id`, func(g *genome.Genome) { g.Cells["a"].Axons["b"].Peers = []sdk.NodeID{"k7q2"} }},
		{`cells.a.axons.b.spread: want "score", "local" or "even"`, func(g *genome.Genome) { g.Cells["a"].Axons["b"].Spread = "all" }},
		{`cells.a.axons.cli: "cli" is a name of the kernel's own`, func(g *genome.Genome) {
			g.Cells["a"].Axons["cli"] = g.Cells["a"].Axons["b"]
		}},
		{`cells.a.junctions.b: "b" is an axon, too`, func(g *genome.Genome) { g.Cells["a"].Junctions["b"] = "/x" }},
		{`cells.a.limits.memory: want 1MiB`, func(g *genome.Genome) { g.Cells["a"].Limits.Memory = 5 }},
		{`cells: at most 4096 replicas in all, got 5120`, func(g *genome.Genome) {
			for i := range 5 {
				c := *g.Cells["b"]
				c.Replicas = 1024
				g.Cells[sdk.CellName(fmt.Sprint("x", i))] = &c
			}
			delete(g.Cells, "a")
			delete(g.Cells, "b")
		}},
		{`golgi.listen: want host:port, got "9000"`, func(g *genome.Genome) { g.Golgi.Listen = "9000" }},
		{`golgi.transports: "uds" is missing`, func(g *genome.Genome) { g.Golgi.Transports = nil }},
		{`golgi.transports: "uds" is missing`, func(g *genome.Genome) { g.Golgi.Transports = []string{"quic"} }},
		{`golgi.transports: plugins "tcp" and "/x/transport-tcp" are both called transport-tcp`, func(g *genome.Genome) {
			g.Golgi.Transports = []string{"uds", "tcp", "/x/transport-tcp"}
		}},
		{`kernel.metrics: want host:port`, func(g *genome.Genome) { g.Kernel.Metrics = "x" }},
		{`workspace.main: cell "a" has 2 replicas`, func(g *genome.Genome) { g.Workspace.Main, g.Cells["a"].Replicas = "a", 2 }},
		{`plugins.transport-uds.use: golgi.transports names the path`, func(g *genome.Genome) {
			g.Golgi.Transports = []string{"/x/transport-uds"}
			g.Plugins["transport-uds"] = genome.Plugin{Use: "quic"}
		}},
	} {
		g := valid("a:b", "b")
		c.change(g)
		problems := g.Validate()
		if len(problems) != 1 || !strings.HasPrefix(problems[0].String(), c.want) {
			t.Errorf("problems %v, want one: %s", problems, c.want)
		}
	}
}

func TestSelected(t *testing.T) {
	g := valid("a")
	g.Golgi.Transports = []string{"uds", "/bin/transport-tcp"}
	g.Golgi.Discovery = []string{"office"}
	g.Plugins["discovery-office"] = genome.Plugin{Use: "lighthouse", Config: map[string]any{"x": int64(1)}}
	g.Plugins["billing-unused"] = genome.Plugin{}
	var got []string
	for _, r := range g.Selected() {
		got = append(got, fmt.Sprintf("%s=%s=%s/%d", r.Key(), r.Use, r.Name(), len(r.Config)))
	}
	want := "billing-cgroup=cgroup=cgroup/0 ledger-json=json=json/0 transport-uds=uds=uds/0 transport-tcp=/bin/transport-tcp=tcp/0 discovery-office=lighthouse=lighthouse/1"
	if strings.Join(got, " ") != want {
		t.Errorf("Selected:\n%s\nwant:\n%s", strings.Join(got, " "), want)
	}
}

func TestACellThatIsNotThereListensNowhere(t *testing.T) {
	if at := valid("a").Listeners(nil); at != nil {
		t.Errorf("got %v", at)
	}
}

func TestDiff(t *testing.T) {
	old := valid("a:b", "b", "gone", "same:b")
	new := valid("a:b", "b", "new:a", "same:b")
	new.Cells["a"].Args = []string{"-v"}
	new.Cells["a"].Env = map[string]string{"A": "1"}
	new.Cells["a"].Replicas = 3
	new.Cells["b"].Axons["a"] = genome.DefaultAxon(new.Golgi)
	new.Cells["b"].Axons["a"].Wait = false
	new.Cells["b"].DrainTimeout = time.Second
	new.Golgi.Links = 4
	new.Plugins["transport-uds"] = genome.Plugin{Use: "x"}
	new.Workspace.Main = "a"
	var got []string
	for _, c := range genome.Diff(old, new) {
		got = append(got, c.String())
	}
	want := []string{
		"reboot golgi.links: 8 -> 4",
		"reboot plugins.transport-uds",
		"update workspace.main:  -> a",
		"remove cells.gone",
		"add cells.new",
		"update cells.b (axons)",
		"restart cells.b (drain_timeout)",
		"scale cells.a: 1 -> 3",
		"restart cells.a (args, env)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Diff:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestJSON sends a genome through JSON, as an update does: nothing changes.
func TestJSON(t *testing.T) {
	g := valid("a:b", "b")
	g.Plugins["discovery-x"] = genome.Plugin{Config: map[string]any{"n": int64(5), "f": 2.0, "l": []any{int64(1), "x"}}}
	g.Cells["a"].Listen = genome.Listen{On: true, Addr: sdk.Addr{Scheme: "quic", Host: "0.0.0.0:1"}}
	g.Cells["a"].Axons["b"].To = append(g.Cells["a"].Axons["b"].To, genome.Target{Cell: "b", Host: "h:1"})
	g.Cells["b"].Command, g.Cells["b"].Package = nil, "/x"
	text, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	back := &genome.Genome{}
	if err := json.Unmarshal(text, back); err != nil {
		t.Fatal(err)
	}
	if d := genome.Diff(g, back); len(d) != 0 {
		t.Errorf("differences: %v", d)
	}
	if back.Cells["a"].Listen.String() != "quic://0.0.0.0:1" || back.Cells["a"].StartTimeout != 10*time.Second {
		t.Errorf("cell a: %+v", back.Cells["a"])
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]genome.Bytes{
		"0": 0, "4096": 4096, "10MB": 10_000_000, "512MiB": 512 << 20, "2 GiB": 2 << 30, "1kB": 1000, "7B": 7,
	} {
		var b genome.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: %d, %v, want %d", text, b, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MB", "9999999999TiB", "1 M B", "five"} {
		var b genome.Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: %d, want an error", text, b)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := genome.Bytes(rapid.Int64Min(0).Draw(t, "bytes"))
		var back genome.Bytes
		if err := back.UnmarshalText([]byte(b.String())); err != nil || back != b {
			t.Fatalf("%s: %d, %v, want %d", b, back, err, b)
		}
	})
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"axon://a", "axon://h:1/a", "axon://[::1]:9/a", "axon://a:1", "axon:///a", "axon://h:1/a/b", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var target genome.Target
		if err := target.UnmarshalText([]byte(s)); err == nil && target.String() != s {
			t.Errorf("%q came back as %q", s, target)
		}
		var l genome.Listen
		if err := l.UnmarshalText([]byte(s)); err == nil && l.String() != s {
			t.Errorf("%q came back as %q", s, l)
		}
	})
}

func TestNearest(t *testing.T) {
	words := []string{"replicas", "restart", "ready", "listen", "limits", "dir"}
	for word, want := range map[string]string{
		"replica": "replicas", "replcias": "replicas", "listne": "listen", "redy": "ready", "di": "dir",
		"banana": "", "": "", "x": "", strings.Repeat("replicas", 100): "",
	} {
		if got := genome.Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestAxonsThatLeadElsewhereAreDoubted(t *testing.T) {
	g := genome.Default()
	caller := genome.DefaultCell()
	for _, to := range []sdk.CellName{"stroe", "elsewhere", "store", "far"} {
		a := genome.DefaultAxon(g.Golgi)
		a.To = []genome.Target{{Cell: to}}
		if to == "far" {
			a.To[0].Host = "198.51.100.7:9099" // who names an address means it
		}
		caller.Axons[to] = a
	}
	g.Cells["caller"], g.Cells["store"] = caller, genome.DefaultCell()
	got := g.Doubts([]sdk.CellName{"caller", "store"})
	want := []string{
		`cells.caller.axons.elsewhere.to: axon "elsewhere" of cell "caller": no cell "elsewhere" here: it must be found on another machine`,
		`cells.caller.axons.stroe.to: axon "stroe" of cell "caller": no cell "stroe" here: it must be found on another machine (did you mean "store"?)`,
	}
	var texts []string
	for _, p := range got {
		texts = append(texts, p.String())
	}
	if !slices.Equal(texts, want) {
		t.Errorf("got %q, want %q", texts, want)
	}
}

func TestSwapExchangesOnePlugin(t *testing.T) {
	g := genome.Default()
	g.Golgi.Discovery = []string{"multicast", "office"}
	g.Golgi.Ledger, g.Golgi.Billing = "json", "mem"
	for _, c := range []struct {
		from, to string
		want     []string
		code     sdk.Code
	}{
		{"discovery-multicast", "discovery-lighthouse", []string{"lighthouse", "office"}, 0},
		{"multicast", "lighthouse", []string{"lighthouse", "office"}, 0},
		{"office", "/opt/discovery-office", []string{"multicast", "/opt/discovery-office"}, 0},
		{"transport-quic", "/opt/transport-quic", nil, 0},
		{"ledger-json", "/opt/ledger-json", nil, 0},
		{"json", "ledger-mem", nil, sdk.CodeInvalid},
		{"billing-mem", "/opt/billing-mem", nil, 0},
		{"billing-mem", "/opt/billing-other", nil, sdk.CodeInvalid},
		{"nobody", "lighthouse", nil, sdk.CodeNotFound},
		{"multicast", "transport-quic", nil, sdk.CodeInvalid},
		{"quic", "tcp", nil, sdk.CodeInvalid},
		{"uds", "uds", nil, sdk.CodeInvalid},
	} {
		next, err := g.Swap(c.from, c.to)
		switch {
		case c.code != 0:
			if sdk.CodeOf(err) != c.code {
				t.Errorf("%s for %s: got %v, want %s", c.to, c.from, err, c.code)
			}
		case err != nil:
			t.Errorf("%s for %s: %v", c.to, c.from, err)
		case c.want != nil && !slices.Equal(next.Golgi.Discovery, c.want):
			t.Errorf("%s for %s: got %q, want %q", c.to, c.from, next.Golgi.Discovery, c.want)
		}
	}
	if !slices.Equal(g.Golgi.Discovery, []string{"multicast", "office"}) {
		t.Errorf("the genome itself has changed: %q", g.Golgi.Discovery)
	}
}

// What differs is what runs instead of what the file says: after a swap there
// and back, nothing.
func TestPluginsUnlike(t *testing.T) {
	file := &genome.Genome{}
	file.Golgi.Transports, file.Golgi.Discovery, file.Golgi.Ledger = []string{"quic"}, []string{"multicast", "office"}, "json"
	swap := func(g *genome.Genome, from, to string) *genome.Genome {
		t.Helper()
		next, err := g.Swap(from, to)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	unlike := func(g *genome.Genome, want ...string) {
		t.Helper()
		if got := g.PluginsUnlike(file); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	there := swap(file, "multicast", "lighthouse")
	unlike(there, "plugin discovery-lighthouse runs in the place of discovery-multicast")
	unlike(swap(there, "lighthouse", "multicast"))
	twice := swap(swap(there, "office", "multicast"), "quic", "/opt/transport-quic")
	unlike(twice, "plugin transport-quic (/opt/transport-quic) runs in the place of transport-quic",
		"plugin discovery-lighthouse runs in the place of discovery-office")
	more := *file
	more.Golgi.Discovery, more.Golgi.Ledger = []string{"multicast", "office", "lighthouse"}, ""
	unlike(&more, "plugin ledger-json does not run", "plugin discovery-lighthouse runs")
}
