package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killWait bounds how long a kill waits for processes to be gone. Only one
// that is stuck inside the operating system takes longer.
const killWait = 2 * time.Second

// errClosed is what a spawn after Close fails with.
var errClosed = errors.New("the spawner is closed")

// SpawnerOptions configure a [Spawner].
type SpawnerOptions struct {
	// RunID marks all processes of this run; empty for a new one. It is
	// what [NewRunID] makes: 32 hexadecimal digits.
	RunID string
	// Self is the cellkernel program, for its hidden commands. It stays the
	// caller's and must stay open. Without it, there is no stub and no sweeper.
	Self *os.File
	// NoCgroup does without cgroups where there are some.
	NoCgroup bool
	// Log receives what is odd but harmless; nil for none.
	Log *slog.Logger
}

// A Spawner starts processes. It is safe for concurrent use.
//
// All children are born of one thread that lives as long as the spawner:
// the parent-death signal by which they die with the kernel belongs to the
// thread, not to the process.
type Spawner struct {
	opt     SpawnerOptions
	run     cgroup // the run's directory; empty for none
	noGroup string // why there is none
	work    chan func()
	thread  sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	seq    uint64
	live   map[*Process]struct{}
	closed bool
	births sync.WaitGroup // spawns under way and reapers
}

// NewRunID returns a fresh random run id.
func NewRunID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// checkRunID reports what is wrong with a run id from outside.
func checkRunID(id string) error {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
		return fmt.Errorf("run id %.40q: want 32 hexadecimal digits", id)
	}
	return nil
}

// NewSpawner starts a spawner. Its cgroup, if there can be one, is made here.
// Close it.
func NewSpawner(opt SpawnerOptions) (*Spawner, error) {
	if opt.RunID == "" {
		opt.RunID = NewRunID()
	}
	if err := checkRunID(opt.RunID); err != nil {
		return nil, err
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Spawner{opt: opt, work: make(chan func()), live: make(map[*Process]struct{})}
	s.thread.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		for f := range s.work {
			f()
		}
	})
	if err := s.openCgroup(); err != nil {
		s.run, s.noGroup = "", err.Error()
	}
	return s, nil
}

// openCgroup makes the run's directory below our own and tries it.
func (s *Spawner) openCgroup() error {
	if s.opt.NoCgroup {
		return errors.New("switched off")
	}
	own, err := ownCgroup()
	if err != nil {
		return err
	}
	s.run = cgroup(own.file(cgroupPrefix + s.opt.RunID))
	if err := makeCgroup(s.run); err != nil {
		return err
	}
	s.run.delegate()
	if err := s.tryCgroup(); err != nil {
		return errors.Join(fmt.Errorf("start a process in %s: %w", s.run, err), s.run.remove())
	}
	return nil
}

// tryCgroup starts a program without a name in the run's directory. Whether
// a process may be born there is decided before the program is looked at, so
// ENOENT is the good answer and nothing ever runs.
func (s *Spawner) tryCgroup() error {
	dir, err := os.Open(string(s.run))
	if err != nil {
		return err
	}
	defer dir.Close()
	attr := &os.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}}
	if _, err = os.StartProcess("", []string{"cellkernel"}, attr); errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// RunID returns the id by which this run's processes are marked.
func (s *Spawner) RunID() string { return s.opt.RunID }

// Cgroup returns the directory below which every child has one of its own,
// and where there is none, the reason.
func (s *Spawner) Cgroup() (dir, why string) { return string(s.run), s.noGroup }

// Spawn starts a process and returns once its program runs. Errors name the
// spec; nothing is left of a failed start. ctx bounds the start alone, not
// the life of the process. The spec's files stay the caller's, who usually
// closes them now.
func (s *Spawner) Spawn(ctx context.Context, spec Spec) (*Process, error) {
	p, err := s.spawn(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", spec.Name, err)
	}
	return p, nil
}

func (s *Spawner) spawn(ctx context.Context, spec Spec) (*Process, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	b, err := s.conceive(spec)
	if err != nil {
		return nil, err
	}
	if err = b.prepare(); err == nil {
		err = s.onThread(ctx, b.start)
	}
	if err != nil {
		b.release(true)
		s.births.Done()
		return nil, err
	}
	err = s.enter(b.process)
	go func() {
		defer s.births.Done()
		b.process.reap()
		s.mu.Lock()
		delete(s.live, b.process)
		s.mu.Unlock()
	}()
	if err == nil {
		err = b.confirm(ctx)
	}
	b.release(err != nil)
	if err != nil {
		return nil, errors.Join(err, b.process.Kill())
	}
	return b.process, nil
}

// conceive gives a process its number. births.Done ends what it begins.
func (s *Spawner) conceive(spec Spec) (*birth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	s.seq++
	s.births.Add(1)
	p := &Process{name: spec.Name, spawner: s, seq: s.seq, exited: make(chan struct{})}
	return &birth{spec: spec, process: p}, nil
}

// enter makes a process that was just born known to Close.
func (s *Spawner) enter(p *Process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.live[p] = struct{}{}
	return nil
}

// onThread runs f on the spawner's thread.
func (s *Spawner) onThread(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close kills every process that is left, removes the run's cgroup and
// returns when all is gone, or with an error after a few seconds.
func (s *Spawner) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	left := slices.Collect(maps.Keys(s.live))
	s.mu.Unlock()
	errs := make([]error, len(left))
	var kills sync.WaitGroup
	for i, p := range left {
		kills.Go(func() { errs[i] = p.Kill() })
	}
	kills.Wait()
	if err := errors.Join(errs...); err != nil {
		return err // something lives on: so must the thread it would die with
	}
	s.births.Wait()
	close(s.work)
	s.thread.Wait()
	if s.run == "" {
		return nil
	}
	return errors.Join(s.run.kill(time.Now().Add(killWait)), s.run.remove())
}
