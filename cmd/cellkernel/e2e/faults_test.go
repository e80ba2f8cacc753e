package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/kernel/admin"
)

const pair = `
[cells.worker]
command = ["PROBE", "serve"]
replicas = 4
restarts = { max = 100, within = "30s" }
[cells.spare]
command = ["PROBE", "serve"]
[cells.careful]
command = ["PROBE", "serve"]
axons = { worker = "axon://worker", spare = "axon://spare" }
[cells.bold]
command = ["PROBE", "serve"]
axons = { worker = "axon://worker" }
`

// A replica that dies under load: methods that may be repeated do not notice,
// the others see unavailable and nothing else, and no call outlives its
// deadline.
func TestKilledReplicaUnderLoad(t *testing.T) {
	t.Parallel()
	n := newNode(t, pair)
	n.up()
	c, m := n.admin(), n.mesh()
	bold, careful := n.client(m, "bold"), n.client(m, "careful")
	order := api.Order{To: "worker", Method: "echo", Callers: 16, DeadlineMS: 1000, PauseUS: 10_000}
	n.load(bold, &order)
	order.Method = "work"
	n.load(careful, &order)
	for round := range 4 {
		before := n.process(fmt.Sprintf("worker#%d", round%4+1))
		begun := time.Now()
		kill(t, before.PID, syscall.SIGKILL)
		n.awaitRestart(c, before)
		n.inTime("a killed replica is back", time.Since(begun), time.Second)
		n.more(bold, 100)
		n.more(careful, 100)
	}
	r := n.flawless(bold)
	t.Logf("idempotent: %+v", *r)
	n.inTime("idempotent calls are late by", time.Duration(r.LateMS)*time.Millisecond, 100*time.Millisecond)
	r = n.tally(careful, true)
	t.Logf("others: %+v", *r)
	if r.OK+r.Unavailable != r.Calls || r.Unavailable > r.Calls/10 {
		t.Errorf("others: %+v, want a few unavailable and nothing else", *r)
	}
	n.inTime("other calls are late by", time.Duration(r.LateMS)*time.Millisecond, 100*time.Millisecond)
}

// The plugin is not on the path of open links, and a new one brings new links.
func TestPluginKilledAndHung(t *testing.T) {
	t.Parallel()
	n := newNode(t, pair)
	n.up()
	c, m := n.admin(), n.mesh()
	bold, careful := n.client(m, "bold"), n.client(m, "careful")
	// Only careful knows spare, and has no link to it yet.
	n.load(bold, &api.Order{To: "worker", Method: "work", Callers: 8, DeadlineMS: 2000, PauseUS: 2000})
	for _, f := range []struct {
		what  string
		sig   syscall.Signal
		bound time.Duration
	}{{"killed", syscall.SIGKILL, time.Second}, {"hung", syscall.SIGSTOP, 5 * time.Second}} {
		before := n.process("transport-uds")
		begun := time.Now()
		kill(t, before.PID, f.sig)
		// New links, while there is no plugin: a fresh replica has none yet.
		spare := n.process("spare#1")
		kill(t, spare.PID, syscall.SIGKILL)
		out := n.relay(careful, "spare", patience/2)
		n.inTime("a "+f.what+" plugin opens links again", time.Since(begun), f.bound)
		if out.Code != "" {
			t.Errorf("%s: a call over a new link: %+v", f.what, out)
		}
		n.awaitRestart(c, before)
		n.more(bold, 100)
	}
	t.Logf("meanwhile: %+v", *n.flawless(bold))
	n.want(0, "status")
}

// Stopping the kernel and its plugins changes nothing for cells that talk;
// afterwards nobody is blamed for the time in between.
func TestStoppedKernelUnderLoad(t *testing.T) {
	t.Parallel()
	n := newNode(t, pair)
	k := n.up()
	m := n.mesh()
	bold, careful := n.client(m, "bold"), n.client(m, "careful")
	n.load(bold, &api.Order{To: "worker", Method: "work", Callers: 8, DeadlineMS: 2000, PauseUS: 1000})
	if _, err := careful.Vitals(n.ctx(), &api.Query{}); err != nil { // makes our own link to it
		t.Fatal(err)
	}
	before := n.processes()
	plugin := n.process("transport-uds").PID
	stopped := []int{k.cmd.Process.Pid, plugin}
	for _, pid := range stopped {
		kill(t, pid, syscall.SIGSTOP)
	}
	end := time.After(3 * time.Second) // what the test is about, not a wait for something
	opened := make(chan *api.Outcome, 1)
	go func() {
		out, err := careful.Relay(n.ctx(), &api.Route{To: "spare", Text: "relayed", MS: 20_000})
		if err != nil {
			out = &api.Outcome{Error: err.Error(), Code: "relay"}
		}
		opened <- out
	}()
	flowing := 0
	for done := false; !done; {
		n.more(bold, 100)
		flowing++
		select {
		case <-end:
			done = true
		default:
		}
	}
	for _, pid := range stopped {
		kill(t, pid, syscall.SIGCONT)
	}
	begun := time.Now()
	if out := <-opened; out.Code != "" {
		t.Errorf("a link opened meanwhile: %+v", out)
	}
	n.inTime("a link opened meanwhile is there", time.Since(begun), time.Second)
	n.more(bold, 200)
	t.Logf("%d hundreds of calls while stopped; in all %+v", flowing, *n.flawless(bold))
	// Two rounds of everybody's pings see nothing wrong.
	n.want(0, "status")
	for _, p := range before {
		if now := n.process(p.ID()); now.PID != p.PID || now.Restarts != p.Restarts {
			t.Errorf("%s was restarted: %+v became %+v", p.ID(), p, now)
		}
	}
}

// runState is what a kernel notes down for whoever clears up behind it.
type runState struct {
	RunID  string `json:"run_id"`
	Cgroup string `json:"cgroup"`
}

func (n *node) state() (st runState) {
	n.t.Helper()
	b, err := os.ReadFile(n.path(".cell/state.json"))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil || st.RunID == "" {
		n.t.Fatalf("read state: %v in %q", err, b)
	}
	return st
}

// left lists the processes that a run left: in its cgroup, or marked.
func (st runState) left() (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || gone(pid) {
			continue
		}
		group, _ := os.ReadFile(p + "/cgroup")
		env, _ := os.ReadFile(p + "/environ")
		marked := strings.Contains("\x00"+string(env), "\x00CELLKERNEL_RUN="+st.RunID)
		inside := st.Cgroup != "" && strings.Contains(string(group), filepath.Base(st.Cgroup))
		if marked || inside {
			pids = append(pids, pid)
		}
	}
	return pids
}

// A kernel that is killed takes everything with it, also what does not want to
// go; the next one starts on clean ground.
func TestKilledKernelLeavesNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.stubborn]
command = ["PROBE", "stubborn", "DIR/orphan"]
replicas = 2
[cells.worker]
command = ["PROBE", "serve"]
`)
	for range 5 {
		k := n.up()
		st := n.state()
		if st.Cgroup == "" {
			contains(t, k.err.String(), "no cgroup for the cells")
		}
		b, err := os.ReadFile(n.path("orphan"))
		if err != nil {
			t.Fatal(err)
		}
		orphan, err := strconv.Atoi(string(b))
		if err != nil || gone(orphan) {
			t.Fatalf("there is no orphan %q: %v", b, err)
		}
		if len(st.left()) < 6 { // three cells, two orphans, a plugin
			t.Fatalf("only %v run", st.left())
		}
		k.signal(syscall.SIGKILL)
		begun := time.Now()
		<-k.ended
		n.eventually("nothing is left", func() bool { return len(st.left()) == 0 })
		n.inTime("nothing is left", time.Since(begun), 2*time.Second)
		if !gone(orphan) {
			t.Errorf("orphan %d lives", orphan)
		}
		// At once, whether the sweeper is through or not.
	}
	n.up()
	n.want(0, "status")
	n.want(0, "call", "worker.Echo", "{}")
	// The stubborn die of down as well, after their time to drain.
	st := n.state()
	n.want(0, "down", "--within", "500ms")
	n.eventually("nothing is left", func() bool { return len(st.left()) == 0 })
}

// A cell that hangs is seen, killed and replaced; calls go elsewhere.
func TestStoppedCell(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.worker]
command = ["PROBE", "serve"]
replicas = 2
[cells.caller]
command = ["PROBE", "serve"]
axons = { worker = "axon://worker" }
`)
	n.up()
	c, caller := n.admin(), n.client(n.mesh(), "caller")
	n.load(caller, &api.Order{To: "worker", Method: "echo", Callers: 4, DeadlineMS: 1000, PauseUS: 2000})
	before := n.process("worker#1")
	begun := time.Now()
	kill(t, before.PID, syscall.SIGSTOP)
	p := n.await(c, "worker#1", func(p admin.Process) bool {
		return p.State == admin.StateBackoff || p.State == admin.StateStarting && p.Restarts > before.Restarts
	})
	t.Logf("seen after %s: %+v", time.Since(begun), p)
	n.awaitRestart(c, before)
	n.inTime("a hung replica is replaced", time.Since(begun), 14*time.Second)
	n.more(caller, 100)
	r := n.tally(caller, true)
	t.Logf("meanwhile: %+v", *r)
	n.inTime("calls are late by", time.Duration(r.LateMS)*time.Millisecond, 100*time.Millisecond)
	if r.Other != 0 || r.OK < r.Calls*8/10 {
		t.Errorf("meanwhile: %+v, want nearly all calls answered by the other replica", *r)
	}
	if !strings.Contains(p.Detail, "hung: no answer for 10s") {
		t.Errorf("why: got %q", p.Detail)
	}
}

// A replica that somebody asks to end does so without losing a call.
func TestTerminatedReplicaUnderLoad(t *testing.T) {
	t.Parallel()
	n := newNode(t, pair)
	n.up()
	c, bold := n.admin(), n.client(n.mesh(), "bold")
	n.load(bold, &api.Order{To: "worker", Method: "work", Callers: 16, DeadlineMS: 5000, PauseUS: 500})
	for round := range 6 {
		before := n.process(fmt.Sprintf("worker#%d", round%4+1))
		kill(t, before.PID, syscall.SIGTERM)
		n.awaitRestart(c, before)
		n.more(bold, 200)
	}
	t.Logf("meanwhile: %+v", *n.flawless(bold))
}
