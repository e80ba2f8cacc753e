package e2e_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/examples/netlab"
	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

const (
	patience = 30 * time.Second      // for anything that must happen at all
	look     = 10 * time.Millisecond // between two looks at what has no event
	slack    = 3                     // how far beyond a bound a loaded machine may be
)

// A node is a directory with a genome, and the kernel that runs it.
type node struct {
	t   *testing.T
	dir string
	run string // XDG_RUNTIME_DIR
	env []string

	program string // that its kernel is; empty: the command

	host *netlab.Host // where its kernel runs; nil is this machine
}

// newNode makes a node. In the genome, PROBE is the probe's path, PLUGIN that
// of the plugin's own binary, and DIR the node's directory.
func newNode(t *testing.T, genome string) *node {
	t.Helper()
	base, err := os.MkdirTemp("", "cke") // short: it holds addresses of sockets
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: filepath.Join(base, "d"), run: filepath.Join(base, "x")}
	t.Cleanup(func() { os.RemoveAll(base) })
	for _, dir := range []string{n.dir, n.run} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n.write("genome.toml", genome)
	return n
}

// peer makes another directory beside n's, whose kernel shares its run
// directory, as the kernels of one user do.
func (n *node) peer(name, genome string) *node {
	n.t.Helper()
	p := &node{t: n.t, dir: filepath.Join(filepath.Dir(n.dir), name), run: n.run}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	p.write("genome.toml", genome)
	return p
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) write(name, text string) {
	n.t.Helper()
	text = strings.NewReplacer("PROBE", probe, "PLUGIN", pluginFile, "DIR", n.dir).Replace(text)
	err := os.MkdirAll(filepath.Dir(n.path(name)), 0o700)
	if err == nil {
		err = os.WriteFile(n.path(name), []byte(text), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// command prepares the command, with nothing of this process's settings.
func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, cmp.Or(n.program, binary), args...)
	cmd.Dir = n.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CELLKERNEL_") })
	cmd.Env = append(append(cmd.Env, "XDG_RUNTIME_DIR="+n.run, "NO_COLOR=1"), n.env...)
	// Its own group: what a test sends to the kernel is for the kernel.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience
	return cmd
}

// A result is what a command left.
type result struct {
	code     int
	out, err string
}

// ck runs a command to its end.
func (n *node) ck(args ...string) result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := n.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) || ctx.Err() != nil {
		n.t.Fatalf("cellkernel %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want runs a command that must end with a code, and returns what it wrote.
func (n *node) want(code int, args ...string) result {
	n.t.Helper()
	r := n.ck(args...)
	if r.code != code {
		n.t.Fatalf("cellkernel %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// A kernel is a command that stays, usually up.
type kernel struct {
	n        *node
	cmd      *exec.Cmd
	out, err *output
	ended    chan struct{}
}

// start runs a command in the background. At the end of the test it is gone,
// and so is everything it started.
func (n *node) start(args ...string) *kernel {
	n.t.Helper()
	k := &kernel{n: n, cmd: n.command(context.Background(), args...), out: newOutput(), err: newOutput(), ended: make(chan struct{})}
	k.cmd.Stdout, k.cmd.Stderr = k.out, k.err
	begin := k.cmd.Start
	if n.host != nil {
		begin = func() error { return n.host.Start(k.cmd) }
	}
	if err := begin(); err != nil {
		n.t.Fatal(err)
	}
	go func() {
		_ = k.cmd.Wait() // ProcessState says it
		k.out.end()
		k.err.end()
		close(k.ended)
	}()
	n.t.Cleanup(func() { k.finish() })
	return k
}

// finish kills what is left and waits for the sweeper, which is the last.
func (k *kernel) finish() {
	_ = k.cmd.Process.Kill()                  // it may be gone
	_ = k.cmd.Process.Signal(syscall.SIGCONT) // or stopped
	<-k.ended
	if k.n.t.Failed() {
		text := k.err.String()
		k.n.t.Logf("cellkernel %s wrote, at last:\n%s", strings.Join(k.cmd.Args[1:], " "), text[max(0, len(text)-8192):])
	}
	if k.cmd.Args[1] != "up" {
		return
	}
	k.n.eventually("the sweeper has cleared up", func() bool {
		_, err := os.Stat(k.n.path(".cell/state.json"))
		return err != nil
	})
}

// up boots in the foreground and waits until all is ready.
func (n *node) up(args ...string) *kernel {
	n.t.Helper()
	k := n.start(append([]string{"up"}, args...)...)
	k.err.await(n.t, "ready     node")
	return k
}

func (k *kernel) signal(sig syscall.Signal) {
	k.n.t.Helper()
	if err := k.cmd.Process.Signal(sig); err != nil {
		k.n.t.Fatal(err)
	}
}

// exit waits for the end and returns the code.
func (k *kernel) exit() int {
	k.n.t.Helper()
	select {
	case <-k.ended:
	case <-time.After(2 * patience):
		k.n.t.Fatalf("cellkernel %s does not end", strings.Join(k.cmd.Args[1:], " "))
	}
	return k.cmd.ProcessState.ExitCode()
}

// An output collects what a process writes and lets others wait for it.
type output struct {
	mu    sync.Mutex // guards all below
	text  bytes.Buffer
	grown chan struct{} // closed and replaced when there is more
	over  bool
}

func newOutput() *output { return &output{grown: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.grown)
	o.grown = make(chan struct{})
	return o.text.Write(b)
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	close(o.grown)
	o.grown = make(chan struct{})
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until text was written.
func (o *output) await(t *testing.T, text string) {
	t.Helper()
	late := time.After(patience)
	for {
		o.mu.Lock()
		found, over, grown := bytes.Contains(o.text.Bytes(), []byte(text)), o.over, o.grown
		o.mu.Unlock()
		if found {
			return
		}
		if over {
			t.Fatalf("ended before it wrote %q", text)
		}
		select {
		case <-grown:
		case <-late:
			t.Fatalf("did not write %q", text)
		}
	}
}

// eventually looks until ok, for things that tell nobody when they happen.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			n.t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// inTime checks a duration against a bound of the contract.
func (n *node) inTime(what string, took, bound time.Duration) {
	n.t.Helper()
	n.t.Logf("%s: %s (bound %s)", what, took.Round(time.Millisecond), bound)
	if took > slack*bound {
		n.t.Errorf("%s took %s, want %s (or %d times as long on a loaded machine)", what, took, bound, slack)
	}
}

// admin connects to the kernel of the node.
func (n *node) admin() *admin.Client {
	n.t.Helper()
	c, err := admin.Dial(context.Background(), n.path(".cell/run/"+admin.SocketName))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

// processes lists what runs.
func (n *node) processes() []admin.Process {
	n.t.Helper()
	var list []admin.Process
	if err := json.Unmarshal([]byte(n.want(0, "ps", "-o", "json").out), &list); err != nil {
		n.t.Fatal(err)
	}
	return list
}

// process finds one by what people call it: worker#2, transport-uds, kernel.
func (n *node) process(id string) admin.Process {
	n.t.Helper()
	list := n.processes()
	i := slices.IndexFunc(list, func(p admin.Process) bool { return p.ID() == id })
	if i < 0 {
		n.t.Fatalf("no process %q in %+v", id, list)
	}
	return list[i]
}

// await waits for an event about one process.
func (n *node) await(c *admin.Client, id string, ok func(admin.Process) bool) admin.Process {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var found *admin.Process
	errFound := errors.New("found")
	err := c.Events(ctx, 0, func(e admin.Event) error {
		if e.Process != nil && e.Process.ID() == id && ok(*e.Process) {
			found = e.Process
			return errFound
		}
		return nil
	})
	if found == nil {
		n.t.Fatalf("wait for an event of %s: %v", id, err)
	}
	return *found
}

// awaitRestart waits until a process is ready in a later life than before.
func (n *node) awaitRestart(c *admin.Client, before admin.Process) admin.Process {
	n.t.Helper()
	return n.await(c, before.ID(), func(p admin.Process) bool {
		return p.State == admin.StateReady && p.Restarts > before.Restarts && p.PID != before.PID
	})
}

// mesh attaches this process to the kernel, like the command line: it may
// call every cell.
func (n *node) mesh() *cell.Membrane {
	n.t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: n.path(".cell/run/control.sock"), Net: "unixpacket"})
	if err != nil {
		n.t.Fatal(err)
	}
	m, err := cell.Attach(channel.New(conn), channel.Hello{})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = m.Close() })
	return m
}

// client calls a probe; the name may be that of one replica.
func (n *node) client(m *cell.Membrane, name string) api.ProbeClient {
	return api.NewProbeClient(m.Synapse(sdk.CellName(name)))
}

// ctx bounds what a test calls.
func (n *node) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.t.Cleanup(cancel)
	return ctx
}

// relay makes a cell call another one.
func (n *node) relay(c api.ProbeClient, to string, within time.Duration) *api.Outcome {
	n.t.Helper()
	out, err := c.Relay(n.ctx(), &api.Route{To: to, Text: "relayed", MS: within.Milliseconds()})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// mustRelay demands an answer.
func (n *node) mustRelay(c api.ProbeClient, to string) *api.Outcome {
	n.t.Helper()
	out := n.relay(c, to, patience/2)
	if out.Code != "" || out.Reply == nil || out.Reply.Text != "relayed" {
		n.t.Fatalf("relay to %q: got %+v", to, out)
	}
	return out
}

// load puts a cell under way and waits until its calls flow.
func (n *node) load(c api.ProbeClient, o *api.Order) {
	n.t.Helper()
	if _, err := c.Load(n.ctx(), o); err != nil {
		n.t.Fatal(err)
	}
	n.more(c, 200)
}

// more waits until the load has made so many more calls.
func (n *node) more(c api.ProbeClient, calls int64) {
	n.t.Helper()
	first := n.tally(c, false).Calls
	n.eventually(fmt.Sprintf("%d more calls were made", calls), func() bool { return n.tally(c, false).Calls >= first+calls })
}

func (n *node) tally(c api.ProbeClient, stop bool) *api.Report {
	n.t.Helper()
	r, err := c.Tally(n.ctx(), &api.Query{Stop: stop})
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

// flawless ends a load, of which no call may have failed.
func (n *node) flawless(c api.ProbeClient) *api.Report {
	n.t.Helper()
	r := n.tally(c, true)
	if r.OK != r.Calls {
		n.t.Errorf("%d of %d calls failed: %+v", r.Calls-r.OK, r.Calls, *r)
	}
	return r
}

// contains checks that a text has all parts.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// sysSignal is what processes are sent.
type sysSignal = syscall.Signal

// errStop ends the following of a stream.
var errStop = errors.New("seen enough")

// gone reports whether a process has ended; one that nobody waited for yet has.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}
