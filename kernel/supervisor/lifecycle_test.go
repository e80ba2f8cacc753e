package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A fakeChild is a process in virtual time.
type fakeChild struct {
	spec    Spec
	exited  chan struct{}
	once    sync.Once
	exit    Exit
	signals chan syscall.Signal
	deaf    bool // does not end at SIGTERM
}

func (f *fakeChild) PID() int                { return 1 }
func (f *fakeChild) Exited() <-chan struct{} { return f.exited }
func (f *fakeChild) Exit() Exit              { <-f.exited; return f.exit }
func (f *fakeChild) Usage() Reading          { return Reading{} }
func (f *fakeChild) Kill() error {
	f.end(Exit{Exit: sdk.Exit{Code: 137}, Signal: syscall.SIGKILL})
	return nil
}

func (f *fakeChild) Signal(sig syscall.Signal) error {
	f.signals <- sig
	if sig == syscall.SIGTERM && !f.deaf {
		f.end(Exit{})
	}
	return nil
}

func (f *fakeChild) end(e Exit) {
	f.once.Do(func() {
		f.exit = e
		close(f.exited)
	})
}

// A stage is a supervisor in virtual time, and what happened on it.
type stage struct {
	*Supervisor
	mu     sync.Mutex
	births []*fakeChild
	events []string
	began  time.Time
	deaf   atomic.Bool // children born from now on do not end at SIGTERM
}

// birth returns the child that was born with a number, from 1.
func (st *stage) birth(n int) *fakeChild {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.births[n-1]
}

// born returns how many were born.
func (st *stage) born() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.births)
}

// newStage makes a supervisor whose children behave as act says, which runs
// in a goroutine of each.
func newStage(t *testing.T, hooks Hooks, act func(n int, f *fakeChild)) *stage {
	st := &stage{began: time.Now()}
	hooks.Event = func(s Status) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.events = append(st.events, fmt.Sprintf("%v %s %s", time.Since(st.began), s.Replica, s.State))
	}
	var actors sync.WaitGroup
	st.Supervisor = newSupervisor(func(_ context.Context, spec Spec) (child, error) {
		f := &fakeChild{spec: spec, exited: make(chan struct{}), signals: make(chan syscall.Signal, 9), deaf: st.deaf.Load()}
		st.mu.Lock()
		defer st.mu.Unlock()
		st.births = append(st.births, f)
		n := len(st.births)
		actors.Go(func() { act(n, f) })
		return f, nil
	}, hooks, nil)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := st.Close(ctx); err != nil {
			t.Error(err)
		}
		actors.Wait()
	})
	return st
}

// states returns the states of replica 1 in order.
func (st *stage) states() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []string
	for _, e := range st.events {
		s := e[strings.LastIndexByte(e, ' ')+1:]
		if len(out) == 0 || out[len(out)-1] != s {
			out = append(out, s)
		}
	}
	return out
}

func (st *stage) start(t *testing.T, spec CellSpec) {
	t.Helper()
	spec.Argv = []string{"x"}
	if spec.Replicas == 0 {
		spec.Replicas = 1
	}
	if err := st.Add(spec); err != nil {
		t.Fatal(err)
	}
	if err := st.Start(t.Context(), spec.Name); err != nil {
		t.Fatal(err)
	}
}

func forever(int, *fakeChild) {}

func TestWhoAwaitsAChangeLearnsOfItAfterItWasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Bool
		s := newSupervisor(func(_ context.Context, spec Spec) (child, error) {
			return &fakeChild{spec: spec, exited: make(chan struct{}), signals: make(chan syscall.Signal, 9)}, nil
		}, Hooks{Event: func(st Status) {
			if st.State == Ready {
				time.Sleep(time.Second) // virtual
				told.Store(true)
			}
		}}, nil)
		defer s.Close(t.Context())
		if err := s.Add(CellSpec{Name: "w", Argv: []string{"x"}, Replicas: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		if err := s.WaitReady(t.Context(), "w"); err != nil || !told.Load() {
			t.Errorf("error %v, told: %v", err, told.Load())
		}
	})
}

func TestCrashloopIsRetriedAndForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cured atomic.Bool
		st := newStage(t, Hooks{}, func(n int, f *fakeChild) {
			time.Sleep(2 * time.Second)
			if !cured.Load() {
				f.end(Exit{Exit: sdk.Exit{Code: 1}})
			}
		})
		st.start(t, CellSpec{Name: "w"})
		time.Sleep(13 * time.Second) // six lives of two seconds, each replaced at once
		synctest.Wait()
		if got := st.List()[0]; got.State != Crashloop || got.Restarts != 5 || got.Exit.Code != 1 {
			t.Fatalf("%+v after %v", got, st.events)
		}
		if err := st.WaitReady(t.Context(), "w"); err == nil || err.Error() !=
			`start cell "w": replica 1: exit status 1; restart budget used up` {
			t.Errorf("wait: %v", err)
		}
		cured.Store(true)
		time.Sleep(40 * time.Second) // retried after 30 s, give or take a fifth
		synctest.Wait()
		if got := st.List()[0]; got.State != Ready || got.Restarts != 6 {
			t.Fatalf("%+v after %v", got, st.events)
		}
	})
}

func TestCrashAfterServiceIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, forever)
		st.start(t, CellSpec{Name: "w"})
		time.Sleep(time.Minute)
		st.birth(1).end(Exit{Signal: syscall.SIGKILL})
		time.Sleep(settle)
		synctest.Wait()
		if got := st.List()[0]; got.State != Ready || got.Incarnation != 2 {
			t.Errorf("%+v after %v", got, st.events)
		}
	})
}

func TestBootFailureIsFinalAndToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := func(cell sdk.CellName, i int) []string { return []string{"panic: no config", "at main.go:7"} }
		st := newStage(t, Hooks{LastLines: lines}, func(n int, f *fakeChild) {
			f.end(Exit{Exit: sdk.Exit{Code: 3}})
		})
		st.start(t, CellSpec{Name: "w", Ready: ReadyByCell})
		err := st.WaitReady(t.Context(), "w")
		want := "start cell \"w\": replica 1: exit status 3 before it was ready\n  | panic: no config\n  | at main.go:7"
		var se *StartError
		if !errors.As(err, &se) || err.Error() != want || se.State != Failed {
			t.Errorf("got %v, want %s", err, want)
		}
		time.Sleep(time.Hour)
		if st.born() != 1 {
			t.Errorf("%d starts", st.born())
		}
	})
}

func TestReadyComesFromTheCellOfThisLifeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, forever)
		st.start(t, CellSpec{Name: "w", Ready: ReadyByCell})
		synctest.Wait()
		id := st.List()[0].Replica
		for _, wrong := range []Replica{{}, {"w", 1, id.Incarnation + 1}, {"w", 2, id.Incarnation}, {"v", 1, 1}} {
			if st.Ready(wrong) || st.Hung(wrong, "") {
				t.Errorf("%s was believed", wrong)
			}
		}
		if !st.Ready(id) || st.Ready(id) {
			t.Error("ready counts once")
		}
		if err := st.WaitReady(t.Context(), "w"); err != nil {
			t.Error(err)
		}
		if id.String() != "w#1@1" {
			t.Errorf("id %s", id)
		}
	})
}

func TestStartThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, forever)
		st.start(t, CellSpec{Name: "w", Ready: ReadyByCell, StartTimeout: 4 * time.Second})
		st.start(t, CellSpec{Name: "job", Ready: ReadyByCell, Job: true, StartTimeout: time.Second})
		err := st.WaitReady(t.Context(), "w")
		if err == nil || !strings.Contains(err.Error(), "not ready within 4s: if it does not speak the sdk give it ready = {") {
			t.Error(err)
		}
		if d := time.Since(st.began); d != 4*time.Second {
			t.Errorf("after %s", d)
		}
		if got := st.List()[0]; got.Cell != "job" || got.State != Starting {
			t.Errorf("a job has time: %+v", got)
		}
	})
}

func TestDrainAsksThenTermsThenKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		var askedFor time.Duration
		began := time.Now()
		st := newStage(t, Hooks{Drain: func(ctx context.Context, r Replica) error {
			asked = append(asked, r.String())
			began = time.Now()
			<-ctx.Done()
			askedFor = time.Since(began)
			return ctx.Err()
		}}, forever)
		st.deaf.Store(true)
		st.start(t, CellSpec{Name: "w", DrainTimeout: 3 * time.Second})
		time.Sleep(time.Minute)
		if err := st.Stop(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		f := st.birth(1)
		if !slices.Equal(asked, []string{"w#1@1"}) || askedFor != 3*time.Second ||
			<-f.signals != syscall.SIGTERM || f.exit.Signal != syscall.SIGKILL {
			t.Errorf("asked %v for %s, exit %s", asked, askedFor, f.exit)
		}
		if got := st.states(); !slices.Equal(got, []string{"starting", "ready", "draining", "stopped"}) {
			t.Errorf("states %v", got)
		}
	})
}

func TestDrainEndsWhenTheProcessDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var st *stage
		st = newStage(t, Hooks{Drain: func(ctx context.Context, r Replica) error {
			time.Sleep(time.Second)
			st.birth(1).end(Exit{})
			<-ctx.Done()
			return ctx.Err()
		}}, forever)
		st.start(t, CellSpec{Name: "w"})
		time.Sleep(time.Minute)
		if err := st.Stop(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(st.began); d != time.Minute+time.Second {
			t.Errorf("took until %s", d)
		}
	})
}

func TestHungGetsAQuitAndASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, forever)
		st.start(t, CellSpec{Name: "w"})
		time.Sleep(time.Minute)
		st.Hung(st.List()[0].Replica, "no answer for 3s")
		st.Hung(st.List()[0].Replica, "again")
		time.Sleep(quitWait - 1)
		synctest.Wait()
		f := st.birth(1)
		if <-f.signals != syscall.SIGQUIT || exited(f) {
			t.Fatal("want SIGQUIT first, and a second")
		}
		time.Sleep(1 + settle)
		synctest.Wait()
		if got := st.List()[0]; !exited(f) || got.State != Ready || got.Incarnation != 2 {
			t.Errorf("%+v", got)
		}
	})
}

func TestRestartGoesOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, forever)
		st.start(t, CellSpec{Name: "w", Replicas: 4})
		time.Sleep(time.Second)
		if err := st.Restart(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		missing := map[string]bool{}
		for _, e := range st.events[slices.IndexFunc(st.events, func(e string) bool {
			return strings.HasSuffix(e, "draining")
		}):] {
			f := strings.Fields(e)
			name, _, _ := strings.Cut(f[1], "@")
			missing[name] = f[2] != "ready"
			n := 0
			for _, m := range missing {
				if m {
					n++
				}
			}
			if n > 1 {
				t.Fatalf("%d replicas were away at once: %v", n, st.events)
			}
		}
		if len(missing) != 4 || len(st.births) != 8 {
			t.Errorf("%d replaced, %d starts", len(missing), len(st.births))
		}
	})
}

func TestUpdateStopsAtTheFirstBadReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, func(n int, f *fakeChild) {
			if f.spec.Dir == "bad" {
				f.end(Exit{Exit: sdk.Exit{Code: 9}})
			}
		})
		st.start(t, CellSpec{Name: "w", Replicas: 3})
		time.Sleep(time.Second)
		err := st.Update(t.Context(), CellSpec{Name: "w", Argv: []string{"x"}, Dir: "bad", Replicas: 5})
		var se *StartError
		if !errors.As(err, &se) || se.Replica.Index != 1 || se.Reason != "exit status 9" {
			t.Fatalf("%v", err)
		}
		for _, s := range st.List()[1:] {
			if s.State != Ready || s.Restarts != 0 {
				t.Errorf("%+v", s)
			}
		}
		if err := st.Update(t.Context(), CellSpec{Name: "w", Argv: []string{"x"}, Dir: "good", Replicas: 5}); err != nil {
			t.Fatal(err)
		}
		if err := st.WaitReady(t.Context(), "w"); err != nil || len(st.List()) != 5 {
			t.Errorf("%v, %d replicas", err, len(st.List()))
		}
	})
}

func TestScaleAndStopAndStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, forever)
		st.start(t, CellSpec{Name: "w", Replicas: 2})
		count := func(want State, n int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			all := st.List()
			got := 0
			for i, s := range all {
				if s.State == want && s.Index == i+1 {
					got++
				}
			}
			if got != n || len(all) != n {
				t.Errorf("%d of %d are %s, want %d", got, len(all), want, n)
			}
		}
		do := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		count(Ready, 2)
		do(st.Scale(t.Context(), "w", 5))
		count(Ready, 5)
		do(st.Scale(t.Context(), "w", 1))
		count(Ready, 1)
		do(st.Stop(t.Context(), "w"))
		count(Stopped, 1)
		do(st.Scale(t.Context(), "w", 3))
		count(Stopped, 3)
		do(st.Update(t.Context(), CellSpec{Name: "w", Argv: []string{"y"}, Replicas: 2}))
		count(Stopped, 2)
		do(st.Start(t.Context(), "w"))
		count(Ready, 2)
		if last := st.birth(st.born()).spec.Argv[0]; last != "y" {
			t.Errorf("runs %q", last)
		}
		do(st.Scale(t.Context(), "w", 0))
		count(Ready, 0)
		do(st.Scale(t.Context(), "w", 1))
		count(Ready, 1)
		do(st.Remove(t.Context(), "w"))
		if err := st.Start(t.Context(), "w"); sdk.CodeOf(err) != sdk.CodeNotFound {
			t.Error(err)
		}
	})
}

func TestJobEndsWithItsCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, Hooks{}, func(n int, f *fakeChild) {
			time.Sleep(time.Minute)
			f.end(Exit{Exit: sdk.Exit{Code: n - 1}})
		})
		for _, want := range []State{Done, Failed} {
			name := sdk.CellName(want)
			st.start(t, CellSpec{Name: name, Job: true})
			code, err := st.WaitDone(t.Context(), name)
			if err != nil || (code == 0) != (want == Done) {
				t.Errorf("%s: %d, %v", want, code, err)
			}
			if got := st.List(); got[slices.IndexFunc(got, func(s Status) bool { return s.Cell == name })].State != want {
				t.Errorf("%+v", got)
			}
		}
		st.start(t, CellSpec{Name: "long", Job: true})
		synctest.Wait()
		if err := st.Stop(t.Context(), "long"); err != nil {
			t.Error(err)
		}
		if _, err := st.WaitDone(t.Context(), "long"); err == nil {
			t.Error("a stopped job has no code")
		}
	})
}

func TestCloseGoesBackwardsAndObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		st := newStage(t, Hooks{Exited: func(r Replica, e Exit) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, fmt.Sprintf("%s %s", r.Cell, e))
		}}, forever)
		st.start(t, CellSpec{Name: "a"})
		synctest.Wait()
		st.deaf.Store(true)
		st.start(t, CellSpec{Name: "b"})
		st.start(t, CellSpec{Name: "rest"})
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := st.Close(ctx, "a", "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		slices.Sort(order[1:]) // a and the rest end together
		want := []string{"b killed by SIGKILL", "a exit status 0", "rest killed by SIGKILL"}
		if !slices.Equal(order, want) {
			t.Errorf("got %v, want %v", order, want)
		}
		if d := time.Since(st.began); d != 3*time.Second {
			t.Errorf("took until %s", d)
		}
		if err := st.Start(t.Context(), "a"); sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("start after close: %v", err)
		}
	})
}

func TestSpecErrors(t *testing.T) {
	st := newStage(t, Hooks{}, forever)
	ok := CellSpec{Name: "w", Argv: []string{"x"}}
	for _, change := range []func(*CellSpec){
		func(c *CellSpec) { c.Name = "W" },
		func(c *CellSpec) { c.Argv = nil },
		func(c *CellSpec) { c.Replicas = MaxReplicas + 1 },
		func(c *CellSpec) { c.Replicas = -1 },
		func(c *CellSpec) { c.Restart = "sometimes" },
		func(c *CellSpec) { c.Ready = "soon" },
		func(c *CellSpec) { c.Ready = ReadyByProbe },
		func(c *CellSpec) { c.Ready, c.Probe = ReadyByProbe, Probe{TCP: "x", HTTP: "y"} },
	} {
		bad := ok
		change(&bad)
		if err := st.Add(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
	if err := st.Add(ok); err != nil {
		t.Error(err)
	}
	if err := st.Add(ok); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("twice: %v", err)
	}
}
