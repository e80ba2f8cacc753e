package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// files writes a tree of files and makes it the working directory.
func files(t testing.TB, tree map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range tree {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t testing.TB, src config.Sources) (*genome.Genome, *config.Origins) {
	t.Helper()
	g, o, err := config.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return g, o
}

// wantErrors demands that Load fails with exactly these lines.
func wantErrors(t *testing.T, src config.Sources, want ...string) {
	t.Helper()
	_, _, err := config.Load(src)
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("Load: got %v, want Errors", err)
	}
	if got := errs.Error(); got != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

var workspace = map[string]string{
	"genome.toml": `
[kernel]
node = "desk"
[golgi]
deadline = "5s"
links = 4
[workspace]
members = ["worker", "../` + "SELF" + `/store"]
main = "coordinator"
[genome]
name = "coordinator"
package = "."
job = true
[axons]
worker = "axon://worker"
store = { to = ["axon://store"], timeout = "1s", wait = false }
[junctions]
books = "../books"
[cells.cache]
command = ["./cache", "-v"]
ready = { tcp = "127.0.0.1:6379" }
[plugins.transport-uds]
backlog = 128
nested = { when = 1979-05-27, list = [1, 2.5, "x"] }
`,
	"worker/genome.toml": `
[genome]
name = "worker"
package = "./cmd"
replicas = 4
env = { LOG = "info", "odd.key" = "1" }
[axons]
worker = "axon://worker"
`,
	"worker/cmd/main.go": "package main",
	"store/genome.toml": `
genome = { name = "store", command = ["store"], limits = { cpus = 2, memory = "512MiB" } }
`,
}

// open writes the workspace; its second member is reached by a detour.
func openWorkspace(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range workspace {
		text = strings.ReplaceAll(text, "SELF", filepath.Base(dir))
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWorkspace(t *testing.T) {
	dir := openWorkspace(t)
	g, _ := load(t, config.Sources{File: dir})
	order, err := genome.Order(g)
	if err != nil || !slices.Equal(order, []sdk.CellName{"cache", "worker", "coordinator", "store"}) {
		t.Errorf("Order = %v, %v", order, err)
	}
	c, w, s := g.Cells["coordinator"], g.Cells["worker"], g.Cells["store"]
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"file", g.File, filepath.Join(dir, "genome.toml")},
		{"node", g.Kernel.Node, "desk"},
		{"main", g.Workspace.Main, sdk.CellName("coordinator")},
		{"package of the root", c.Package, dir},
		{"restart of a job", c.Restart, genome.RestartNever},
		{"restart of a service", w.Restart, genome.RestartAlways},
		{"package of a member", w.Package, filepath.Join(dir, "worker/cmd")},
		{"dir of a member", w.Dir, filepath.Join(dir, "worker")},
		{"file of a member", w.File, filepath.Join(dir, "worker/genome.toml")},
		{"replicas", w.Replicas, 4},
		{"env", w.Env["odd.key"], "1"},
		{"inherited timeout", c.Axons["worker"].Timeout, 5 * time.Second},
		{"own timeout", c.Axons["store"].Timeout, time.Second},
		{"inherited links", c.Axons["store"].Links, 4},
		{"wait", c.Axons["store"].Wait, false},
		{"target", c.Axons["worker"].To[0], genome.Target{Cell: "worker"}},
		{"junction", c.Junctions["books"], filepath.Join(filepath.Dir(dir), "books")},
		{"memory", s.Limits.Memory, genome.Bytes(512 << 20)},
		{"cpus", s.Limits.CPUs, 2.0},
		{"ready", g.Cells["cache"].Ready.TCP, "127.0.0.1:6379"},
		{"within", g.Cells["cache"].Ready.Within, 10 * time.Second},
		{"backlog", g.Plugins["transport-uds"].Config["backlog"], int64(128)},
	} {
		if check.got != check.want {
			t.Errorf("%s = %v, want %v", check.what, check.got, check.want)
		}
	}
	nested, _ := g.Plugins["transport-uds"].Config["nested"].(map[string]any)
	if nested["when"] != "1979-05-27" {
		t.Errorf("nested = %v", nested)
	}
}

// TestPrecedence sets one key on every level, then takes the levels away from
// the top.
func TestPrecedence(t *testing.T) {
	dir := files(t, map[string]string{
		"genome.toml": "[genome]\nname = \"worker\"\ncommand = [\"true\"]\nreplicas = 2\n",
		"one.toml":    "[genome]\nreplicas = 3\n",
		"two.toml":    "\n[cells.worker]\nreplicas = 4\n",
	})
	t.Chdir(dir)
	src := config.Sources{
		Overlays: []string{"one.toml", "two.toml"},
		Environ:  []string{"HOME=/", "CELLKERNEL_CELLS__WORKER__REPLICAS=5"},
		Sets:     []string{"genome.replicas=6", "cells.worker.replicas=7"},
	}
	steps := []struct {
		want   int
		origin string
		drop   func()
	}{
		{7, "--set cells.worker.replicas", func() { src.Sets = src.Sets[:1] }},
		{6, "--set genome.replicas", func() { src.Sets = nil }},
		{5, "CELLKERNEL_CELLS__WORKER__REPLICAS", func() { src.Environ = nil }},
		{4, "overlay two.toml:3", func() { src.Overlays = src.Overlays[:1] }},
		{3, "overlay one.toml:2", func() { src.Overlays = nil }},
		{2, "genome.toml:4", func() {}},
	}
	for _, s := range steps {
		g, o := load(t, src)
		if got := g.Cells["worker"].Replicas; got != s.want {
			t.Errorf("replicas = %d, want %d", got, s.want)
		}
		if got := o.Of("cells.worker.replicas"); got != s.origin {
			t.Errorf("origin = %q, want %q", got, s.origin)
		}
		if got := o.Of("golgi.links"); got != "default" {
			t.Errorf("origin of a default = %q", got)
		}
		s.drop()
	}
}

func TestSettings(t *testing.T) {
	dir := files(t, map[string]string{"genome.toml": `
[genome]
name = "my-worker"
command = ["true"]
[axons]
key-store = "axon://my-worker"
`})
	g, o := load(t, config.Sources{
		File: dir,
		Environ: []string{
			"CELLKERNEL_CELLS__MY_WORKER__ENV__LOG_LEVEL=debug",
			"CELLKERNEL_CELLS__MY_WORKER__LIMITS__MEMORY=1048576",
			"CELLKERNEL_AXONS__KEY_STORE__TIMEOUT=250ms",
			"CELLKERNEL_GOLGI__PLUGIN_RESTARTS__MAX=9",
			"CELLKERNEL_KERNEL__NODE=42",
			"CELLKERNEL_PLUGINS__TRANSPORT_UDS__MAX_CONNS=7",
			"CELLKERNEL_HOME=/tmp", "CELLKERNEL_FD=3",
		},
		Sets: []string{
			`cells.my-worker.args=["a", "b"]`,
			`genome.env."X.Y"=1=2`,
			`axons.other=axon://my-worker`,
			`plugins.transport-uds.name="quoted"`,
			`genome.dir = .`,
		},
	})
	c := g.Cells["my-worker"]
	plugin := g.Plugins["transport-uds"].Config
	for _, check := range []struct {
		what      string
		got, want any
	}{
		{"env", c.Env["LOG_LEVEL"], "debug"},
		{"memory", c.Limits.Memory, genome.Bytes(1 << 20)},
		{"timeout", c.Axons["key-store"].Timeout, 250 * time.Millisecond},
		{"target kept", c.Axons["key-store"].To[0].Cell, sdk.CellName("my-worker")},
		{"max", g.Golgi.PluginRestarts.Max, 9},
		{"node", g.Kernel.Node, "42"},
		{"plugin", plugin["max_conns"], int64(7)},
		{"plugin", plugin["name"], "quoted"},
		{"args", strings.Join(c.Args, "+"), "a+b"},
		{"quoted key", c.Env["X.Y"], "1=2"},
		{"new axon", c.Axons["other"].To[0].Cell, sdk.CellName("my-worker")},
		{"dir", c.Dir, dir},
		{"origin", o.Of("cells.my-worker.axons.key-store.timeout"), "CELLKERNEL_AXONS__KEY_STORE__TIMEOUT"},
	} {
		if check.got != check.want {
			t.Errorf("%s = %v, want %v", check.what, check.got, check.want)
		}
	}
}

func TestWrongSettings(t *testing.T) {
	dir := files(t, map[string]string{"genome.toml": "[cells.worker]\ncommand = [\"true\"]\n"})
	t.Chdir(dir)
	wantErrors(t, config.Sources{
		Environ: []string{
			"CELLKERNEL_FILES=x", "CELLKERNEL_CELLS__WRKER__ARGS=[]", "CELLKERNEL_GOLGI__LINK=1",
			"CELLKERNEL_GOLGI__LINKS=many", "CELLKERNEL_WORKSPACE__MEMBERS=[]",
		},
		Sets: []string{
			"golgi.links", "golgi.lnks=3", "cells.worker.replicas=0", "genome.replicas=1", "golgi=3",
			"cells.worker.job.x=1", "a b=1", "cells.worker.env.A=1\nb = 2",
		},
	},
		`CELLKERNEL_CELLS__WRKER__ARGS: cells.wrker: no cell "wrker" in this genome (did you mean "worker"?)`,
		`CELLKERNEL_FILES: unknown variable, want CELLKERNEL_SECTION__KEY (did you mean "CELLKERNEL_FILE"?)`,
		`CELLKERNEL_GOLGI__LINK: golgi.link: unknown key (did you mean "links"?)`,
		`CELLKERNEL_GOLGI__LINKS: golgi.links: want an integer, got the string "many"`,
		`CELLKERNEL_WORKSPACE__MEMBERS: workspace.members: members are read from files only`,
		`--set golgi.links: want section.key=value`,
		`--set golgi.lnks: golgi.lnks: unknown key (did you mean "links"?)`,
		`--set cells.worker.replicas: cells.worker.replicas: want 1 to 1024, got 0`,
		`--set genome.replicas: genome: the file has no [genome]; write cells.NAME`,
		`--set golgi: golgi: want section.key=value`,
		`--set cells.worker.job.x: cells.worker.job.x: is a boolean, not a table`,
		`--set a b: want section.key=value`,
		`--set cells.worker.env.A: cells.worker.env.A: want one value`,
	)
}

func TestUnreadable(t *testing.T) {
	var keys strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&keys, "k%d=1\n", i)
	}
	t.Chdir(files(t, map[string]string{
		"keys.toml": keys.String(),
		"big.toml":  strings.Repeat("# comment\n", 1<<17),
		"bin.toml":  "a = \"\xff\"",
		"ok.toml":   "[cells.a]\ncommand = [\"true\"]\n",
		"deep.toml": "[plugins.ledger-x]\na = " + strings.Repeat("[", 40) + strings.Repeat("]", 40),
		"dots.toml": strings.Repeat("a.", 40) + "a = 1\n",
	}))
	if err := os.Mkdir("dir.toml", 0o700); err != nil {
		t.Fatal(err)
	}
	wantErrors(t, config.Sources{File: "none.toml"}, "none.toml: no such file or directory")
	wantErrors(t, config.Sources{File: "big.toml"}, "big.toml: larger than 1048576 bytes")
	wantErrors(t, config.Sources{File: "bin.toml"}, "bin.toml: not valid UTF-8")
	wantErrors(t, config.Sources{File: "dir.toml"}, "dir.toml/genome.toml: no such file or directory")
	wantErrors(t, config.Sources{File: "keys.toml"}, "keys.toml: more than 32768 keys")
	wantErrors(t, config.Sources{File: "deep.toml"}, "deep.toml: more than 16 tables and arrays within each other")
	wantErrors(t, config.Sources{File: "dots.toml"}, "dots.toml:1:1: more than 16 tables within each other")
	wantErrors(t, config.Sources{File: "ok.toml", Overlays: []string{"none.toml", "/dev/zero"}},
		"none.toml: no such file or directory", "/dev/zero: not a regular file")
	if err := os.Chmod("ok.toml", 0); err == nil && os.Getuid() != 0 {
		wantErrors(t, config.Sources{File: "ok.toml"}, "ok.toml: permission denied")
	}
}

func TestRender(t *testing.T) {
	t.Chdir(files(t, map[string]string{
		"genome.toml": "[genome]\nname = \"worker\"\ncommand = [\"true\"]\n\treplica = 4 # \x1b\n",
	}))
	_, _, err := config.Load(config.Sources{})
	if err == nil || !strings.Contains(err.Error(), "genome.toml:4") {
		t.Fatalf("a control character: %v", err)
	}
	t.Chdir(files(t, map[string]string{
		"genome.toml": "[genome]\nname = \"worker\"\ncommand = [\"true\"]\n\treplica = 4 # \u202e\n",
	}))
	_, _, err = config.Load(config.Sources{})
	var errs config.Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	want := `genome.toml:4:2: cells.worker.replica: unknown key (did you mean "replicas"?)
    4 |  replica = 4 # ?
      |  ^^^^^^^`
	if got := errs.Render(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestOrigins(t *testing.T) {
	dir := files(t, map[string]string{"genome.toml": "[genome]\nname = \"a\"\ncommand = [\"true\"]\n[axons]\na = \"axon://a\"\n"})
	t.Chdir(dir)
	_, o := load(t, config.Sources{Sets: []string{"golgi.links=3"}})
	list := o.List()
	for _, want := range []config.Value{
		{Key: "golgi.links", Value: "3", Origin: "--set golgi.links"},
		{Key: "golgi.deadline", Value: `"30s"`, Origin: "default"},
		{Key: "golgi.transports", Value: `["uds", "quic"]`, Origin: "default"},
		{Key: "cells.a.command", Value: `["true"]`, Origin: "genome.toml:3"},
		{Key: "cells.a.axons.a.to", Value: `["axon://a"]`, Origin: "genome.toml:5"},
		{Key: "cells.a.axons.a.links", Value: "3", Origin: "default"},
		{Key: "cells.a.listen", Value: "false", Origin: "default"},
		{Key: "kernel.log_size", Value: `"10MB"`, Origin: "default"},
	} {
		if !slices.Contains(list, want) {
			t.Errorf("missing %+v in %+v", want, list)
		}
	}
}

// FuzzLoad reads any bytes as a file, as an overlay and as a member.
func FuzzLoad(f *testing.F) {
	for _, text := range workspace {
		f.Add([]byte(text))
	}
	mistakes, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range mistakes {
		text, err := os.ReadFile(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := files(t, map[string]string{
			"genome.toml":   string(text),
			"host.toml":     "[workspace]\nmembers = [\"m\"]\n",
			"m/genome.toml": string(text),
		})
		set := string(text[:min(len(text), 100)])
		for _, src := range []config.Sources{
			{File: filepath.Join(dir, "genome.toml")},
			{File: filepath.Join(dir, "host.toml"), Overlays: []string{filepath.Join(dir, "genome.toml")}},
			{File: filepath.Join(dir, "host.toml"), Sets: []string{set}, Environ: []string{"CELLKERNEL_" + set}},
		} {
			g, o, err := config.Load(src)
			var errs config.Errors
			switch {
			case err == nil:
				if p := g.Validate(); len(p) > 0 {
					t.Errorf("loaded, but %v", p)
				}
				o.List()
			case !errors.As(err, &errs) || len(errs) == 0:
				t.Errorf("error %T without a message", err)
			default:
				errs.Render()
			}
		}
	})
}

// Plugins are looked for before anything is started, if the bundled ones are known.
func TestPluginsThatAreNotThere(t *testing.T) {
	dir := files(t, map[string]string{"genome.toml": `
[golgi]
transports = ["uds", "qiuc", "./nothing"]
discovery = ["office"]
ledger = "jsn"
[plugins.transport-uds]
baklog = 1
[plugins.discovery-office]
use = "multcast"
[plugins.ledger-spare]
use = "uds"
baklog = 1
[plugins.transport-tcp]
use = "quic"
baklog = 1
[plugins.transport-unknown]
baklog = 1
`})
	t.Chdir(dir)
	backlog := func(map[string]any) []genome.Problem {
		return []genome.Problem{{Key: []string{"baklog"}, Text: "unknown key", Hint: "backlog", Name: true}}
	}
	src := config.Sources{Bundled: map[string]func(map[string]any) []genome.Problem{
		"transport-uds": backlog, "transport-quic": backlog, "discovery-multicast": nil, "ledger-json": nil, "billing-cgroup": nil,
	}}
	wantErrors(t, src,
		`genome.toml:3:14: golgi.transports: no transport "qiuc": want quic, uds or the path of an executable (did you mean "quic"?)`,
		`genome.toml:3:14: golgi.transports: no executable `+filepath.Join(dir, "nothing"),
		`genome.toml:5:10: golgi.ledger: no ledger "jsn": want json or the path of an executable (did you mean "json"?)`,
		`genome.toml:7:1: plugins.transport-uds.baklog: unknown key (did you mean "backlog"?)`,
		`genome.toml:9:7: plugins.discovery-office.use: no discovery "multcast": want multicast or the path of an executable (did you mean "multicast"?)`,
		`genome.toml:15:1: plugins.transport-tcp.baklog: unknown key (did you mean "backlog"?)`)
}

func TestLooseJunctions(t *testing.T) {
	dir := files(t, map[string]string{"genome.toml": `
[cells.a]
command = ["true"]
junctions = { far = "far", near = "near" }
`, "near/genome.toml": ""})
	t.Chdir(dir)
	_, o := load(t, config.Sources{})
	want := fmt.Sprintf("genome.toml:4:21: cells.a.junctions.far: junction \"far\" of cell \"a\": no genome.toml in %s", filepath.Join(dir, "far"))
	if got := o.Doubts().Error(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
