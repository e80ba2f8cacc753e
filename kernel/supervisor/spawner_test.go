package supervisor_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
)

// everyWay runs f with cgroups and without.
func everyWay(t *testing.T, f func(t *testing.T, s *supervisor.Spawner)) {
	for _, groups := range []string{"cgroup", "none"} {
		t.Run(groups, func(t *testing.T) { f(t, newSpawner(t, groups)) })
	}
}

// run spawns spec, reads all of its output and waits for it.
func run(t *testing.T, s *supervisor.Spawner, spec supervisor.Spec) (string, supervisor.Exit) {
	t.Helper()
	p, err := s.Spawn(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(io.MultiReader(p.Stdout, p.Stderr))
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout.Close()
	p.Stderr.Close()
	e, err := p.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(out), e
}

func TestChildSeesExactlyWhatItWasGiven(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		extra, err := os.Create(filepath.Join(t.TempDir(), "extra"))
		if err != nil {
			t.Fatal(err)
		}
		defer extra.Close()
		self, err := os.Open("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		defer self.Close()
		dir := t.TempDir()
		base := supervisor.Spec{
			Name: "show", Argv: program(t, "show"), Dir: dir,
			Env:   []string{"A=1", "CELLKERNEL_RUN=forged"},
			Files: []*os.File{extra},
		}
		byFile, stubbed, both := base, base, base
		byFile.Exe = self
		stubbed.Stub = supervisor.Stub{NoNewPrivs: true}
		both.Exe, both.Stub = self, stubbed.Stub
		for name, spec := range map[string]supervisor.Spec{
			"by path": base, "by descriptor": byFile, "stub": stubbed, "stub by descriptor": both,
		} {
			out, e := run(t, s, spec)
			if e.Code != 0 {
				t.Errorf("%s: %s", name, e)
			}
			var fds, envs []string
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); f[0] == "fd" {
					fds = append(fds, f[1])
				} else if f[0] == "env" {
					envs = append(envs, f[1])
				}
			}
			if want := []string{"0", "1", "2", "3"}; !slices.Equal(fds, want) {
				t.Errorf("%s: descriptors %v, want %v in\n%s", name, fds, want, out)
			}
			if len(envs) != 2 || !strings.HasPrefix(envs[0], "CELLKERNEL_RUN="+s.RunID()+".") || envs[1] != "A=1" {
				t.Errorf("%s: environment %q", name, envs)
			}
			if !strings.Contains(out, "dir "+dir+"\n") || !strings.Contains(out, "fd 0 /dev/null") ||
				!strings.Contains(out, "fd 3 "+extra.Name()) {
				t.Errorf("%s: got\n%s", name, out)
			}
			if group, _ := s.Cgroup(); group != "" && !strings.Contains(out, "/cellkernel-"+s.RunID()+"/show.") {
				t.Errorf("%s: not in its cgroup:\n%s", name, out)
			}
		}
	})
}

func TestStubAppliesItsPlan(t *testing.T) {
	s := newSpawner(t, "any")
	out, e := run(t, s, supervisor.Spec{Name: "x", Argv: program(t, "show"), Stub: supervisor.Stub{
		NoNewPrivs: true,
		Rlimits:    []supervisor.Rlimit{{Name: "core", Soft: 0, Hard: 0}, {Name: "nofile", Soft: 64, Hard: 64}},
	}})
	if e.Code != 0 || !strings.Contains(out, "core 0\n") || !strings.Contains(out, "nnp 1\n") {
		t.Errorf("%s:\n%s", e, out)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/no/such/runner\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	stub := supervisor.Stub{NoNewPrivs: true}
	path := []string{"PATH=" + dir}
	tests := []struct {
		what string
		spec supervisor.Spec
		want string
	}{
		{"missing runner", supervisor.Spec{Argv: []string{"python9"}, Env: path},
			`start "x": exec "python9": not found in PATH "` + dir + `"`},
		{"missing file", supervisor.Spec{Argv: []string{"/no/such"}},
			`start "x": exec "/no/such": no such file or directory`},
		{"missing interpreter", supervisor.Spec{Argv: []string{script}},
			`start "x": exec "` + script + `": the program its first line names does not exist`},
		{"not executable", supervisor.Spec{Argv: []string{text}},
			`start "x": exec "` + text + `": permission denied`},
		{"missing directory", supervisor.Spec{Argv: []string{"/bin/true"}, Dir: dir + "/no"},
			`start "x": working directory: stat ` + dir + `/no: no such file or directory`},
		{"stub, missing file", supervisor.Spec{Argv: []string{"/no/such"}, Stub: stub},
			`start "x": exec "/no/such": no such file or directory`},
		{"stub, bad limit", supervisor.Spec{Argv: []string{"/bin/true"}, Stub: supervisor.Stub{
			Rlimits: []supervisor.Rlimit{{Name: "speed"}}}}, `start "x": rlimit "speed": unknown`},
		{"stub, missing group", supervisor.Spec{Argv: []string{"/bin/true"}, Stub: supervisor.Stub{
			Join: []string{dir + "/no"}}},
			`start "x": join cgroup: open ` + dir + `/no/cgroup.procs: no such file or directory`},
		{"no command", supervisor.Spec{}, `start "x": a name and a command are required`},
		{"foreign cgroup", supervisor.Spec{Argv: []string{"/bin/true"}, Cgroup: "/sys/fs/cgroup"}, "cgroup"},
	}
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		before := openFiles(t)
		for _, tt := range tests {
			tt.spec.Name = "x"
			p, err := s.Spawn(t.Context(), tt.spec)
			if err == nil {
				t.Errorf("%s: started process %d", tt.what, p.PID())
				continue
			}
			if got := err.Error(); got != tt.want && (tt.want != "cgroup" || !strings.Contains(got, "cgroup")) {
				t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.want)
			}
		}
		if dir, _ := s.Cgroup(); dir != "" {
			if left, _ := filepath.Glob(dir + "/x.*"); len(left) > 0 {
				t.Errorf("cgroups left: %v", left)
			}
		}
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors open, before %d", after, before)
		}
	})
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestKillReachesWhateverADescendantDoes(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		p, err := s.Spawn(t.Context(), supervisor.Spec{Name: "stubborn", Argv: program(t, "stubborn", "3")})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Stderr.Close()
		defer p.Stdout.Close()
		pids := pidsOf(t, bufio.NewScanner(p.Stdout), 4)
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("process %d lives", pid)
			}
		}
		if e := p.Exit(); e.Signal != syscall.SIGKILL || e.Code != 137 || e.String() != "killed by SIGKILL" {
			t.Errorf("exit %+v (%s)", e, e)
		}
		if err := p.Kill(); err != nil {
			t.Errorf("second kill: %v", err)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("signal after the end: %v", err)
		}
		if _, err := os.Stat(p.Cgroup()); p.Cgroup() != "" && err == nil {
			t.Errorf("cgroup %s is left", p.Cgroup())
		}
	})
}

func TestNothingOutlivesTheChild(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		p, err := s.Spawn(t.Context(), supervisor.Spec{Name: "orphan", Argv: program(t, "orphan")})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Stderr.Close()
		defer p.Stdout.Close()
		pids := pidsOf(t, bufio.NewScanner(p.Stdout), 2)
		e, err := p.Wait(t.Context())
		if err != nil || e.String() != "exit status 0" {
			t.Fatalf("%s, %v", e, err)
		}
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("process %d lives", pid)
			}
		}
	})
}

func TestUsageCountsAndStays(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		p, err := s.Spawn(t.Context(), supervisor.Spec{Name: "burn", Argv: program(t, "burn", "200")})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Stderr.Close()
		defer p.Stdout.Close()
		if line, err := bufio.NewReader(p.Stdout).ReadString('\n'); line != "burnt\n" {
			t.Fatalf("%q, %v", line, err)
		}
		// procfs counts in ticks of 10 ms, one for each of the two times.
		live := p.Usage()
		if live.CPU < 180*time.Millisecond || live.RSS < 1<<20 {
			t.Errorf("live: %+v", live)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		last := p.Usage()
		if last.CPU < live.CPU || last.RSS != 0 {
			t.Errorf("at the end %+v, before %+v", last, live)
		}
		if e := p.Exit(); e.CPU < 200*time.Millisecond || e.MaxRSS < 1<<20 {
			t.Errorf("exit: %+v", e)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		before := openFiles(t)
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				p, err := s.Spawn(t.Context(), supervisor.Spec{
					Name: fmt.Sprintf("worker#%d@1", i), Argv: program(t, "exit", "7", "hello"),
				})
				if err != nil {
					t.Error(err)
					return
				}
				out, err := io.ReadAll(p.Stdout)
				if string(out) != "hello\n" || err != nil {
					t.Errorf("said %q, %v", out, err)
				}
				p.Stdout.Close()
				p.Stderr.Close()
				if e := p.Exit(); e.Code != 7 {
					t.Errorf("%s", e)
				}
			})
		}
		all.Wait()
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors open, before %d", after, before)
		}
	})
}

func TestSpawnObeysItsContext(t *testing.T) {
	s := newSpawner(t, "any")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, stub := range []supervisor.Stub{{}, {NoNewPrivs: true}} {
		p, err := s.Spawn(ctx, supervisor.Spec{Name: "x", Argv: program(t, "serve"), Stub: stub})
		if err == nil {
			// The fork may win against a context that is over.
			p.Stdout.Close()
			p.Stderr.Close()
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestCloseKillsWhatIsLeft(t *testing.T) {
	for _, groups := range []string{"cgroup", "none"} {
		s := newSpawner(t, groups)
		p, err := s.Spawn(t.Context(), supervisor.Spec{Name: "stubborn", Argv: program(t, "stubborn", "1")})
		if err != nil {
			t.Fatal(err)
		}
		pids := pidsOf(t, bufio.NewScanner(p.Stdout), 2)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("process %d lives", pid)
			}
		}
		if dir, _ := s.Cgroup(); dir != "" {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
		}
		if _, err := s.Spawn(t.Context(), supervisor.Spec{Name: "x", Argv: []string{"/bin/true"}}); err == nil {
			t.Error("spawned after Close")
		}
	}
}

func TestLimitsThatNobodyEnforcesAreErrors(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		p, err := s.Spawn(t.Context(), supervisor.Spec{
			Name: "x", Argv: program(t, "serve"), Limits: sdk.Limits{Memory: 1 << 30},
		})
		if err == nil {
			data, rerr := os.ReadFile(filepath.Join(p.Cgroup(), "memory.max"))
			if strings.TrimSpace(string(data)) != "1073741824" {
				t.Errorf("memory.max %q, %v", data, rerr)
			}
		} else if !strings.Contains(err.Error(), "cgroup") {
			t.Error(err)
		}
	})
}

func TestPidFDPollsReadableAtTheEnd(t *testing.T) {
	s := newSpawner(t, "any")
	p, err := s.Spawn(t.Context(), supervisor.Spec{Name: "x", Argv: program(t, "serve")})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := p.PidFD()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("no pidfd")
	}
	if err != nil || p.StartTime() == 0 {
		t.Fatal(err, p.StartTime())
	}
	defer fd.Close()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, time.Second, p.PID())
}
