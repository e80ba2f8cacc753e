package supervisor_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
)

// A recorder is the hooks of a supervisor over real processes: it keeps the
// output and wakes whoever waits for an event.
type recorder struct {
	mu     sync.Mutex
	lines  map[sdk.CellName][]string
	events chan supervisor.Status
	wrote  chan struct{} // of capacity 1: there are new lines
}

func (rec *recorder) hooks() supervisor.Hooks {
	return supervisor.Hooks{
		Output: rec.output,
		LastLines: func(cell sdk.CellName, _ int) []string {
			rec.mu.Lock()
			defer rec.mu.Unlock()
			return rec.lines[cell]
		},
		Event: func(s supervisor.Status) { rec.events <- s },
	}
}

func (rec *recorder) output(r supervisor.Replica, stdout, stderr *os.File) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, f := range []*os.File{stdout, stderr} {
			for s := bufio.NewScanner(f); s.Scan(); {
				rec.mu.Lock()
				rec.lines[r.Cell] = append(rec.lines[r.Cell], s.Text())
				rec.mu.Unlock()
				select {
				case rec.wrote <- struct{}{}:
				default:
				}
			}
			f.Close()
		}
	}()
	return done
}

// heard waits until a cell has written n lines that begin with prefix: its
// processes are ready by the supervisor's rules before they have done anything.
func (rec *recorder) heard(t *testing.T, name sdk.CellName, prefix string, n int) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		rec.mu.Lock()
		have := 0
		for _, line := range rec.lines[name] {
			if strings.HasPrefix(line, prefix) {
				have++
			}
		}
		rec.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-rec.wrote:
		case <-timeout:
			t.Fatalf("%d lines of %q begin with %q, want %d", have, name, prefix, n)
		}
	}
}

// await returns the next event that is in a state.
func (rec *recorder) await(t *testing.T, want supervisor.State) supervisor.Status {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case s := <-rec.events:
			if s.State == want {
				return s
			}
		case <-timeout:
			t.Fatalf("nothing became %s", want)
		}
	}
}

func newSupervisor(t *testing.T, s *supervisor.Spawner, change func(*supervisor.Hooks)) (*supervisor.Supervisor, *recorder) {
	t.Helper()
	rec := &recorder{lines: make(map[sdk.CellName][]string), events: make(chan supervisor.Status, 10_000), wrote: make(chan struct{}, 1)}
	hooks := rec.hooks()
	if change != nil {
		change(&hooks)
	}
	sup := supervisor.New(s, hooks, nil)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := sup.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return sup, rec
}

// start adds a cell and starts it.
func start(t *testing.T, sup *supervisor.Supervisor, spec supervisor.CellSpec) {
	t.Helper()
	if spec.Replicas == 0 {
		spec.Replicas = 1
	}
	if err := sup.Add(spec); err != nil {
		t.Fatal(err)
	}
	if err := sup.Start(t.Context(), spec.Name); err != nil {
		t.Fatal(err)
	}
}

func TestKilledReplicaComesBack(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		sup, rec := newSupervisor(t, s, nil)
		start(t, sup, supervisor.CellSpec{Name: "w", Argv: program(t, "serve"), Replicas: 3})
		if err := sup.WaitReady(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		victim := sup.List()[1]
		if victim.PID == 0 || victim.Usage.RSS == 0 || victim.State != supervisor.Ready {
			t.Fatalf("%+v", victim)
		}
		rec.heard(t, "w", "up", 3)
		syscall.Kill(victim.PID, syscall.SIGKILL)
		if b := rec.await(t, supervisor.Backoff); b.Reason != "killed by SIGKILL" || b.Index != 2 {
			t.Errorf("%+v", b)
		}
		if err := sup.WaitReady(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		rec.heard(t, "w", "up", 4)
		next := sup.List()[1]
		if next.PID == victim.PID || next.Incarnation <= 3 || next.Restarts != 1 || next.Exit.Code != 137 {
			t.Errorf("%+v", next)
		}
		if err := sup.Stop(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		rec.mu.Lock()
		defer rec.mu.Unlock()
		down := 0
		for _, line := range rec.lines["w"] {
			if line == "down" {
				down++
			}
		}
		if down != 3 {
			t.Errorf("%d replicas heard SIGTERM: %q", down, rec.lines["w"])
		}
	})
}

func TestCellThatExitsAtStartIsNamedWithItsLastLines(t *testing.T) {
	sup, _ := newSupervisor(t, newSpawner(t, "any"), nil)
	start(t, sup, supervisor.CellSpec{
		Name: "books", Argv: program(t, "exit", "3", "open config: no such file"), Ready: supervisor.ReadyByCell,
	})
	start(t, sup, supervisor.CellSpec{Name: "gone", Argv: []string{"/no/such/program"}})
	want := "start cell \"books\": replica 1: exit status 3 before it was ready\n  | open config: no such file"
	if err := sup.WaitReady(t.Context(), "books"); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	err := sup.WaitReady(t.Context(), "gone")
	var se *supervisor.StartError
	if !errors.As(err, &se) || !strings.Contains(se.Reason, `exec "/no/such/program": no such file or directory`) {
		t.Error(err)
	}
}

func TestJobCode(t *testing.T) {
	sup, _ := newSupervisor(t, newSpawner(t, "any"), nil)
	start(t, sup, supervisor.CellSpec{Name: "job", Argv: program(t, "exit", "5"), Job: true})
	if code, err := sup.WaitDone(t.Context(), "job"); code != 5 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
}

func TestLaunchBelongsToOneLife(t *testing.T) {
	var mu sync.Mutex
	open, started := 0, map[supervisor.Replica]int{}
	extra := filepath.Join(t.TempDir(), "extra")
	sup, rec := newSupervisor(t, newSpawner(t, "any"), func(h *supervisor.Hooks) {
		h.Start = func(_ context.Context, r supervisor.Replica, c supervisor.CellSpec) (supervisor.Launch, error) {
			f, err := os.Create(extra)
			mu.Lock()
			defer mu.Unlock()
			open++
			return supervisor.Launch{
				Env: []string{"CELLKERNEL_FD=3", "ID=" + r.String()}, Files: []*os.File{f},
				Close: func() {
					mu.Lock()
					defer mu.Unlock()
					open--
				},
			}, err
		}
		h.Started = func(r supervisor.Replica, p *supervisor.Process) {
			mu.Lock()
			defer mu.Unlock()
			started[r] = p.PID()
		}
	})
	start(t, sup, supervisor.CellSpec{Name: "show", Argv: program(t, "show"), Job: true, Env: []string{"A=1"}})
	start(t, sup, supervisor.CellSpec{Name: "none", Argv: []string{"/no/such"}, Job: true})
	for _, name := range []sdk.CellName{"show", "none"} {
		_, _ = sup.WaitDone(t.Context(), name)
	}
	out := strings.Join(rec.lines["show"], "\n")
	for _, want := range []string{"env A=1", "env CELLKERNEL_FD=3", "env ID=show#1@", "fd 3 " + extra} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if open != 0 || len(started) != 1 {
		t.Errorf("%d launches open, started %v", open, started)
	}
}

func TestProbes(t *testing.T) {
	var tries sync.WaitGroup
	tries.Add(2)
	left := 2
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if left > 0 { // requests come one after the other
			left--
			tries.Done()
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	webAddr, tcpAddr := web.Listener.Addr().String(), freeAddress(t)
	web.Listener.Close() // what is probed begins after its cell
	began := make(chan sdk.CellName, 4)
	sup, rec := newSupervisor(t, newSpawner(t, "any"), func(h *supervisor.Hooks) {
		h.Started = func(id supervisor.Replica, _ *supervisor.Process) { began <- id.Cell }
	})
	flag := filepath.Join(t.TempDir(), "flag")
	for name, p := range map[sdk.CellName]supervisor.Probe{
		"tcp": {TCP: tcpAddr}, "http": {HTTP: "http://" + webAddr}, "exec": {Exec: []string{"test", "-e", flag}},
	} {
		start(t, sup, supervisor.CellSpec{
			Name: name, Argv: program(t, "serve"), Ready: supervisor.ReadyByProbe, Probe: p,
		})
	}
	for range 3 {
		<-began
	}
	l := listen(t, tcpAddr)
	web.Listener = listen(t, webAddr)
	web.Start()
	defer web.Close()
	for _, name := range []sdk.CellName{"tcp", "http"} {
		if err := sup.WaitReady(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	tries.Wait()
	for _, s := range sup.List() {
		if s.Cell == "exec" && s.State != supervisor.Starting {
			t.Errorf("%+v", s)
		}
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sup.WaitReady(t.Context(), "exec"); err != nil {
		t.Error(err)
	}
	l.Close()
	start(t, sup, supervisor.CellSpec{
		Name: "closed", Argv: program(t, "serve"), Ready: supervisor.ReadyByProbe,
		Probe: supervisor.Probe{TCP: tcpAddr}, StartTimeout: 300 * time.Millisecond,
	})
	err := sup.WaitReady(t.Context(), "closed")
	if err == nil || !strings.Contains(err.Error(), "not ready within 300ms: dial tcp "+tcpAddr+": connect: connection refused\n") {
		t.Error(err)
	}
	rec.await(t, supervisor.Failed)
}

// A probe that somebody else's process answers says nothing about the cell.
func TestProbedAddressInUse(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	sup, _ := newSupervisor(t, newSpawner(t, "any"), nil)
	for name, p := range map[sdk.CellName]supervisor.Probe{"tcp": {TCP: addr}, "http": {HTTP: "http://" + addr + "/health"}} {
		start(t, sup, supervisor.CellSpec{Name: name, Argv: program(t, "serve"), Ready: supervisor.ReadyByProbe, Probe: p})
		err := sup.WaitReady(t.Context(), name)
		want := fmt.Sprintf("start cell %q: replica 1: address %s is in use: another process answers there already", name, addr)
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	l.Close()
	return l.Addr().String()
}

func TestHungProcessWritesItsStacksAndIsReplaced(t *testing.T) {
	sup, rec := newSupervisor(t, newSpawner(t, "any"), nil)
	start(t, sup, supervisor.CellSpec{Name: "w", Argv: program(t, "serve")})
	if err := sup.WaitReady(t.Context(), "w"); err != nil {
		t.Fatal(err)
	}
	if !sup.Hung(sup.List()[0].Replica, "no answer for 3s") {
		t.Fatal("not believed")
	}
	if s := rec.await(t, supervisor.Backoff); s.Reason != "hung: no answer for 3s" {
		t.Errorf("%+v", s)
	}
	if err := sup.WaitReady(t.Context(), "w"); err != nil {
		t.Error(err)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if out := strings.Join(rec.lines["w"], "\n"); !strings.Contains(out, "SIGQUIT: quit") {
		t.Errorf("no stacks in\n%s", out)
	}
}

func TestStopKillsTheDeafWithAllTheirDescendants(t *testing.T) {
	everyWay(t, func(t *testing.T, s *supervisor.Spawner) {
		sup, rec := newSupervisor(t, s, nil)
		start(t, sup, supervisor.CellSpec{
			Name: "w", Argv: program(t, "stubborn", "2"), DrainTimeout: 50 * time.Millisecond,
		})
		if err := sup.WaitReady(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		rec.heard(t, "w", "pid", 3)
		if err := sup.Stop(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		rec.mu.Lock()
		defer rec.mu.Unlock()
		lines := bufio.NewScanner(strings.NewReader(strings.Join(rec.lines["w"], "\n")))
		for _, pid := range pidsOf(t, lines, 3) {
			if alive(pid) {
				t.Errorf("process %d lives", pid)
			}
		}
	})
}

// TestManyLives starts, kills and stops at random, and in the end nothing may
// be left: no process, no descriptor, no cgroup.
func TestManyLives(t *testing.T) {
	s := newSpawner(t, "any")
	before := openFiles(t)
	sup, _ := newSupervisor(t, s, nil)
	start(t, sup, supervisor.CellSpec{Name: "a", Argv: program(t, "serve"), Replicas: 4,
		Env:    []string{"GORACE=atexit_sleep_ms=0"}, // else each end takes a second
		Budget: supervisor.Budget{Restarts: 1000, Within: time.Second}})
	if err := sup.WaitReady(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for range 10 {
				switch i {
				case 0:
					for _, st := range sup.List() {
						if st.PID > 0 {
							syscall.Kill(st.PID, syscall.SIGKILL)
							break
						}
					}
					_ = sup.WaitReady(t.Context(), "a")
				case 1:
					_ = sup.Scale(t.Context(), "a", 2)
					_ = sup.Scale(t.Context(), "a", 5)
				case 2:
					_ = sup.Restart(t.Context(), "a")
				case 3:
					_ = sup.Stop(t.Context(), "a")
					_ = sup.Start(t.Context(), "a")
				}
			}
		})
	}
	work.Wait()
	if err := sup.Start(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := sup.WaitReady(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := sup.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open, before %d", after, before)
	}
	if dir, _ := s.Cgroup(); dir != "" {
		if left, _ := filepath.Glob(dir + "/*/cgroup.procs"); len(left) > 0 {
			t.Errorf("cgroups left: %v", left)
		}
	}
}
