package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// apply brings a running kernel in line with the plan.
func (a *app) apply(ctx context.Context, k admin.Kernel, p admin.Plan) error {
	v := newView(a.stderr)
	ask := p
	ask.DryRun = true
	var list []admin.Change
	err := watched(ctx, k, v, func(kind admin.EventKind) bool { return kind == admin.EventBuild }, func() (err error) {
		list, err = k.Apply(ctx, ask)
		return err
	})
	if err != nil {
		return bootError(err)
	}
	err = a.show(list, func(io.Writer) error { v.changes(list); return nil })
	switch {
	case err != nil || len(list) == 0:
		return err
	case p.DryRun:
		return &exitError{exitChanges}
	}
	err = watched(ctx, k, v, func(kind admin.EventKind) bool { return kind != admin.EventLost }, func() error {
		_, err := k.Apply(ctx, p)
		return err
	})
	if admin.CauseOf(err) == admin.CauseUncovered {
		return withHint(err, `list both discoveries in golgi.discovery for a time, or "cellkernel plugin swap --force OLD NEW" first`)
	}
	if err != nil {
		return bootError(err)
	}
	v.note("done")
	return nil
}

// errCaughtUp ends the reading of events.
var errCaughtUp = errors.New("all events were read")

// watched shows the events that happen while do runs, all of them, if they are
// of a kind that counts.
func watched(ctx context.Context, k admin.Kernel, v *view, counts func(admin.EventKind) bool, do func() error) error {
	began := time.Now()
	var seen uint64
	show := func(e admin.Event) {
		seen = e.Seq
		if e.Time.After(began) && counts(e.Kind) {
			v.event(e)
		}
	}
	watch, stop := context.WithCancel(ctx)
	var shows sync.WaitGroup
	shows.Go(func() {
		_ = k.Events(watch, 0, func(e admin.Event) error { show(e); return nil })
	})
	err := do()
	stop()
	shows.Wait()
	late, enough := context.WithTimeout(ctx, logLimit)
	defer enough()
	if s, failed := k.Status(late); failed == nil && s.LastEvent > seen {
		_ = k.Events(late, seen, func(e admin.Event) error {
			if show(e); e.Seq >= s.LastEvent {
				return errCaughtUp
			}
			return nil
		})
	}
	return err
}

// standing says what is not ready of a kernel that is in line with the plan:
// that nothing had to be changed is no news that all is well.
func (a *app) standing(ctx context.Context, k admin.Kernel) error {
	s, err := booted(ctx, k)
	if err != nil || s.State != admin.StateFailed {
		return err
	}
	newView(a.stderr).problems(s.Problems)
	return withHint(errors.New("up: this runs, but not all of it is ready"), `"cellkernel logs" says why, "cellkernel restart" starts a cell afresh`)
}

// errBooted ends the watching of a boot.
var errBooted = errors.New("booted")

// booted waits until a kernel that somebody else may be starting at the same
// time is ready or has failed, and returns its state.
func booted(ctx context.Context, k admin.Kernel) (*admin.Status, error) {
	var last *admin.Status
	look := func() (err error) {
		if last, err = k.Status(ctx); err == nil && last.State != admin.StateStarting {
			err = errBooted
		}
		return err
	}
	err := look()
	if err == nil {
		// All events from the first on: the boot may have ended since the look.
		err = k.Events(ctx, 0, func(admin.Event) error { return look() })
	}
	switch {
	case err == nil:
		return nil, sdk.Errorf(sdk.CodeUnavailable, "kernel ended while it booted")
	case !errors.Is(err, errBooted):
		return nil, err
	}
	return last, nil
}
