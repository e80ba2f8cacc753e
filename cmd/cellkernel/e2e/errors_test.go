package e2e_test

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// golden runs up on a genome that can not run, and compares what it says.
func golden(t *testing.T, n *node, code int, want string) {
	t.Helper()
	begun := time.Now()
	r := n.want(code, "up")
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("up took %s to fail", took)
	}
	text := r.err
	// What was built or noted before it failed is not part of the message.
	if i := strings.Index(text, want[:strings.IndexByte(want, '\n')+1]); i >= 0 {
		text = text[i:]
	}
	want = strings.NewReplacer("PROBE", probe, "DIR", n.dir).Replace(want)
	if text != want {
		t.Errorf("got:\n%s\nwant:\n%s", r.err, want)
	}
	n.want(5, "status")
}

func TestManifestMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, genome, want string }{
		{"cycle", `[cells]
loose = { command = ["true"] }
a = { command = ["true"], axons = { b = "axon://b" } }
b = { command = ["true"], axons = { c = "axon://c" } }
c = { command = ["true"], axons = { a = "axon://a", loose = "axon://loose" } }
`, `genome.toml:3:41: cells.a.axons.b: axons form a cycle: a -> b -> c -> a: one of them needs wait = false
    3 | a = { command = ["true"], axons = { b = "axon://b" } }
      |                                         ^^^^^^^^^^
cellkernel: read genome.toml: 1 mistake
`},
		{"unknown axon", `golgi = { discovery = [] }
[genome]
name = "worker"
command = ["true"]
[axons]
store = "axon://stroe"
[cells.store]
command = ["true"]
`, `genome.toml:6:9: cells.worker.axons.store.to: axon://stroe: no cell "stroe" in this genome, no address, and golgi.discovery is empty (did you mean "store"?)
    6 | store = "axon://stroe"
      |         ^^^^^^^^^^^^^^
cellkernel: read genome.toml: 1 mistake
`},
		{"misspelt key and wrong type", `[cells.worker]
command = ["true"]
replicsa = 2
concurrency = "four"
`, `genome.toml:3:1: cells.worker.replicsa: unknown key (did you mean "replicas"?)
    3 | replicsa = 2
      | ^^^^^^^^
genome.toml:4:15: cells.worker.concurrency: want an integer, got the string "four"
    4 | concurrency = "four"
      |               ^^^^^^
cellkernel: read genome.toml: 2 mistakes
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			golden(t, newNode(t, c.genome), 3, c.want)
		})
	}
}

func TestTwoCellsOfOneName(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[workspace]\nmembers = [\"one\", \"two\"]\n")
	n.write("one/genome.toml", "[genome]\nname = \"worker\"\ncommand = [\"true\"]\n")
	n.write("two/genome.toml", "[genome]\nname = \"worker\"\ncommand = [\"true\"]\n")
	r := n.want(3, "up")
	contains(t, r.err, "worker", "one/genome.toml", "two/genome.toml", "1 mistake")
}

func TestUnreadableManifest(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.a]\ncommand = [\"true\"]\n")
	if err := os.Remove(n.path("genome.toml")); err != nil {
		t.Fatal(err)
	}
	// A loop of links can not be read by anybody, root included.
	if err := os.Symlink("genome.toml", n.path("genome.toml")); err != nil {
		t.Fatal(err)
	}
	r := n.want(3, "up", "genome.toml")
	contains(t, r.err, "genome.toml", syscall.ELOOP.Error())
	r = n.want(3, "up", "nothing.toml")
	contains(t, r.err, "nothing.toml", "no such file or directory")
	if os.Getuid() == 0 {
		t.Log("the file without permission is not tried: root reads it")
		return
	}
	n.write("closed.toml", "")
	if err := os.Chmod(n.path("closed.toml"), 0); err != nil {
		t.Fatal(err)
	}
	contains(t, n.want(3, "up", "closed.toml").err, "closed.toml: permission denied")
}

// A cell that ends at once is named with what it said, and nothing else runs
// on; nobody waits for a timeout.
func TestCellThatExitsAtStart(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.good]
command = ["PROBE", "serve"]
[cells.bad]
command = ["PROBE", "exit", "3", "no database"]
start_timeout = "60s"
`)
	r := n.want(1, "up")
	contains(t, r.err, `start cell "bad": replica 1: exit`, "3 before it was ready", "  | line 30\n", "  | giving up: no database\n")
	if strings.Contains(r.err, "  | line 1\n") {
		t.Errorf("more than the last lines:\n%s", r.err)
	}
	n.want(5, "status")
	r = n.want(1, "up", "-d")
	contains(t, r.err, `start cell "bad"`, "  | giving up: no database\n")
	n.want(5, "status")
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	n := newNode(t, `
[cells.web]
command = ["PROBE", "listen", "`+addr+`"]
ready = { tcp = "`+addr+`" }
`)
	r := n.want(1, "up")
	contains(t, r.err, `start cell "web": replica 1: address `+addr+` is in use: another process answers there already`)
	n.write("genome.toml", `
[cells.web]
command = ["PROBE", "listen", "`+addr+`"]
ready = { exec = ["false"] }
`)
	r = n.want(1, "up")
	contains(t, r.err, `start cell "web": replica 1: exit status 1 before it was ready`, "  | probe: listen tcp "+addr+": bind: address already in use")
}

func TestMissingRunner(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.py]\ncommand = [\"no-such-runner\", \"worker.py\"]\n")
	r := n.want(1, "up")
	contains(t, r.err, `start cell "py": replica 1: exec "no-such-runner": not found in PATH`)
	n.write("genome.toml", "[cells.py]\ncommand = [\"./run.sh\"]\n")
	n.write("run.sh", "#!/no/such/interpreter\n")
	if err := os.Chmod(n.path("run.sh"), 0o700); err != nil {
		t.Fatal(err)
	}
	r = n.want(1, "up")
	contains(t, r.err, `"./run.sh"`, "the program its first line names does not exist")
}

func TestNotReadyInTime(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	n := newNode(t, `
[cells.mute]
command = ["sh", "-c", "echo waiting for nothing; exec sleep 1000"]
ready = { tcp = "`+addr+`", within = "300ms" }
`)
	r := n.want(1, "up")
	contains(t, r.err, `start cell "mute": replica 1: not ready within 300ms`, "connection refused", "  | waiting for nothing\n")
}

func TestOneKernelPerDirectory(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.a]\ncommand = [\"PROBE\", \"serve\"]\n")
	k := n.up()
	// A second up is a change of the first kernel, and there is none.
	r := n.want(0, "up")
	contains(t, r.err, "none: this is what runs")
	k.signal(syscall.SIGTERM)
	if code := k.exit(); code != 0 {
		t.Errorf("exit code after SIGTERM: %d, want 0", code)
	}
	n.want(5, "status")
}
