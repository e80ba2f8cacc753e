package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// stopTimeout bounds the polite part of a stop.
const stopTimeout = 5 * time.Second

// errRestart ends a process because somebody asked for a new one.
var errRestart = errors.New("restart asked for")

// A unit runs one plugin until it is removed or the catalog closes, in one
// goroutine.
type unit struct {
	cat *Catalog
	key key
	// The handles of these kinds know what makes a new process what the old
	// one was. A unit has one of each kind, whatever its own.
	ledger    *ledger
	discovery *discovery

	spec     Spec           // of the present process; only run uses it
	asked    bool           // the next start is wanted by somebody, no end brought it; only run uses it
	requests chan struct{}  // of capacity 1: restart
	offers   chan *swap     // run takes one while it waits for something
	turn     chan struct{}  // of capacity 1, held by whoever restarts or replaces
	tasks    sync.WaitGroup // listeners, and what is left of swaps
	ctx      context.Context
	cancel   context.CancelFunc
	ended    chan struct{} // closed when nothing is left

	mu        sync.Mutex // guards the fields below
	status    Status
	current   *generation   // nil unless ready
	changed   chan struct{} // closed and replaced at each change
	listeners map[*listener]bool
	stopBy    context.Context // of Remove
	closed    bool            // no listener may be added
	starts    int
	tried     bool // the first start has ended
	wrong     bool // LastError is about how the plugin is configured
}

func newUnit(c *Catalog, spec Spec) *unit {
	u := &unit{
		cat: c, key: key{spec.Kind, spec.Name}, spec: spec,
		requests: make(chan struct{}, 1), offers: make(chan *swap), turn: make(chan struct{}, 1),
		changed: make(chan struct{}), ended: make(chan struct{}), listeners: map[*listener]bool{},
		status: Status{Kind: spec.Kind, Name: spec.Name, Source: spec.source(), State: StateStarting},
	}
	u.ctx, u.cancel = context.WithCancel(c.ctx)
	u.ledger = &ledger{u: u}
	u.discovery = &discovery{u: u, turn: make(chan struct{}, 1)}
	return u
}

func (s Spec) source() string {
	if filepath.IsAbs(s.Use) {
		return s.Use
	}
	return "bundled"
}

// label is how errors name the plugin.
func (k key) label() string { return fmt.Sprintf("%s(%s)", k.kind, k.name) }

func (u *unit) label() string { return u.key.label() }

// unlabelled is the text of an error that goes behind the label, once.
func (u *unit) unlabelled(text string) string { return strings.TrimPrefix(text, u.label()+": ") }

// Status returns a copy.
func (u *unit) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// set changes the status and tells everyone. Only run calls it.
func (u *unit) set(state State, g *generation, err error) {
	u.mu.Lock()
	u.status.State, u.current = state, g
	u.status.PID = 0
	if g != nil {
		info := g.Info()
		u.status.Source = u.spec.source()
		u.status.PID, u.status.Version, u.status.Started = info.PID, info.Version, time.Now()
	}
	if err != nil {
		u.status.LastError, u.wrong = err.Error(), sdk.CodeOf(err) == sdk.CodeInvalid
	}
	if state.settled() {
		u.tried = true
	}
	status := u.status
	close(u.changed)
	u.changed = make(chan struct{})
	u.mu.Unlock()
	if u.cat.o.Changed != nil {
		u.cat.o.Changed(status)
	}
}

// run starts the process again and again until the unit ends.
func (u *unit) run() {
	ctx := u.ctx
	fresh := budget{limit: u.cat.o.Budget, window: u.cat.o.Window}
	b := fresh
	var g *generation // nil for none
	u.asked = true
	for ctx.Err() == nil {
		var err error
		if g == nil {
			g, err = u.begin(ctx)
		}
		var s *swap
		if g != nil {
			s, err = u.tend(ctx, g)
		}
		switch {
		case s != nil || ctx.Err() != nil:
		case errors.Is(err, errRestart):
			g, b, u.asked = nil, fresh, true
		default:
			g, s = nil, u.pause(ctx, &b, err)
		}
		if s != nil {
			g, b = u.exchange(ctx, s, g), fresh
		}
	}
	if g != nil {
		u.set(StateDraining, nil, nil) // calls wait for the end
		u.stop(g)
	}
	u.set(StateStopped, nil, nil)
	u.finish()
}

// finish waits for all that the unit has made. Nobody makes more: listeners
// are refused, and the turn is not given back.
func (u *unit) finish() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.turn <- struct{}{}
	u.tasks.Wait()
	u.cancel()
	close(u.ended)
}

// begin makes a first or a next process ready.
func (u *unit) begin(ctx context.Context) (*generation, error) {
	u.mu.Lock()
	if u.starts++; !u.asked {
		u.status.Restarts++
	}
	u.mu.Unlock()
	u.asked = false
	u.set(StateStarting, nil, nil)
	g, err := u.start(ctx, u.spec)
	if err == nil {
		u.set(StateReady, g, nil)
	}
	return g, err
}

// tend watches a ready process. When it returns the process is gone, except
// when ctx is done or a swap is there.
func (u *unit) tend(ctx context.Context, g *generation) (*swap, error) {
	rctx, cancel := context.WithCancel(ctx)
	var reviving sync.WaitGroup
	defer reviving.Wait()
	defer cancel()
	reviving.Go(func() {
		defer g.revive.Do(func() { close(g.revived) })
		if u.key.kind == plugin.KindDiscovery {
			u.discovery.revive(rctx, g)
		}
	})
	s, err := u.watch(ctx, g)
	if errors.Is(err, errRestart) {
		u.set(StateStarting, nil, nil) // calls wait from now on
		u.stop(g)
	}
	return s, err
}

// stop ends a process nicely, if it is quick.
func (u *unit) stop(g *generation) {
	ctx, cancel := context.WithTimeout(u.stopCtx(), stopTimeout)
	defer cancel()
	_ = g.Stop(ctx) // it is gone in any case
}

// stopCtx is what stopping is bounded by.
func (u *unit) stopCtx() context.Context {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopBy != nil {
		return u.stopBy
	}
	return u.cat.stopCtx()
}

// pause waits out the back-off, or, when the budget is spent or the plugin
// says that its configuration is wrong, for a request or a swap.
func (u *unit) pause(ctx context.Context, b *budget, err error) *swap {
	delay, ok := b.fail(time.Now())
	state, elapsed := StateBackoff, (<-chan time.Time)(nil)
	if !ok || sdk.CodeOf(err) == sdk.CodeInvalid {
		state = StateFailed
	} else {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		elapsed = timer.C
	}
	if !ok {
		err = fmt.Errorf("given up after %d failures within %v: %w", b.limit+1, b.window, err)
	}
	u.set(state, nil, err)
	select {
	case <-elapsed:
	case <-u.requests:
		*b, u.asked = budget{limit: b.limit, window: b.window}, true
	case s := <-u.offers:
		return s
	case <-ctx.Done():
	}
	return nil
}

// start makes one process ready. It changes nothing of the unit.
func (u *unit) start(ctx context.Context, spec Spec) (*generation, error) {
	cmd, err := u.cat.command(spec)
	if err != nil {
		return nil, err
	}
	if spec.SHA256 != "" {
		defer cmd.Exe.Close() // made by command; the process has it by then
	}
	o, err := u.cat.options(spec)
	if err != nil {
		return nil, err
	}
	client, err := plugin.Start(ctx, cmd, o)
	if err != nil {
		return nil, err
	}
	g := newGeneration(client)
	if spec.Kind == plugin.KindLedger {
		if err := u.ledger.prime(ctx, g); err != nil {
			client.Kill()
			return nil, err
		}
	}
	return g, nil
}

// log puts a line of the catalog among those of the plugin.
func (u *unit) log(level slog.Level, line string) {
	if u.cat.o.Log != nil {
		u.cat.o.Log(u.key.kind, u.key.name, level, []byte(line))
	}
}

// holds reports whether g is still what calls are given.
func (u *unit) holds(g *generation) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.current == g
}

// get returns the plugin once it is ready. The caller has a call on its way
// in it then, and says when that is done.
func (u *unit) get(ctx context.Context) (*generation, error) {
	for {
		u.mu.Lock()
		g, status, changed := u.current, u.status, u.changed
		if g != nil && !g.gone() {
			g.enter()
			u.mu.Unlock()
			return g, nil
		}
		u.mu.Unlock()
		switch status.State {
		case StateFailed:
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: the plugin failed: %s; `cellkernel plugin restart %s-%s` tries again", u.label(), u.unlabelled(status.LastError), u.key.kind, u.key.name)
		case StateStopped:
			return nil, u.ending()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, sdk.Errorf(sdk.CodeOf(ctx.Err()), "%s: wait for the plugin, which is in state %s: %v", u.label(), status.State, ctx.Err())
		}
	}
}

// ending says why a unit that ended serves nothing.
func (u *unit) ending() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopBy != nil {
		return removedError{sdk.Errorf(sdk.CodeUnavailable, "%s: %v", u.label(), ErrRemoved)}
	}
	return sdk.Errorf(sdk.CodeUnavailable, "%s: the plugin is stopped", u.label())
}

// remove ends the unit and returns when nothing of it is left.
func (u *unit) remove(ctx context.Context) {
	u.mu.Lock()
	if u.stopBy == nil {
		u.stopBy = ctx
	}
	u.mu.Unlock()
	u.cancel()
	<-u.ended
}

// take waits for the turn to restart or replace. Give it back.
func (u *unit) take(ctx context.Context) error {
	if u.ctx.Err() != nil {
		return u.ending()
	}
	select {
	case u.turn <- struct{}{}:
		return nil
	case <-u.ctx.Done():
		return u.ending()
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for what is under way: %w", u.label(), ctx.Err())
	}
}

func (u *unit) give() { <-u.turn }

// first waits for the outcome of the first start. A configuration that the
// plugin refuses is invalid.
func (u *unit) first(ctx context.Context) error {
	err := u.outcome(ctx, func() bool { return u.tried })
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil && u.wrong && u.status.State == StateFailed {
		return sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	return err
}

// restart asks run for a new process and waits for the outcome.
func (u *unit) restart(ctx context.Context) error {
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	u.mu.Lock()
	before := u.starts
	u.mu.Unlock()
	select {
	case u.requests <- struct{}{}:
	default: // one is asked for already
	}
	return u.outcome(ctx, func() bool { return u.starts > before && u.status.State.settled() })
}

// outcome waits until decided, which is called with the lock held.
func (u *unit) outcome(ctx context.Context, decided func() bool) error {
	for {
		u.mu.Lock()
		ok, status, changed := decided(), u.status, u.changed
		u.mu.Unlock()
		switch {
		case ok && status.State == StateReady:
			return nil
		case status.State == StateStopped:
			return u.ending()
		case ok:
			return sdk.Errorf(sdk.CodeUnavailable, "%s: %s: %s", u.label(), status.State, u.unlabelled(status.LastError))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for the plugin: %w", u.label(), ctx.Err())
		}
	}
}
