package supervisor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/supervisor"
)

// A fakeKernel is a whole kernel in a process of its own.
type fakeKernel struct {
	cmd     *exec.Cmd
	dir     string
	pids    []int // of the stubborn cell
	sweeper int
	cgroup  string
}

func startKernel(t *testing.T, groups string) *fakeKernel {
	t.Helper()
	k := &fakeKernel{dir: t.TempDir()}
	argv := program(t, "kernel", k.dir, groups)
	k.cmd = exec.Command(argv[0], argv[1:]...)
	k.cmd.Stderr = os.Stderr
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.cmd.Process.Kill()
		k.cmd.Wait()
		if st, err := supervisor.LoadState(filepath.Join(k.dir, "state.json")); err == nil {
			_, _ = supervisor.Sweep(context.Background(), st)
		}
	})
	lines := bufio.NewScanner(out)
	k.pids = pidsOf(t, lines, 3)
	for lines.Scan() && lines.Text() != "ready" {
		f := strings.Fields(lines.Text())
		if f[0] == "sweeper" {
			k.sweeper, _ = strconv.Atoi(f[1])
		} else if len(f) > 2 {
			k.cgroup = f[2]
		}
	}
	return k
}

// kill ends the kernel like a power cut, and waits for it.
func (k *fakeKernel) kill() {
	k.cmd.Process.Signal(syscall.SIGKILL)
	k.cmd.Wait()
}

func TestNothingOutlivesAKilledKernel(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 3
	}
	for _, groups := range []string{"cgroup", "none"} {
		t.Run(groups, func(t *testing.T) {
			newSpawner(t, groups) // skips where there are no cgroups
			for range rounds {
				k := startKernel(t, groups)
				k.kill()
				awaitGone(t, 2*time.Second, k.pids...)
				awaitGone(t, 2*time.Second, k.sweeper)
				if left, _ := os.ReadDir(k.dir); len(left) > 0 {
					t.Errorf("left in the run directory: %v", left)
				}
				if _, err := os.Stat(k.cgroup); k.cgroup != "" && err == nil {
					t.Errorf("%s is left", k.cgroup)
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

func TestTheNextKernelSweepsIfTheSweeperDiedToo(t *testing.T) {
	for _, groups := range []string{"cgroup", "none"} {
		t.Run(groups, func(t *testing.T) {
			newSpawner(t, groups)
			k := startKernel(t, groups)
			// Both die together: the kernel can not replace it.
			k.cmd.Process.Signal(syscall.SIGSTOP)
			syscall.Kill(k.sweeper, syscall.SIGKILL)
			awaitGone(t, time.Second, k.sweeper)
			k.kill()
			if !slices.ContainsFunc(k.pids, alive) {
				t.Fatal("nothing is left to sweep")
			}
			st, err := supervisor.LoadState(filepath.Join(k.dir, "state.json"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := supervisor.Sweep(t.Context(), st); err != nil {
				t.Fatal(err)
			}
			awaitGone(t, time.Second, k.pids...)
			if left, _ := os.ReadDir(k.dir); len(left) > 0 {
				t.Errorf("left in the run directory: %v", left)
			}
			if _, err := supervisor.LoadState(filepath.Join(k.dir, "state.json")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("load again: %v", err)
			}
			if n, err := supervisor.Sweep(t.Context(), st); n != 0 || err != nil {
				t.Errorf("sweep again: %d, %v", n, err)
			}
		})
	}
}

func TestSweeperIsReplaced(t *testing.T) {
	s := newSpawner(t, "any")
	dir := t.TempDir()
	w, err := supervisor.StartSweeper(t.Context(), s, s.State(filepath.Join(dir, "state.json")))
	if err != nil {
		t.Fatal(err)
	}
	first := w.PID()
	syscall.Kill(first, syscall.SIGTERM) // which it ignores
	syscall.Kill(first, syscall.SIGKILL)
	awaitGone(t, time.Second, first)
	deadline := time.Now().Add(5 * time.Second)
	for w.PID() == first {
		if time.Now().After(deadline) {
			t.Fatal("no new sweeper")
		}
		time.Sleep(5 * time.Millisecond) // there is no event to wait for
	}
	if !alive(w.PID()) {
		t.Error("the new sweeper is dead")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSweepNeverTouchesAStranger(t *testing.T) {
	s := newSpawner(t, "any")
	stranger, err := s.Spawn(t.Context(), supervisor.Spec{Name: "stranger", Argv: program(t, "serve")})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keep := filepath.Join(dir, "sub", "precious")
	if err := os.MkdirAll(filepath.Dir(keep), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keep, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := supervisor.NewRunID()
	mine, _ := s.Cgroup()
	for _, st := range []supervisor.RunState{
		{RunID: other, Dirs: []string{dir}},
		{RunID: other, Cgroup: mine},
		{RunID: other, Cgroup: "relative/cellkernel-" + other},
		{RunID: other, Cgroup: dir + "/cellkernel-" + other},
		{RunID: other, Dirs: []string{"sub"}},
		{RunID: "", Dirs: []string{dir}},
		{RunID: "x"},
	} {
		n, err := supervisor.Sweep(t.Context(), st)
		if n != 0 {
			t.Errorf("%+v: killed %d, %v", st, n, err)
		}
	}
	if !alive(stranger.PID()) {
		t.Error("the stranger is dead")
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}

func TestSweepLeavesTheNextKernelsSockets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state.json")
	old := supervisor.RunState{RunID: supervisor.NewRunID(), Dirs: []string{dir}, File: file}
	next := supervisor.RunState{RunID: supervisor.NewRunID(), Dirs: []string{dir}, File: file}
	data, err := json.Marshal(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "k.sock")
	if err := syscall.Mknod(sock, syscall.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := supervisor.Sweep(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, sock} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := supervisor.Sweep(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

func FuzzLoadState(f *testing.F) {
	f.Add([]byte(`{"run_id":"00112233445566778899aabbccddeeff","dirs":["/x"]}`))
	f.Add([]byte(`{"run_id":"../..","cgroup":"/sys/fs/cgroup"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "state.json")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := supervisor.LoadState(file)
		if err != nil {
			return
		}
		if len(st.RunID) != 32 || st.Cgroup != "" && filepath.Base(st.Cgroup) != "cellkernel-"+st.RunID {
			t.Errorf("accepted %+v", st)
		}
	})
}
