// Package catalog runs the plugins of a kernel: it starts them, all at once,
// restarts those that die or hang, exchanges them while they are used, and
// hands out the four interfaces of package sdk behind handles that survive
// all that.
//
// A call on a handle while its plugin is being restarted waits until the
// plugin is back or the call's ctx is done; a plugin that was given up makes
// it fail at once as unavailable. Nothing here kills the kernel: a plugin
// that keeps failing ends in [StateFailed], visible and restartable.
//
// One plugin has one process after another, its generations. A restart ends
// one and starts the next; [Catalog.Replace] starts the next before it ends
// the one, where the kind allows it. A call that loses its generation goes to
// the next.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// A Spec says which plugin to run and how.
type Spec struct {
	Kind   plugin.Kind
	Name   string         // its name in the genome, unique within the kind
	Use    string         // the name of a bundled plugin or an absolute path
	SHA256 string         // of the file at Use, in hexadecimal; empty for any
	Config map[string]any // the plugin's own part of its section
}

// Options are what a catalog needs from its kernel. The zero value runs
// external plugins by plain exec.
type Options struct {
	// Bundled returns how a plugin inside the kernel's own binary is started;
	// nil for none.
	Bundled func(kind plugin.Kind, use string) (plugin.Command, bool)
	Launch  plugin.Launch // nil for plugin.Exec
	RunDir  string        // see plugin.Options
	Env     []string      // see plugin.Options
	// StateDir holds a directory for each plugin; empty for directories that
	// are lost with the process.
	StateDir string
	// BookDir holds one for each ledger instead: a book belongs to the node,
	// not to the checkout. Empty: they are in StateDir, too.
	BookDir string
	// Secret returns the 32 bytes that a plugin's keys derive from; nil for
	// random ones at each start.
	Secret func(kind plugin.Kind, name string) []byte
	// Certify answers transports; see plugin.Host.
	Certify func(ctx context.Context, name string, spki []byte) ([]byte, error)
	// Log takes the lines of plugins. It may block, which slows the plugin.
	Log func(kind plugin.Kind, name string, level slog.Level, line []byte)
	// Changed is told each change of a status, in order for each plugin. It
	// must not call the catalog.
	Changed func(Status)
	// Budget is how many failures within Window are followed by another
	// start; 0 for 5 and 30 s.
	Budget int
	Window time.Duration
	// Grace is how long the free port of a replaced transport stays open once
	// the configured one is bound again; 0 for 10 s.
	Grace time.Duration
}

// A State is where a plugin stands.
type State string

// The states.
const (
	StateStarting State = "starting"
	StateReady    State = "ready"
	StateBackoff  State = "backoff"  // failed, to be started again soon
	StateFailed   State = "failed"   // given up until a restart is asked for
	StateDraining State = "draining" // it is being ended
	StateStopped  State = "stopped"
)

// settled reports whether s is how a start has come out.
func (s State) settled() bool { return s != StateStarting && s != StateDraining }

// A Status describes one plugin at one moment.
type Status struct {
	Kind      plugin.Kind
	Name      string
	Version   string // empty before the first start
	Source    string // "bundled" or the path
	State     State
	PID       int // 0 while there is no process
	Restarts  int // starts because the process before had ended, unasked
	Started   time.Time
	LastError string // what ended the last process or start, empty for nothing
}

// A Catalog runs plugins. Make one with [New]; safe for any number of
// goroutines.
type Catalog struct {
	o      Options
	ctx    context.Context // done when closing
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	stopBy chan context.Context // of capacity 1: the ctx of Close

	mu    sync.Mutex // guards units, and launching against closing
	units map[key]*unit
}

type key struct {
	kind plugin.Kind
	name string
}

// New returns a catalog without plugins.
func New(o Options) *Catalog {
	if o.Budget == 0 {
		o.Budget = 5
	}
	if o.Window == 0 {
		o.Window = 30 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	c := &Catalog{o: o, units: map[key]*unit{}, stopBy: make(chan context.Context, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Start runs plugins, all at once, and returns when each is ready or has
// failed its first start. A wrong spec is an error before anything starts.
// The errors of those that failed are joined; all
// that can come back by themselves are tried again nevertheless, so the
// caller decides whether to go on.
func (c *Catalog) Start(ctx context.Context, specs ...Spec) error {
	started, err := c.launch(specs)
	if err != nil {
		return err
	}
	errs := make([]error, len(started))
	for i, u := range started {
		errs[i] = u.first(ctx)
	}
	return errors.Join(errs...)
}

// Add starts one more plugin and returns when it is ready. When it fails its
// first start, or ctx is done before, nothing of it is left and the error has
// the last lines it wrote: invalid for a plugin or a configuration that can
// not work, unavailable for one that may another time.
func (c *Catalog) Add(ctx context.Context, spec Spec) error {
	started, err := c.launch([]Spec{spec})
	if err != nil {
		return err
	}
	u := started[0]
	err = u.first(ctx)
	if err == nil {
		return nil
	}
	if last := u.Status().LastError; last != "" && ctx.Err() == nil {
		// Without the state it is in: that ends now.
		err = sdk.Errorf(sdk.CodeOf(err), "%s", last)
	}
	c.end(context.WithoutCancel(ctx), u)
	return err
}

// Remove ends a plugin, nicely until ctx is done and at once from then on,
// and returns when nothing of it is left. A [Catalog.Replace] of it that is
// under way is given up. Calls on its handles fail from then on, and running
// watches end, with an unavailable error that [ErrRemoved] is in; its
// listeners end as if they were closed. That stays so when another plugin of
// this name is added: it has handles of its own.
func (c *Catalog) Remove(ctx context.Context, kind plugin.Kind, name string) error {
	u, err := c.unit(kind, name)
	if err != nil {
		return err
	}
	c.end(ctx, u)
	return nil
}

// end removes a unit. The name is free again once nothing is left.
func (c *Catalog) end(ctx context.Context, u *unit) {
	u.remove(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.units[u.key] == u {
		delete(c.units, u.key)
	}
}

// launch starts a unit for each spec, or for none.
func (c *Catalog) launch(specs []Spec) ([]*unit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "start plugins: the catalog is closed")
	}
	fresh := map[key]bool{}
	for _, spec := range specs {
		k := key{spec.Kind, spec.Name}
		if err := spec.check(); err != nil {
			return nil, err
		}
		if c.units[k] != nil || fresh[k] {
			return nil, sdk.Errorf(sdk.CodeInvalid, "start plugin: %s-%s twice", spec.Kind, spec.Name)
		}
		fresh[k] = true
	}
	var started []*unit
	for _, spec := range specs {
		u := newUnit(c, spec)
		c.units[u.key] = u
		started = append(started, u)
		c.tasks.Go(u.run)
	}
	return started, nil
}

func (s Spec) check() error {
	if !s.Kind.Valid() {
		return sdk.Errorf(sdk.CodeInvalid, "start plugin %q: kind %q", s.Name, s.Kind)
	}
	if _, err := sdk.ParseCellName(s.Name); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "start plugin of kind %s: %v", s.Kind, err)
	}
	return nil
}

// Status lists all plugins by kind and name.
func (c *Catalog) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Status
	for _, u := range c.units {
		all = append(all, u.Status())
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// Restart stops a plugin and starts it with a fresh budget, whatever state it
// is in, and waits until it is ready or has failed. The name is that of the
// genome, with or without its kind in front: "transport-uds" or "uds".
func (c *Catalog) Restart(ctx context.Context, name string) error {
	u, err := c.byName(name)
	if err != nil {
		return err
	}
	return u.restart(ctx)
}

func (c *Catalog) byName(name string) (*unit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []*unit
	var names []string
	for k, u := range c.units {
		full := fmt.Sprintf("%s-%s", k.kind, k.name)
		if full == name {
			return u, nil
		}
		if k.name == name {
			found = append(found, u)
		}
		names = append(names, full)
	}
	slices.Sort(names)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, sdk.Errorf(sdk.CodeNotFound, "find plugin %q: want one of %s", name, strings.Join(names, ", "))
	}
	return nil, sdk.Errorf(sdk.CodeInvalid, "find plugin %q: several kinds have one: put the kind in front", name)
}

// unit returns the plugin of a kind and name.
func (c *Catalog) unit(kind plugin.Kind, name string) (*unit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.units[key{kind, name}]
	if u == nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "find plugin: no %s %q", kind, name)
	}
	return u, nil
}

// Close stops all plugins, nicely until ctx is done and at once from then on,
// and returns when none is left. Handles fail from then on.
func (c *Catalog) Close(ctx context.Context) {
	select {
	case c.stopBy <- ctx:
	default: // closing already
	}
	c.mu.Lock() // nothing is launched from now on
	c.cancel()
	c.mu.Unlock()
	c.tasks.Wait()
}

// stopCtx is what stopping a plugin is bounded by.
func (c *Catalog) stopCtx() context.Context {
	select {
	case ctx := <-c.stopBy:
		c.stopBy <- ctx
		return ctx
	default:
		return context.Background()
	}
}
