package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/kernel/admin"
)

const external = `
[golgi]
transports = ["PLUGIN"]
[plugins.transport-uds]
sha256 = "HASH"
backlog = 64
[cells.a]
command = ["PROBE", "serve"]
axons = { b = "axon://b" }
[cells.b]
command = ["PROBE", "serve"]
`

// A plugin's own binary does what the bundled one does, if it is the one that
// was meant.
func TestExternalPlugin(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(pluginFile)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	hash := hex.EncodeToString(sum[:])
	n := newNode(t, strings.Replace(external, "HASH", hash, 1))
	n.up()
	var list []admin.Plugin
	if err := json.Unmarshal([]byte(n.want(0, "plugin", "list", "-o", "json").out), &list); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(p admin.Plugin) bool { return p.Kind == "transport" })
	if len(list) != 3 || i < 0 || list[i].Source != pluginFile || list[i].State != admin.StateReady {
		t.Errorf("plugin list: got %+v", list)
	}
	c, a := n.admin(), n.client(n.mesh(), "a")
	n.mustRelay(a, "b")
	before := n.process("transport-uds")
	kill(t, before.PID, syscall.SIGKILL)
	n.awaitRestart(c, before)
	n.want(0, "restart", "b")
	n.mustRelay(a, "b")

	wrong := newNode(t, strings.Replace(external, "HASH", strings.Repeat("0", 64), 1))
	r := wrong.ck("up")
	if r.code == 0 {
		t.Errorf("a plugin with another hash was started: %s", r.err)
	}
	contains(t, r.err, "sha256", hash[:8])
	if n := strings.Count(r.err, "sha256 is"); n != 1 {
		t.Errorf("it is said %d times, want once: %s", n, r.err)
	}
	misspelt := newNode(t, strings.Replace(strings.Replace(external, "HASH", hash, 1), "backlog", "backlgo", 1))
	r = misspelt.ck("up")
	if r.code == 0 {
		t.Errorf("a plugin with an unknown key was started: %s", r.err)
	}
	contains(t, r.err, "backlgo", `"backlog"`)
}

// An interrupt while it boots ends the boot, and nothing is left of it.
func TestInterruptedBoot(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.ready]
command = ["PROBE", "serve"]
[cells.never]
command = ["sh", "-c", "echo never; exec sleep 1000"]
start_timeout = "60s"
`)
	for _, args := range [][]string{{"up"}, {"up", "-d"}} {
		k := n.start(args...)
		k.err.await(t, "service   ready  ready")
		st := n.state()
		n.eventually("both run", func() bool { return len(st.left()) >= 3 })
		k.signal(syscall.SIGINT)
		if code := k.exit(); code != 130 {
			t.Errorf("cellkernel %q, interrupted: exit code %d, want 130", args, code)
		}
		n.eventually("nothing is left", func() bool { return len(st.left()) == 0 })
		n.want(5, "status")
	}
}

// Two kernels can not run one directory: of many that begin at once one boots,
// the others join it or say who is there.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n")
	var all []*kernel
	for range 4 {
		all = append(all, n.start("up"))
	}
	n.eventually("one of them is ready", func() bool { return n.ck("status").code == 0 })
	pid := n.process("kernel").PID
	for _, k := range all {
		if k.cmd.Process.Pid == pid {
			continue
		}
		if code := k.exit(); code != 0 && code != 5 {
			t.Errorf("another up: exit code %d: %s", code, k.err)
		}
	}
	if _, err := n.client(n.mesh(), "w").Echo(n.ctx(), &api.Text{}); err != nil {
		t.Error(err)
	}
	if got := n.process("kernel").PID; got != pid {
		t.Errorf("the kernel is %d, was %d", got, pid)
	}
	n.want(0, "down")
}
