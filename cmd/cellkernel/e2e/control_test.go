package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.always]
command = ["PROBE", "serve"]
[cells.failure]
command = ["PROBE", "serve"]
restart = "on-failure"
[cells.never]
command = ["PROBE", "serve"]
restart = "never"
[cells.job]
command = ["PROBE", "once", "0"]
job = true
[cells.retried]
command = ["sh", "-c", "test -e again || { touch again; exit 4; }"]
job = true
restart = "on-failure"
`)
	n.up()
	c := n.admin()
	state := func(want admin.State) func(admin.Process) bool {
		return func(p admin.Process) bool { return p.State == want }
	}
	n.await(c, "job#1", state(admin.StateDone))
	if p := n.await(c, "retried#1", state(admin.StateDone)); p.Restarts != 1 {
		t.Errorf("a job that failed once: %d restarts, want 1", p.Restarts)
	}
	n.want(0, "status") // done is as good as ready
	for _, name := range []string{"always", "failure"} {
		before := n.process(name + "#1")
		kill(t, before.PID, syscall.SIGKILL)
		n.awaitRestart(c, before)
	}
	kill(t, n.process("never#1").PID, syscall.SIGKILL)
	p := n.await(c, "never#1", state(admin.StateFailed))
	if !strings.Contains(p.Detail, "killed") {
		t.Errorf("why it failed: got %q, want the signal", p.Detail)
	}
	r := n.want(1, "status")
	contains(t, r.out, "degraded", "never")
	n.want(0, "start", "never")
	n.want(0, "status")
	// Asked to end from outside, a cell ends well: that is what its policy sees.
	kill(t, n.process("failure#1").PID, syscall.SIGTERM)
	n.await(c, "failure#1", state(admin.StateDone))
	before := n.process("always#1")
	kill(t, before.PID, syscall.SIGTERM)
	n.awaitRestart(c, before)
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process to send %s to: %d", sig, pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("send %s to %d: %v", sig, pid, err)
	}
}

func TestCrashloopIsShown(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.good]
command = ["PROBE", "serve"]
[cells.bad]
command = ["sh", "-c", "sleep 0.15; exit 9"]
ready = { exec = ["true"] }
restarts = { max = 2, within = "30s" }
`)
	k := n.up()
	c := n.admin()
	n.await(c, "bad#1", func(p admin.Process) bool { return p.State == admin.StateCrashLoop })
	k.err.await(t, "crashloop")
	r := n.want(1, "status")
	contains(t, r.out, "bad", "crashloop", "restart budget used up")
	if p := n.process("bad#1"); p.State != admin.StateCrashLoop || p.Restarts != 2 || p.PID != 0 {
		t.Errorf("ps: got %+v, want crashloop after 2 restarts", p)
	}
	if p := n.process("good#1"); p.State != admin.StateReady {
		t.Errorf("the other cell: got %+v", p)
	}
	n.want(0, "stop", "bad")
	n.want(0, "status")
}

func TestStopStartRestartScale(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\nreplicas = 2\n[cells.bystander]\ncommand = [\"PROBE\", \"serve\"]\n")
	n.up()
	pids := func() (list []int) {
		for _, p := range n.processes() {
			if p.Name == "w" && p.PID != 0 {
				list = append(list, p.PID)
			}
		}
		return list
	}
	bystander, first := n.process("bystander#1").PID, pids()
	n.want(0, "restart", "w")
	second := pids()
	if len(second) != 2 || slices.ContainsFunc(second, func(pid int) bool { return slices.Contains(first, pid) }) {
		t.Errorf("restart: pids %v became %v", first, second)
	}
	n.want(0, "scale", "w", "4")
	if got := pids(); len(got) != 4 || got[0] != second[0] || got[1] != second[1] {
		t.Errorf("scale to 4: pids %v became %v", second, got)
	}
	n.want(0, "scale", "w=1")
	if got := pids(); len(got) != 1 || got[0] != second[0] {
		t.Errorf("scale to 1: got %v, want %v", got, second[:1])
	}
	n.want(0, "stop", "w")
	if got := pids(); len(got) != 0 {
		t.Errorf("stop: %v still run", got)
	}
	if p := n.process("w#1"); p.State != admin.StateStopped {
		t.Errorf("stop: got state %q", p.State)
	}
	n.want(0, "start", "w")
	if got := pids(); len(got) != 1 || n.process("w#1").State != admin.StateReady {
		t.Errorf("start: got %v", got)
	}
	for _, verb := range []string{"restart", "stop", "start"} {
		n.want(4, verb, "nobody")
	}
	n.want(4, "scale", "nobody", "2")
	n.want(2, "scale", "w", "minus")
	if got := n.process("bystander#1").PID; got != bystander {
		t.Errorf("the other cell was restarted: %d, want %d", got, bystander)
	}
}

func TestCallAndItsExitCodes(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.w]
command = ["PROBE", "serve"]
replicas = 2
[cells.closed]
command = ["PROBE", "serve"]
allow = ["w"]
[cells.c]
command = ["PROBE", "serve"]
axons = { closed = "axon://closed" }
`)
	n.want(5, "call", "w.Echo")
	n.up()
	r := n.want(0, "call", "w#2.Echo", `{"text":"hello \"you\""}`)
	var reply struct {
		Text, Cell string
		Replica    int
		PID        int
	}
	if err := json.Unmarshal([]byte(r.out), &reply); err != nil {
		t.Fatal(err)
	}
	if strings.Count(r.out, "\n") != 1 || reply.Text != `hello "you"` || reply.Cell != "w" || reply.Replica != 2 || reply.PID != n.process("w#2").PID {
		t.Errorf("call: got %q", r.out)
	}
	contains(t, n.want(0, "call", "w.Probe.Echo", `{}`).out, `"w"`)
	for _, c := range []struct {
		code int
		args string
		says string
	}{
		{4, "nobody.Echo", "nobody"},
		{4, "w.Nothing", "Nothing"},
		{2, "w.Echo {", "JSON"},
		{2, `w.Echo {"txet":"x"}`, "txet"},
		{8, `w.Sleep {"ms":20000} --timeout 200ms`, "deadline"},
		{1, "w.Fail", "panicked"},
		{6, `w.Fail {"text":"denied"}`, "told to be denied"},
		{5, `w.Fail {"text":"unavailable"}`, "told to be unavailable"},
		{7, `w.Fail {"text":"no_atp"}`, "told to be no_atp"},
		{1, `w.Fail {"text":"application"}`, "told to be application"},
	} {
		r := n.want(c.code, append([]string{"call"}, strings.Fields(c.args)...)...)
		contains(t, r.err, c.says)
		if r.out != "" {
			t.Errorf("call %s: stdout %q, want nothing", c.args, r.out)
		}
	}
	// A cell that may not call another is told so, in a type.
	out := n.relay(n.client(n.mesh(), "c"), "closed", patience/2)
	if out.Code != "denied" || out.Executed != "no" {
		t.Errorf("call of a cell that does not allow it: got %+v, want denied", out)
	}
	n.want(0, "stop", "w")
	contains(t, n.want(5, "call", "w.Echo", "{}").err, "it is stopped") // at once: no waiting helps
}

// A command in this terminal is the cell: it may call what the cell may.
func TestRunOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.w]
command = ["PROBE", "serve"]
[cells.job]
command = ["PROBE", "once", "0", "w"]
job = true
env = { COLOUR = "blue" }
axons = { w = "axon://w" }
`)
	n.up()
	if r := n.want(0, "run", "job"); r.out != "once from w\n" {
		t.Errorf("run: stdout %q", r.out)
	}
	if r := n.want(5, "run", "job", "--", probe, "once", "5", "w"); r.out != "once from w\n" {
		t.Errorf("run -- command: stdout %q", r.out)
	}
	if r := n.want(0, "run", "job", "--", "sh", "-c", "echo $COLOUR; pwd"); r.out != "blue\n"+n.dir+"\n" {
		t.Errorf("run -- sh: stdout %q", r.out)
	}
	n.want(4, "run", "nobody")
	// A second terminal may serve, too.
	k := n.start("run", "w", "--", probe, "serve")
	k.out.await(t, "serving w 10")
	k.signal(syscall.SIGTERM)
	if code := k.exit(); code != 0 {
		t.Errorf("run of a service that is asked to end: exit code %d", code)
	}
}

// fields checks that an object has these fields, of these kinds.
func fields(t *testing.T, what string, raw json.RawMessage, want map[string]string) {
	t.Helper()
	var obj map[string]any
	if err := json.Unmarshal(raw, &obj); err != nil {
		t.Fatalf("%s: %v in %s", what, err, raw)
	}
	for name, kind := range want {
		v, ok := obj[name]
		got := fmt.Sprintf("%T", v)
		if !ok || got != kind {
			t.Errorf("%s: field %q is %s, want %s: %s", what, name, got, kind, raw)
		}
	}
}

func TestMachineReadable(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\nreplicas = 2\n")
	k := n.up()
	list := func(args ...string) (all []json.RawMessage) {
		if err := json.Unmarshal([]byte(n.want(0, args...).out), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	var kinds []string
	for _, raw := range list("ps", "-o", "json") {
		fields(t, "ps", raw, map[string]string{
			"kind": "string", "name": "string", "replica": "float64", "pid": "float64", "state": "string",
			"restarts": "float64", "uptime_ms": "float64", "rss_bytes": "float64", "cpu_us": "float64", "stall_us": "float64",
		})
		var p admin.Process
		if err := json.Unmarshal(raw, &p); err != nil {
			t.Fatal(err)
		}
		if p.State != admin.StateReady || p.PID == 0 || p.UptimeMS < 0 || p.RSSBytes < 1<<20 || p.CPUUS < 0 {
			t.Errorf("ps: got %s", raw)
		}
		kinds = append(kinds, p.Kind+" "+p.ID())
		if p.Kind == admin.KindKernel && p.PID != k.cmd.Process.Pid {
			t.Errorf("ps: kernel has pid %d, want %d", p.PID, k.cmd.Process.Pid)
		}
	}
	slices.Sort(kinds)
	if got := strings.Join(kinds, ", "); got != "cell w#1, cell w#2, kernel kernel, plugin billing-cgroup, plugin ledger-json, plugin transport-uds" {
		t.Errorf("ps: got %s", got)
	}
	plugins := list("plugin", "list", "-o", "json")
	if len(plugins) != 3 {
		t.Fatalf("plugin list: got %s", plugins)
	}
	fields(t, "plugin list", plugins[2], map[string]string{
		"kind": "string", "name": "string", "version": "string", "source": "string", "state": "string",
		"pid": "float64", "restarts": "float64",
	})
	contains(t, string(plugins[2]), `"kind":"transport"`, `"name":"uds"`, `"source":"bundled"`, `"state":"ready"`)
	fields(t, "status", json.RawMessage(n.want(0, "status", "-o", "json").out), map[string]string{
		"state": "string", "posture": "string", "mesh": "string", "cells": "[]interface {}", "plugins": "[]interface {}",
	})
	before := n.process("transport-uds")
	n.want(0, "plugin", "restart", "uds")
	if after := n.process("transport-uds"); after.PID == before.PID || after.State != admin.StateReady {
		t.Errorf("plugin restart: got %+v after %+v", after, before)
	}
	n.want(4, "plugin", "restart", "nothing")
	if p := n.process("w#1"); p.Restarts != 0 {
		t.Errorf("a cell was restarted with the plugin: %+v", p)
	}
	n.want(0, "call", "w.Echo", "{}")
}

// down lets calls end that run, and says what it waits for.
func TestDownDrains(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\n")
	k := n.up()
	run, err := os.Readlink(n.path(".cell/run"))
	if err != nil {
		t.Fatal(err)
	}
	call := n.start("call", "w.Sleep", `{"ms":1500}`)
	k.err.await(t, "sleeping 1500")
	r := n.want(0, "down")
	contains(t, r.err, "waiting for w#1")
	if code := call.exit(); code != 0 {
		t.Errorf("the call that ran: exit code %d: %s", code, call.err)
	}
	contains(t, call.out.String(), `"slept"`)
	if code := k.exit(); code != 0 {
		t.Errorf("up: exit code %d", code)
	}
	n.want(5, "status")
	if left, err := filepath.Glob(run + "*"); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// down says which cells did not end when they were asked to.
func TestDownSaysWhatItKilled(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.deaf]
command = ["sh", "-c", "trap '' TERM; touch ready; while :; do sleep 0.1; done"]
ready = { exec = ["test", "-e", "DIR/ready"] }
drain_timeout = "300ms"
[cells.good]
command = ["PROBE", "serve"]
`)
	k := n.up()
	contains(t, n.want(0, "down").err, "deaf#1 was killed: it had not ended within 300ms")
	if code := k.exit(); code != 0 {
		t.Errorf("up: exit code %d", code)
	}
	k = n.up()
	r := n.want(0, "down", "--within", "100ms", "-o", "json")
	contains(t, r.out, `"name":"deaf","replica":1,"state":"stopped","detail":"killed: the time to drain was over"`, `"name":"good","replica":1,"state":"stopped"}`)
	k.exit()
}

func TestInterruptDrainsThenKills(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.w]\ncommand = [\"PROBE\", \"serve\"]\ndrain_timeout = \"60s\"\n")
	k := n.up()
	call := n.start("call", "w.Sleep", `{"ms":600000}`, "--timeout", "20m")
	k.err.await(t, "sleeping 600000")
	pid := n.process("w#1").PID
	k.signal(syscall.SIGINT)
	k.err.await(t, "draining; once more to kill")
	k.err.await(t, "waiting for w#1")
	k.signal(syscall.SIGINT)
	if code := k.exit(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if call.exit() == 0 {
		t.Errorf("the call went well: %s", call.out)
	}
	n.eventually("the cell is gone", func() bool { return gone(pid) })
}

// What no waiting helps is said before the deadline of a call.
func TestCallsThatNobodyWillAnswer(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.a]
command = ["PROBE", "serve"]
[cells.a.junctions]
far = "elsewhere"
[cells.j]
command = ["true"]
job = true
`)
	n.up()
	n.want(0, "scale", "a", "0")
	n.eventually("the job is done", func() bool { return n.process("j#1").State == admin.StateDone })
	for _, c := range []struct {
		code int
		what string
		want string
	}{
		{5, "a.X", `"a": it is scaled to 0`}, {5, "j.X", `"j": it is done`},
		{4, "far.X", `"far": a junction of cell "a"`}, {2, "golgi.X", "the kernel itself"},
	} {
		contains(t, n.want(c.code, "call", c.what).err, c.want)
	}
}
