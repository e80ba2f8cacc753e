package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Sweeper is a child that outlives the kernel just long enough to end all
// other children. It is restarted if it dies first.
type Sweeper struct {
	spawner *Spawner
	state   string // encoded
	closing chan struct{}
	watch   sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	proc  *Process
	alarm *os.File // its end of file, also by our death, starts the sweep
}

// StartSweeper saves st and starts the sweeper. Do it before the first spawn.
// Close it after the spawner.
func StartSweeper(ctx context.Context, s *Spawner, st RunState) (*Sweeper, error) {
	if s.opt.Self == nil {
		return nil, errors.New("start sweeper: this spawner does not know its own program")
	}
	if err := st.check(); err != nil {
		return nil, fmt.Errorf("start sweeper: %w", err)
	}
	text, err := st.encode()
	if err == nil {
		err = st.save()
	}
	if err != nil {
		return nil, fmt.Errorf("start sweeper: %w", err)
	}
	w := &Sweeper{spawner: s, state: text, closing: make(chan struct{})}
	if err := w.start(ctx); err != nil {
		return nil, fmt.Errorf("start sweeper: %w", err)
	}
	w.watch.Go(w.keep)
	return w, nil
}

// PID returns the process id of the current sweeper.
func (w *Sweeper) PID() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc.PID()
}

// start starts one process.
func (w *Sweeper) start(ctx context.Context) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	r, alarm, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// It is told before it exists: what it must know fits into the pipe.
	if _, err = alarm.WriteString(w.state); err == nil {
		var p *Process
		p, err = w.spawner.spawnDetached(ctx, Spec{
			Name: "sweeper", Exe: w.spawner.opt.Self, Argv: []string{"cellkernel", SweepCommand},
			Env: []string{}, Dir: "/", Stdin: null, Stdout: null, Stderr: null, Files: []*os.File{r},
		})
		if err == nil {
			w.adopt(p, alarm)
			return nil
		}
	}
	alarm.Close()
	return err
}

// adopt makes p the current sweeper. If Close came first, it may begin.
func (w *Sweeper) adopt(p *Process, alarm *os.File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proc, w.alarm = p, alarm
	select {
	case <-w.closing:
		alarm.Close()
	default:
	}
}

// spawnDetached starts a process that is no part of the run: without mark,
// without cgroup, in its own session, and not dying with the kernel.
func (s *Spawner) spawnDetached(ctx context.Context, spec Spec) (*Process, error) {
	b, err := s.conceive(spec)
	if err != nil {
		return nil, err
	}
	defer s.births.Done()
	b.detach, b.process.detached = true, true
	if err = b.prepare(); err == nil {
		err = s.onThread(ctx, b.start)
	}
	b.release(err != nil)
	if err != nil {
		return nil, err
	}
	return b.process, nil
}

// keep buries a sweeper that died and starts the next.
func (w *Sweeper) keep() {
	for failures := 0; ; failures++ {
		w.mu.Lock()
		p, alarm := w.proc, w.alarm
		w.mu.Unlock()
		began := time.Now()
		p.reap()
		select {
		case <-w.closing:
			return
		default:
		}
		w.spawner.opt.Log.Warn("the sweeper died; starting another", "exit", p.exit.String())
		alarm.Close()
		if time.Since(began) > healthyAfter {
			failures = 0
		}
		for err := w.again(failures); err != nil; err = w.again(failures) {
			if errors.Is(err, errClosed) {
				return
			}
			failures++
			w.spawner.opt.Log.Error("start sweeper", "error", err)
		}
	}
}

// again waits for a pause that grows with the failures and starts one.
func (w *Sweeper) again(failures int) error {
	t := time.NewTimer(backoff(failures-1, rand.Float64()))
	defer t.Stop()
	select {
	case <-t.C:
		return w.start(context.Background())
	case <-w.closing:
		return errClosed
	}
}

// Close lets the sweeper do its work, which after [Spawner.Close] is little,
// and waits for it, at most until ctx is done. It must be called once.
func (w *Sweeper) Close(ctx context.Context) error {
	w.mu.Lock()
	close(w.closing)
	w.alarm.Close()
	w.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		_ = w.proc.Signal(syscall.SIGKILL)
	})
	defer stop()
	w.watch.Wait()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("stop sweeper: %w", err)
	}
	if w.proc.exit.Code != 0 {
		return fmt.Errorf("stop sweeper: %s: something is left behind", w.proc.exit)
	}
	return nil
}
