package supervisor

import (
	"context"
	"fmt"

	"github.com/cellkernel/cellkernel/sdk"
)

// Add makes a cell known. It is stopped until [Supervisor.Start]. The spec's
// slices must not be changed afterwards.
func (s *Supervisor) Add(spec CellSpec) error {
	spec, err := spec.withDefaults()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return sdk.Errorf(sdk.CodeUnavailable, "add cell %q: the kernel is stopping", spec.Name)
	}
	if s.cells[spec.Name] != nil {
		return sdk.Errorf(sdk.CodeInvalid, "add cell %q: there is one already", spec.Name)
	}
	c := &cell{spec: spec, busy: make(chan struct{}, 1)}
	s.cells[spec.Name] = c
	s.resize(c, spec.Replicas)
	return nil
}

// resize gives c n replicas; new ones are stopped, and those that go must be.
// mu is held.
func (s *Supervisor) resize(c *cell, n int) {
	c.spec.Replicas = n
	c.replicas = c.replicas[:min(n, len(c.replicas))]
	for i := len(c.replicas); i < n; i++ {
		r := &replica{sup: s, cycle: make(chan CellSpec, 1), over: make(chan struct{}), stop: func() {}}
		close(r.over)
		r.status = Status{Replica: Replica{Cell: c.spec.Name, Index: i + 1}, State: Stopped}
		c.replicas = append(c.replicas, r)
	}
	s.signal()
}

// revive starts the goroutine of a replica that has ended; one that has not
// is left alone. mu is held.
func (s *Supervisor) revive(c *cell, r *replica) {
	select {
	case <-r.over:
	default:
		return
	}
	if s.closed {
		return
	}
	select {
	case <-r.cycle: // meant for a life that ended before it could hear of it
	default:
	}
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	r.spec, r.stop, r.over = c.spec, stop, over
	r.status.State, r.status.Reason = Starting, ""
	s.replicas.Go(func() {
		defer close(over)
		defer stop()
		r.run(ctx)
	})
}

// operate runs f while no other operation is under way on the cell.
func (s *Supervisor) operate(ctx context.Context, name sdk.CellName, f func(*cell) error) error {
	s.mu.Lock()
	c, err := s.find(name)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return fmt.Errorf("cell %q is busy: %w", name, ctx.Err())
	}
	s.mu.Lock()
	now, err := s.find(name)
	s.mu.Unlock()
	if err == nil && now != c {
		err = sdk.Errorf(sdk.CodeUnavailable, "cell %q was replaced", name)
	}
	if err != nil {
		return err
	}
	return f(c)
}

// Start starts the replicas of a cell that have ended. It does not wait for
// them: see [Supervisor.WaitReady].
func (s *Supervisor) Start(ctx context.Context, name sdk.CellName) error {
	return s.operate(ctx, name, func(c *cell) error {
		s.startAll(c)
		return nil
	})
}

func (s *Supervisor) startAll(c *cell) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range c.replicas {
		s.revive(c, r)
	}
	s.signal()
}

// Stop drains all replicas of a cell and waits until they have ended. The
// cell stays known.
func (s *Supervisor) Stop(ctx context.Context, name sdk.CellName) error {
	return s.operate(ctx, name, func(c *cell) error { return s.halt(ctx, c, 0) })
}

// Remove stops a cell and forgets it.
func (s *Supervisor) Remove(ctx context.Context, name sdk.CellName) error {
	return s.operate(ctx, name, func(c *cell) error {
		if err := s.halt(ctx, c, 0); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cells, name)
		s.signal()
		return nil
	})
}

// halt stops the replicas of c from number keep on and waits for their end.
func (s *Supervisor) halt(ctx context.Context, c *cell, keep int) error {
	var ends []chan struct{}
	s.mu.Lock()
	for _, r := range c.replicas[min(keep, len(c.replicas)):] {
		r.stop()
		ends = append(ends, r.over)
	}
	s.mu.Unlock()
	for _, over := range ends {
		select {
		case <-over:
		case <-ctx.Done():
			return fmt.Errorf("stop cell %q: %w", c.spec.Name, ctx.Err())
		}
	}
	return nil
}

// Scale changes the number of a cell's replicas. It waits for those that go,
// which are the last ones, and not for those that come. Those of a stopped
// cell are stopped.
func (s *Supervisor) Scale(ctx context.Context, name sdk.CellName, n int) error {
	if n < 0 || n > MaxReplicas {
		return sdk.Errorf(sdk.CodeInvalid, "scale cell %q to %d: want 0 to %d", name, n, MaxReplicas)
	}
	return s.operate(ctx, name, func(c *cell) error { return s.scale(ctx, c, n) })
}

func (s *Supervisor) scale(ctx context.Context, c *cell, n int) error {
	if err := s.halt(ctx, c, n); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stopped := c.stopped()
	had := len(c.replicas)
	s.resize(c, n)
	if stopped && had > 0 {
		return nil
	}
	for _, r := range c.replicas[min(had, n):] {
		s.revive(c, r)
	}
	return nil
}

// stopped reports whether every replica was stopped. mu is held.
func (c *cell) stopped() bool {
	for _, r := range c.replicas {
		if r.status.State != Stopped {
			return false
		}
	}
	return true
}

// Restart replaces the processes of a cell one by one, each when the one
// before is ready again. The first that does not come back ends it with a
// [*StartError]; the others keep running. A stopped cell is started.
func (s *Supervisor) Restart(ctx context.Context, name sdk.CellName) error {
	return s.operate(ctx, name, func(c *cell) error { return s.roll(ctx, c) })
}

// Update replaces the spec of the cell of the same name and its processes
// like [Supervisor.Restart], and changes their number. Of a stopped cell it
// only replaces the spec. Where a replica does not come back, those after it
// go on with the old spec until they are started anew.
func (s *Supervisor) Update(ctx context.Context, spec CellSpec) error {
	spec, err := spec.withDefaults()
	if err != nil {
		return err
	}
	return s.operate(ctx, spec.Name, func(c *cell) error {
		if err := s.halt(ctx, c, spec.Replicas); err != nil {
			return err
		}
		s.mu.Lock()
		stopped := c.stopped() && len(c.replicas) > 0
		had := min(len(c.replicas), spec.Replicas)
		c.spec = spec
		s.resize(c, had)
		s.mu.Unlock()
		if !stopped {
			if err := s.roll(ctx, c); err != nil {
				return err
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.resize(c, spec.Replicas)
		for _, r := range c.replicas[had:] {
			if !stopped {
				s.revive(c, r)
			}
		}
		return nil
	})
}

// roll replaces every replica of c, one by one.
func (s *Supervisor) roll(ctx context.Context, c *cell) error {
	s.mu.Lock()
	replicas := c.replicas
	s.mu.Unlock()
	for _, r := range replicas {
		if err := s.replace(ctx, c, r); err != nil {
			return err
		}
	}
	return nil
}

// replace ends r's life, if it has one, and waits until the next is ready.
func (s *Supervisor) replace(ctx context.Context, c *cell, r *replica) error {
	s.mu.Lock()
	before := r.status.Incarnation
	select {
	case <-r.cycle: // of an operation that did not wait
	default:
	}
	r.cycle <- c.spec
	s.mu.Unlock()
	var last Status
	var closed bool
	err := s.await(ctx, func() bool {
		last, closed = r.status, s.closed
		if !closed && last.Incarnation == before {
			s.revive(c, r) // it may have ended by itself just now
		}
		return closed || last.Incarnation != before && last.State != Starting
	})
	switch {
	case err != nil:
		return fmt.Errorf("restart %s: %w", last.Replica, err)
	case closed:
		return sdk.Errorf(sdk.CodeUnavailable, "restart %s: the kernel is stopping", last.Replica)
	case last.State == Ready || last.State == Done:
		return nil
	}
	return s.startError(last)
}
