package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Supervisor keeps cells running. It is safe for concurrent use.
//
// Operations on one cell happen one after the other; those that wait end
// early with ctx, and then what they began goes on.
type Supervisor struct {
	hooks Hooks
	log   *slog.Logger
	spawn spawnFunc

	hard       context.Context // done when patience is over: drains become kills
	noPatience context.CancelFunc
	replicas   sync.WaitGroup

	mu          sync.Mutex // guards the fields below and the statuses of all replicas
	cells       map[sdk.CellName]*cell
	changed     chan struct{} // closed at the next change of any status
	telling     int           // changes whose event is being told: who awaits one learns of it later than who is told
	incarnation uint64        // the last one given
	closed      bool
}

// A cell is a spec and its replicas, guarded by the Supervisor's mu.
type cell struct {
	spec     CellSpec
	replicas []*replica    // the replica with index i is at i-1
	busy     chan struct{} // holds a token while an operation is under way
}

// New returns a supervisor without cells. log may be nil. Close it before
// the spawner.
func New(s *Spawner, hooks Hooks, log *slog.Logger) *Supervisor {
	return newSupervisor(func(ctx context.Context, spec Spec) (child, error) {
		p, err := s.Spawn(ctx, spec)
		if err != nil {
			return nil, err // and not a non-nil interface around nil
		}
		return p, nil
	}, hooks, log)
}

func newSupervisor(spawn spawnFunc, hooks Hooks, log *slog.Logger) *Supervisor {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{
		hooks: hooks, log: log, spawn: spawn,
		cells: make(map[sdk.CellName]*cell), changed: make(chan struct{}),
	}
	s.hard, s.noPatience = context.WithCancel(context.Background())
	return s
}

// update changes r's status and tells everybody.
func (s *Supervisor) update(r *replica, change func(*Status)) {
	s.mu.Lock()
	change(&r.status)
	status := r.status
	s.telling++
	s.mu.Unlock()
	if s.hooks.Event != nil {
		s.hooks.Event(status)
	}
	s.mu.Lock()
	s.telling--
	s.signal()
	s.mu.Unlock()
}

// signal wakes whoever awaits a change. mu is held.
func (s *Supervisor) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await calls check, with mu held, at every change until it reports true.
func (s *Supervisor) await(ctx context.Context, check func() bool) error {
	for {
		s.mu.Lock()
		done, changed := s.telling == 0 && check(), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// find returns a cell. mu is held.
func (s *Supervisor) find(name sdk.CellName) (*cell, error) {
	c := s.cells[name]
	switch {
	case s.closed:
		return nil, sdk.Errorf(sdk.CodeUnavailable, "cell %q: the kernel is stopping", name)
	case c == nil:
		return nil, sdk.Errorf(sdk.CodeNotFound, "no cell %q", name)
	}
	return c, nil
}

// Ready reports that a replica is ready, which a cell with [ReadyByCell] says
// itself. It is false if that life is over or was ready already.
func (s *Supervisor) Ready(id Replica) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lifeOf(id)
	if l == nil || l.claimed {
		return false
	}
	l.claimed = true
	close(l.ready)
	return true
}

// Hung reports that a replica does not answer: it gets SIGQUIT, a second
// later it is killed, and what follows is decided like after a crash. It is
// false if that life is over. It does not wait.
func (s *Supervisor) Hung(id Replica, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lifeOf(id)
	if l == nil {
		return false
	}
	select {
	case l.hung <- why:
	default: // said before
	}
	return true
}

// lifeOf returns the life id names, nil if it is over. mu is held.
func (s *Supervisor) lifeOf(id Replica) *life {
	c := s.cells[id.Cell]
	if c == nil || id.Index < 1 || id.Index > len(c.replicas) {
		return nil
	}
	if l := c.replicas[id.Index-1].life; l != nil && l.id == id {
		return l
	}
	return nil
}

// othersLive reports whether another replica of r's cell has a process, or is
// just getting one.
func (s *Supervisor) othersLive(r *replica) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cells[r.spec.Name]
	return c != nil && slices.ContainsFunc(c.replicas, func(other *replica) bool { return other != r && other.life != nil })
}

// List returns the status of every replica, by cell and index. It reads the
// usage of each, which takes some ten microseconds a process.
func (s *Supervisor) List() []Status {
	s.mu.Lock()
	var all []Status
	var children []child
	for _, c := range s.cells {
		for _, r := range c.replicas {
			all = append(all, r.status)
			var ch child
			if r.life != nil {
				ch = r.life.child
			}
			children = append(children, ch)
		}
	}
	s.mu.Unlock()
	for i, ch := range children {
		if ch != nil {
			all[i].Usage = ch.Usage()
		}
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Cell, b.Cell), cmp.Compare(a.Index, b.Index))
	})
	return all
}

// Spec returns what is kept running under a name.
func (s *Supervisor) Spec(name sdk.CellName) (CellSpec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(name)
	if err != nil {
		return CellSpec{}, err
	}
	return c.spec, nil
}

// WaitReady blocks until every replica of a cell is ready, or done. It
// returns at once, with a [*StartError], when one has failed, keeps crashing
// or was stopped.
func (s *Supervisor) WaitReady(ctx context.Context, name sdk.CellName) error {
	var bad *Status
	var missing error
	err := s.await(ctx, func() bool {
		var c *cell
		if c, missing = s.find(name); missing != nil {
			return true
		}
		ready := true
		for _, r := range c.replicas {
			switch r.status.State {
			case Failed, Crashloop, Stopped:
				st := r.status
				bad = &st
				return true
			case Starting, Backoff, Draining:
				ready = false
			case Ready, Done:
			}
		}
		return ready
	})
	switch {
	case err != nil:
		return fmt.Errorf("wait for cell %q: %w", name, err)
	case missing != nil:
		return missing
	case bad != nil:
		return s.startError(*bad)
	}
	return nil
}

// startError describes a replica that did not start.
func (s *Supervisor) startError(st Status) error {
	e := &StartError{Replica: st.Replica, State: st.State, Reason: cmp.Or(st.Reason, string(st.State))}
	if s.hooks.LastLines != nil && st.State != Stopped {
		e.Lines = s.hooks.LastLines(st.Cell, st.Index)
	}
	return e
}

// WaitDone blocks until every replica of a job has ended and returns its
// exit code: the first one that is not 0, else 0. A job that was stopped or
// never began is a [*StartError].
func (s *Supervisor) WaitDone(ctx context.Context, name sdk.CellName) (int, error) {
	code := 0
	var missing error
	var bad *Status
	err := s.await(ctx, func() bool {
		var c *cell
		if c, missing = s.find(name); missing != nil {
			return true
		}
		code, bad = 0, nil
		for _, r := range c.replicas {
			st := r.status
			if !st.State.Ended() {
				return false
			}
			if st.State == Stopped || st.Exit == nil {
				bad = &st
			} else if code == 0 {
				code = st.Exit.Code
			}
		}
		return true
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("wait for job %q: %w", name, err)
	case missing != nil:
		return 0, missing
	case bad != nil:
		return 0, s.startError(*bad)
	}
	return code, nil
}

// Close ends every cell, those of order one after the other from its last to
// its first, then the rest together, and returns when all are gone. When ctx
// is done before, what is left is killed. No operation works afterwards.
func (s *Supervisor) Close(ctx context.Context, order ...sdk.CellName) error {
	s.mu.Lock()
	s.closed = true
	s.signal()
	rest := make([]*cell, 0, len(s.cells))
	for _, c := range s.cells {
		rest = append(rest, c)
	}
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, s.noPatience)
	defer stop()
	for _, name := range slices.Backward(order) {
		s.mu.Lock()
		c := s.cells[name]
		s.mu.Unlock()
		if c != nil {
			s.halt(context.Background(), c, 0) // its drains are bounded
		}
	}
	var halts sync.WaitGroup
	for _, c := range rest {
		halts.Go(func() { s.halt(context.Background(), c, 0) })
	}
	halts.Wait()
	s.replicas.Wait()
	s.noPatience()
	if err := ctx.Err(); err != nil {
		return &killedError{err}
	}
	return nil
}

// A killedError tells that draining was cut short, and by what.
type killedError struct{ err error }

func (e *killedError) Error() string {
	why := "it was told not to wait"
	if errors.Is(e.err, context.DeadlineExceeded) {
		why = "the time for it is over"
	}
	return "drain cells: " + why + ": what was left has been killed"
}

func (e *killedError) Unwrap() error { return e.err }
