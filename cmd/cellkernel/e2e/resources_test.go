package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
)

// fds counts a process's descriptors.
func (n *node) fds(pid int) int {
	n.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(list)
}

// After hundreds of links nobody holds more than before: not the kernel, not
// the plugin, not the cells at both ends.
func TestLinksLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	n := newNode(t, `
[cells.server]
command = ["PROBE", "serve"]
[cells.caller]
command = ["PROBE", "serve"]
`)
	k := n.up()
	m := n.mesh()
	server, caller := n.client(m, "server"), n.client(m, "caller")
	churn := func(count int32) {
		r, err := caller.Churn(n.ctx(), &api.Cycles{To: "server", Count: count})
		if err != nil || r.OK != int64(count) {
			t.Fatalf("churn: %v, %+v", err, r)
		}
	}
	kernel, plugin := k.cmd.Process.Pid, n.process("transport-uds").PID
	type holdings struct{ kernel, plugin, serverFDs, serverGo, callerFDs, callerGo int }
	measure := func() holdings {
		s, serr := server.Vitals(n.ctx(), &api.Query{})
		c, cerr := caller.Vitals(n.ctx(), &api.Query{})
		if serr != nil || cerr != nil {
			t.Fatal(serr, cerr)
		}
		return holdings{n.fds(kernel), n.fds(plugin), int(s.FDs), int(s.Goroutines), int(c.FDs), int(c.Goroutines)}
	}
	// What is made once is made, and what is kept for later is there.
	var wg sync.WaitGroup
	for range 16 {
		for _, c := range []api.ProbeClient{server, caller} {
			wg.Go(func() {
				if _, err := c.Sleep(n.ctx(), &api.Pause{MS: 100}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	churn(20)
	// Ends travel: the smallest of many looks is what is really held.
	settled := func() holdings {
		least := measure()
		for range 50 {
			h := measure()
			least = holdings{min(least.kernel, h.kernel), min(least.plugin, h.plugin), min(least.serverFDs, h.serverFDs),
				min(least.serverGo, h.serverGo), min(least.callerFDs, h.callerFDs), min(least.callerGo, h.callerGo)}
		}
		return least
	}
	before := settled()
	churn(300)
	after := settled()
	for end := time.Now().Add(patience); after != before && time.Now().Before(end); {
		after = settled()
	}
	if after != before {
		t.Errorf("held before: %+v, after 300 links: %+v", before, after)
	}
	t.Logf("held: %+v", after)
	kill(t, plugin, syscall.SIGQUIT)
	n.eventually("the plugin is gone, its last words are kept, and another serves", func() bool {
		return gone(plugin) && n.ck("status").code == 0 && strings.Contains(n.want(0, "logs", "transport-uds").out, "rip ")
	})
	checkGoroutines(t, "plugin", n.want(0, "logs", "transport-uds").out)
	k.signal(syscall.SIGQUIT)
	k.exit()
	checkGoroutines(t, "kernel", k.err.String())
}

// checkGoroutines counts in a dump of stacks. 300 links that leave one each
// behind would be 300.
func checkGoroutines(t *testing.T, name, dump string) {
	t.Helper()
	count := 0
	for line := range strings.Lines(dump) {
		if _, text, ok := strings.Cut(line, "goroutine "); ok && strings.Contains(text, "[") && strings.HasSuffix(strings.TrimSpace(text), "]:") {
			count++
		}
	}
	t.Logf("%s: %d goroutines", name, count)
	if count == 0 || count > 250 {
		t.Errorf("%s has %d goroutines:\n%.4000s", name, count, dump)
	}
}

// One static file and the cells: no shell, no library, no /etc, no /tmp.
func TestStaticBinaryInAnEmptyRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it changes the root directory")
	}
	t.Parallel()
	root, err := os.MkdirTemp("", "cke")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for _, dir := range []string{"proc", "dev", "app", "run"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range map[string]string{"cellkernel": binary, "probe": probe} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), b, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	genome := `
[workspace]
main = "job"
[cells.server]
command = ["/probe", "serve"]
replicas = 2
[cells.job]
command = ["/probe", "once", "3", "server"]
job = true
axons = { server = "axon://server" }
`
	if err := os.WriteFile(filepath.Join(root, "app/genome.toml"), []byte(genome), 0o600); err != nil {
		t.Fatal(err)
	}
	null := filepath.Join(root, "dev/null")
	if err := syscall.Mknod(null, syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Skipf("can not make a device: %v", err)
	}
	// A mount namespace of its own: its /proc goes with it.
	cmd := exec.Command("/cellkernel", "up", "/app")
	proc := filepath.Join(root, "proc")
	if err := syscall.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Skipf("can not mount /proc: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(proc, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setpgid: true}
	cmd.Dir = "/"
	cmd.Env = []string{"XDG_RUNTIME_DIR=/run"}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // ProcessState says it
	if code := cmd.ProcessState.ExitCode(); code != 3 || out.String() != "once from server\n" {
		t.Errorf("exit code %d, want 3; stdout %q; stderr:\n%s", code, out.String(), errs.String())
	}
}
