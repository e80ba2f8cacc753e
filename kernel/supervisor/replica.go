package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	// settle is how long a program that nobody asks must run to count as ready.
	settle = 100 * time.Millisecond
	// quitWait is how long a hung process has to write down where it hangs.
	quitWait = time.Second
	// outputWait bounds the wait for the last output of a process.
	outputWait = 500 * time.Millisecond
)

// A child is what a replica needs of a [Process].
type child interface {
	PID() int
	Exited() <-chan struct{}
	Exit() Exit
	Signal(syscall.Signal) error
	Kill() error
	Usage() Reading
}

// A spawnFunc starts a child.
type spawnFunc func(ctx context.Context, spec Spec) (child, error)

// A replica keeps one process of a cell running, in one goroutine from when
// it is started until it ends for good.
type replica struct {
	sup   *Supervisor
	spec  CellSpec      // the goroutine's
	cycle chan CellSpec // asks for a new life with that spec; holds one

	// The Supervisor's mu guards what follows.
	status Status
	life   *life              // nil while there is no process
	stop   context.CancelFunc // drains and ends the goroutine
	over   chan struct{}      // closed when it has ended
}

// A life is one incarnation.
type life struct {
	id      Replica
	ready   chan struct{} // closed when it is ready
	claimed bool          // somebody closed ready; guarded by the Supervisor's mu
	hung    chan string   // asks for its end, with the reason; holds one
	child   child         // guarded by the Supervisor's mu
	output  <-chan struct{}
	probe   error // why the probe has not succeeded yet; guarded by the Supervisor's mu
}

// An end says how a life ended.
type end struct {
	outcome
	asked bool // for by a stop or a replacement
	// killed says that a process which was asked to end had to be killed.
	killed string
}

// run is the replica's goroutine.
func (r *replica) run(ctx context.Context) {
	var h history
	asked := true // whether somebody wants this life, and no end brought it
	for {
		e := r.live(ctx, asked)
		asked = e.asked
		if ctx.Err() != nil {
			r.to(Stopped, e.killed)
			return
		}
		if e.asked {
			h = history{proven: h.proven || e.ready >= 0}
			continue
		}
		v := h.next(r.spec.policy(), e.outcome, rand.Float64())
		r.to(v.state, v.reason)
		if v.state.Ended() {
			return
		}
		t := time.NewTimer(v.pause)
		select {
		case <-t.C:
		case r.spec = <-r.cycle:
			h, asked = history{proven: h.proven}, true
		case <-ctx.Done():
			r.to(Stopped, v.reason)
			return
		}
		t.Stop()
	}
}

// live runs one incarnation from its start to its end.
func (r *replica) live(ctx context.Context, asked bool) end {
	l := r.begin(asked)
	launch, c, err := r.launch(ctx, l)
	if launch.Close != nil {
		defer launch.Close()
	}
	if err != nil {
		r.bury(l, nil)
		// Whoever reads the reason reads the replica's name beside it.
		reason := strings.TrimPrefix(err.Error(), fmt.Sprintf("start %q: ", l.id))
		return end{outcome: outcome{at: time.Now(), ready: -1, reason: reason}}
	}
	e := r.watch(ctx, l, c)
	select {
	case <-c.Exited():
	default: // it could not be killed: nothing more is known
		r.bury(l, nil)
		return e
	}
	exit := c.Exit()
	if e.reason == "" {
		e.reason, e.ok, e.exited = exit.String(), exit.Code == 0, true
	}
	r.awaitOutput(l)
	r.bury(l, &exit)
	if f := r.sup.hooks.Exited; f != nil {
		f(l.id, exit)
	}
	return e
}

// begin makes a new incarnation.
func (r *replica) begin(asked bool) *life {
	s := r.sup
	l := &life{ready: make(chan struct{}), hung: make(chan string, 1)}
	s.update(r, func(st *Status) {
		s.incarnation++
		if !asked {
			st.Restarts++
		}
		st.Incarnation = s.incarnation
		st.State, st.Reason, st.Started = Starting, "", time.Now()
		l.id, r.life = st.Replica, l
	})
	return l
}

// to changes the state.
func (r *replica) to(state State, reason string) {
	r.sup.update(r, func(st *Status) { st.State, st.Reason = state, reason })
}

// bury ends the life: from now on nobody can refer to it.
func (r *replica) bury(l *life, exit *Exit) {
	s := r.sup
	s.mu.Lock()
	defer s.mu.Unlock()
	r.life, r.status.PID = nil, 0
	if exit != nil {
		r.status.Exit = exit
	}
	if l.child != nil {
		r.status.Usage = l.child.Usage()
	}
}

// launch starts the process of l.
func (r *replica) launch(ctx context.Context, l *life) (launch Launch, c child, err error) {
	s := r.sup
	if err := r.addressFree(ctx); err != nil {
		return launch, nil, err
	}
	if s.hooks.Start != nil {
		launch, err = s.hooks.Start(ctx, l.id, r.spec)
		defer closeAll(launch.Files)
		if err != nil {
			return launch, nil, err
		}
	}
	spec := Spec{
		Name: l.id.String(), Exe: r.spec.Exe, Argv: r.spec.Argv, Dir: r.spec.Dir,
		Env: slices.Concat(r.spec.Env, launch.Env), Files: launch.Files,
		Cgroup: launch.Cgroup, Limits: r.spec.Limits, Stub: r.spec.Stub,
	}
	spec.Stub.Join = slices.Concat(spec.Stub.Join, launch.Join)
	if launch.Limited {
		spec.Limits = sdk.Limits{}
	}
	if s.hooks.Output == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return launch, nil, err
		}
		defer null.Close()
		spec.Stdout, spec.Stderr = null, null
	}
	c, err = s.spawn(ctx, spec)
	if err != nil {
		return launch, nil, err
	}
	s.update(r, func(st *Status) { st.PID, l.child = c.PID(), c })
	if p, ok := c.(*Process); ok {
		if s.hooks.Output != nil {
			l.output = s.hooks.Output(l.id, p.Stdout, p.Stderr)
		}
		if s.hooks.Started != nil {
			s.hooks.Started(l.id, p)
		}
	}
	return launch, c, nil
}

// addressFree makes sure that a probe will not take somebody else's process
// for this one: nothing may answer before the cell has begun. Replicas that
// share an address are left alone.
func (r *replica) addressFree(ctx context.Context) error {
	addr := r.spec.Probe.address()
	if r.spec.Ready != ReadyByProbe || addr == "" || r.sup.othersLive(r) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if tryTCP(ctx, addr) != nil {
		return nil // nobody is there
	}
	return fmt.Errorf("address %s is in use: another process answers there already", addr)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// watch is with a process from its start to its end. The end's reason is
// empty where the process ended by itself.
func (r *replica) watch(ctx context.Context, l *life, c child) end {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := r.startTimer(hctx, &helpers)
	r.lookForReady(hctx, &helpers, l)
	e := end{outcome: outcome{ready: -1}}
	var since time.Time // when it became ready
	ready := l.ready
	for {
		select {
		case <-c.Exited():
		case <-ready:
			if ready = nil; !exited(c) {
				late, since = nil, time.Now()
				r.to(Ready, "")
				continue
			}
		case <-late:
			e.reason = r.lateReason(l)
			r.kill(c)
		case why := <-l.hung:
			e.reason = "hung: " + why
			r.quit(c)
		case <-ctx.Done():
			e.asked = true
			e.killed = r.drain(l, c, !since.IsZero())
		case r.spec = <-r.cycle:
			e.asked = true
			e.killed = r.drain(l, c, !since.IsZero())
		}
		if e.at = time.Now(); !since.IsZero() {
			e.ready = e.at.Sub(since)
		}
		return e
	}
}

// exited reports whether c has ended.
func exited(c child) bool {
	select {
	case <-c.Exited():
		return true
	default:
		return false
	}
}

// startTimer returns a channel that is closed when the start takes too long.
// Time during which this kernel itself was stopped does not count, because
// then it could not hear that the replica is ready: missed ticks are lost.
func (r *replica) startTimer(ctx context.Context, helpers *sync.WaitGroup) <-chan struct{} {
	if r.spec.Job {
		return nil
	}
	const steps = 40
	timeout := r.spec.StartTimeout
	late := make(chan struct{})
	helpers.Go(func() {
		t := time.NewTicker(max(timeout/steps, time.Millisecond))
		defer t.Stop()
		for range steps {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
		close(late)
	})
	return late
}

// lookForReady makes l ready where that does not come from outside.
func (r *replica) lookForReady(ctx context.Context, helpers *sync.WaitGroup, l *life) {
	s, spec := r.sup, r.spec
	switch {
	case spec.Ready == ReadyAtStart && spec.Job:
		s.Ready(l.id)
	case spec.Ready == ReadyAtStart:
		helpers.Go(func() {
			t := time.NewTimer(settle)
			defer t.Stop()
			select {
			case <-t.C:
				s.Ready(l.id)
			case <-ctx.Done():
			}
		})
	case spec.Ready == ReadyByProbe:
		helpers.Go(func() {
			err := spec.Probe.await(ctx, func(ctx context.Context) error {
				err := spec.Probe.try(ctx, s.spawn, spec)
				s.mu.Lock()
				l.probe = err
				s.mu.Unlock()
				return err
			})
			if err == nil {
				s.Ready(l.id)
			}
		})
	}
}

// lateReason says that a start took too long, and what the probe said last
// or, where the replica itself was to say it, what else could.
func (r *replica) lateReason(l *life) string {
	r.sup.mu.Lock()
	defer r.sup.mu.Unlock()
	reason := fmt.Sprintf("not ready within %s", r.spec.StartTimeout)
	switch {
	case l.probe != nil:
		reason += ": " + l.probe.Error()
	case r.spec.Ready == ReadyByCell:
		reason += ": if it does not speak the sdk give it ready = { tcp | http | exec }"
	}
	return reason
}

// kill ends c, or says that it can not.
func (r *replica) kill(c child) {
	if err := c.Kill(); err != nil {
		r.sup.log.Error("kill a replica", "cell", r.spec.Name, "error", err)
	}
}

// quit ends a process that does not answer. It has a moment to say where it
// is: a Go program writes the stacks of its goroutines.
func (r *replica) quit(c child) {
	if err := c.Signal(syscall.SIGQUIT); err == nil {
		t := time.NewTimer(quitWait)
		defer t.Stop()
		select {
		case <-c.Exited():
			return
		case <-t.C:
		case <-r.sup.hard.Done():
		}
	}
	r.kill(c)
}

// drain ends a process on request: it may finish its work, then it is asked,
// then it is killed, which it returns in words.
func (r *replica) drain(l *life, c child, wasReady bool) (killed string) {
	r.to(Draining, "")
	ctx, cancel := context.WithTimeout(r.sup.hard, r.spec.DrainTimeout)
	defer cancel()
	if f := r.sup.hooks.Drain; f != nil && wasReady {
		asking, done := context.WithCancel(ctx)
		var helper sync.WaitGroup
		helper.Go(func() {
			select {
			case <-c.Exited():
				done()
			case <-asking.Done():
			}
		})
		err := f(asking, l.id)
		done()
		helper.Wait()
		if err != nil && !errors.Is(err, context.Canceled) {
			r.sup.log.Warn("drain", "replica", l.id.String(), "error", err)
		}
	}
	if err := c.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-c.Exited():
			return ""
		case <-ctx.Done():
		}
	}
	r.kill(c)
	if r.sup.hard.Err() != nil {
		return "killed: the time to drain was over"
	}
	return fmt.Sprintf("killed: it had not ended within %s", r.spec.DrainTimeout)
}

// awaitOutput waits until the last output was read, so that whoever hears of
// the end can show it.
func (r *replica) awaitOutput(l *life) {
	if l.output == nil {
		return
	}
	t := time.NewTimer(outputWait)
	defer t.Stop()
	select {
	case <-l.output:
	case <-t.C:
	}
}
