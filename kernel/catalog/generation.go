package catalog

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// goneGrace is how long a connection to a plugin may look broken before the
// death of its process shows.
const goneGrace = 5 * time.Second

// ErrRemoved is in the chain of every error of a handle whose plugin was
// removed.
var ErrRemoved = errors.New("the plugin was removed")

// removedError is an unavailable error that [ErrRemoved] can be found in.
type removedError struct{ cause *sdk.Error }

func (e removedError) Error() string   { return e.cause.Error() }
func (e removedError) Unwrap() []error { return []error{e.cause, ErrRemoved} }

// A generation is one process of a unit.
type generation struct {
	*plugin.Client
	revived chan struct{} // closed when a discovery has announced in it
	revive  sync.Once     // closes it

	mu    sync.Mutex    // guards the fields below; taken last
	calls int           // on their way in it
	quiet chan struct{} // closed and replaced when there is none left
}

func newGeneration(c *plugin.Client) *generation {
	return &generation{Client: c, revived: make(chan struct{}), quiet: make(chan struct{})}
}

// enter begins a call.
func (g *generation) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
}

// leave ends it.
func (g *generation) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls--; g.calls == 0 {
		close(g.quiet)
		g.quiet = make(chan struct{})
	}
}

func (g *generation) gone() bool {
	select {
	case <-g.Done():
		return true
	default:
		return false
	}
}

// idle waits until no call is on its way, for when no new one can begin, or
// the process ends or ctx is done. It reports whether there is none.
func (g *generation) idle(ctx context.Context) bool {
	for {
		g.mu.Lock()
		calls, quiet := g.calls, g.quiet
		g.mu.Unlock()
		if calls == 0 {
			return true
		}
		select {
		case <-quiet:
		case <-g.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// retry calls f on the plugin, again whenever the process ends, or is
// replaced, under the call. Only calls that may be repeated come here.
func retry[T any](ctx context.Context, u *unit, f func(*generation) (T, error)) (T, error) {
	for {
		var v T
		g, err := u.get(ctx)
		if err != nil {
			return v, err
		}
		v, err = once(g, f)
		if err != nil && ctx.Err() == nil && !u.holds(g) {
			continue
		}
		if !errors.Is(err, plugin.ErrGone) {
			return v, err
		}
		timer := time.NewTimer(goneGrace)
		select {
		case <-g.Done():
			timer.Stop()
		case <-timer.C:
			return v, err
		case <-ctx.Done():
			timer.Stop()
			return v, err
		}
	}
}

func once[T any](g *generation, f func(*generation) (T, error)) (T, error) {
	defer g.leave()
	return f(g)
}
