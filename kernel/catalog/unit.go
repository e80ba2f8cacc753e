package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// stopTimeout bounds the polite part of a stop.
const stopTimeout = 5 * time.Second

// errRestart ends a process because somebody asked for a new one.
var errRestart = errors.New("restart asked for")

// A unit runs one plugin for the life of the catalog, in one goroutine.
type unit struct {
	cat  *Catalog
	spec Spec
	// The handles of these kinds know what makes a new process what the old
	// one was. A unit has one of each kind, whatever its own.
	ledger    *ledger
	discovery *discovery

	requests chan struct{} // of capacity 1: restart

	mu      sync.Mutex // guards the fields below
	status  Status
	client  *plugin.Client // nil unless ready
	changed chan struct{}  // closed and replaced at each change
	starts  int
	tried   bool // the first start has ended
	wrong   bool // LastError is about how the plugin is configured
}

func newUnit(c *Catalog, spec Spec) *unit {
	source := "bundled"
	if filepath.IsAbs(spec.Use) {
		source = spec.Use
	}
	u := &unit{
		cat: c, spec: spec, requests: make(chan struct{}, 1), changed: make(chan struct{}),
		status: Status{Kind: spec.Kind, Name: spec.Name, Source: source, State: StateStarting},
	}
	u.ledger = &ledger{u: u}
	u.discovery = &discovery{u: u, turn: make(chan struct{}, 1)}
	return u
}

// label is how errors name the plugin.
func (u *unit) label() string { return fmt.Sprintf("%s(%s)", u.spec.Kind, u.spec.Name) }

// Status returns a copy.
func (u *unit) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// set changes the status and tells everyone. Only run calls it.
func (u *unit) set(state State, client *plugin.Client, err error) {
	u.mu.Lock()
	u.status.State, u.client = state, client
	u.status.PID = 0
	if client != nil {
		info := client.Info()
		u.status.PID, u.status.Version, u.status.Started = info.PID, info.Version, time.Now()
	}
	if err != nil {
		u.status.LastError, u.wrong = err.Error(), sdk.CodeOf(err) == sdk.CodeInvalid
	}
	if state != StateStarting {
		u.tried = true
	}
	u.status.Restarts = max(0, u.starts-1)
	status := u.status
	close(u.changed)
	u.changed = make(chan struct{})
	u.mu.Unlock()
	if u.cat.o.Changed != nil {
		u.cat.o.Changed(status)
	}
}

// run starts the process again and again until the catalog closes.
func (u *unit) run() {
	ctx := u.cat.ctx
	b := budget{limit: u.cat.o.Budget, window: u.cat.o.Window}
	for ctx.Err() == nil {
		u.begin()
		client, err := u.start(ctx)
		if err == nil {
			u.set(StateReady, client, nil)
			err = u.tend(ctx, client)
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errRestart):
			b = budget{limit: b.limit, window: b.window}
		default:
			u.pause(ctx, &b, err)
		}
	}
	u.set(StateStopped, nil, nil)
}

func (u *unit) begin() {
	u.mu.Lock()
	u.starts++
	u.mu.Unlock()
	u.set(StateStarting, nil, nil)
}

// tend watches a ready process. When it returns the process is gone.
func (u *unit) tend(ctx context.Context, client *plugin.Client) error {
	rctx, cancel := context.WithCancel(ctx)
	revived := make(chan struct{})
	go func() {
		defer close(revived)
		if u.spec.Kind == plugin.KindDiscovery {
			u.discovery.revive(rctx, client)
		}
	}()
	err := watch(ctx, client, u.requests)
	cancel()
	if err == nil || errors.Is(err, errRestart) {
		u.set(StateStarting, nil, nil) // calls wait from now on
		sctx, scancel := context.WithTimeout(u.cat.stopCtx(), stopTimeout)
		_ = client.Stop(sctx) // it is gone in any case
		scancel()
	}
	<-revived
	return err
}

// pause waits out the back-off, or, when the budget is spent or the plugin
// says that its configuration is wrong, for a request.
func (u *unit) pause(ctx context.Context, b *budget, err error) {
	delay, ok := b.fail(time.Now())
	if !ok || sdk.CodeOf(err) == sdk.CodeInvalid {
		if !ok {
			err = fmt.Errorf("given up after %d failures within %v: %w", b.limit+1, b.window, err)
		}
		u.set(StateFailed, nil, err)
		select {
		case <-u.requests:
			*b = budget{limit: b.limit, window: b.window}
		case <-ctx.Done():
		}
		return
	}
	u.set(StateBackoff, nil, err)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-u.requests:
		*b = budget{limit: b.limit, window: b.window}
	case <-ctx.Done():
	}
}

// start makes one process ready.
func (u *unit) start(ctx context.Context) (*plugin.Client, error) {
	cmd, err := u.command()
	if err != nil {
		return nil, err
	}
	if u.spec.SHA256 != "" {
		defer cmd.Exe.Close() // made by command; the process has it by then
	}
	o, err := u.options()
	if err != nil {
		return nil, err
	}
	client, err := plugin.Start(ctx, cmd, o)
	if err != nil {
		return nil, err
	}
	if u.spec.Kind == plugin.KindLedger {
		if err := u.ledger.prime(ctx, client); err != nil {
			client.Kill()
			return nil, err
		}
	}
	return client, nil
}

func (u *unit) command() (plugin.Command, error) {
	if filepath.IsAbs(u.spec.Use) {
		cmd := plugin.Command{Name: u.label(), Path: u.spec.Use}
		if u.spec.SHA256 == "" {
			return cmd, nil
		}
		exe, err := plugin.Seal(u.spec.Use, u.spec.SHA256)
		if err != nil {
			return cmd, sdk.Errorf(sdk.CodeInvalid, "%s: %v", u.label(), err)
		}
		cmd.Exe = exe
		return cmd, nil
	}
	if u.spec.SHA256 != "" {
		return plugin.Command{}, sdk.Errorf(sdk.CodeInvalid, "%s: sha256 pins files, and %q is bundled: remove it", u.label(), u.spec.Use)
	}
	if u.cat.o.Bundled != nil {
		if cmd, ok := u.cat.o.Bundled(u.spec.Kind, u.spec.Use); ok {
			cmd.Name = u.label()
			return cmd, nil
		}
	}
	return plugin.Command{}, sdk.Errorf(sdk.CodeInvalid, "%s: no bundled %s is called %q: use an absolute path for a plugin of your own", u.label(), u.spec.Kind, u.spec.Use)
}

func (u *unit) options() (plugin.Options, error) {
	c, s := u.cat.o, u.spec
	o := plugin.Options{Kind: s.Kind, Instance: s.Name, Config: s.Config, RunDir: c.RunDir, Env: c.Env, Launch: c.Launch}
	if c.Secret != nil {
		o.Secret = c.Secret(s.Kind, s.Name)
	}
	if c.Log != nil {
		o.Log = func(level slog.Level, line []byte) { c.Log(s.Kind, s.Name, level, line) }
	}
	if c.Certify != nil {
		o.Certify = func(ctx context.Context, spki []byte) ([]byte, error) { return c.Certify(ctx, s.Name, spki) }
	}
	if c.StateDir != "" {
		o.State = filepath.Join(c.StateDir, fmt.Sprintf("%s-%s", s.Kind, s.Name))
		if err := os.MkdirAll(o.State, 0o700); err != nil {
			return o, fmt.Errorf("%s: make state directory: %w", u.label(), err)
		}
	}
	return o, nil
}

// log puts a line of the catalog among those of the plugin.
func (u *unit) log(level slog.Level, line string) {
	if u.cat.o.Log != nil {
		u.cat.o.Log(u.spec.Kind, u.spec.Name, level, []byte(line))
	}
}

// holds reports whether c is still what calls are given.
func (u *unit) holds(c *plugin.Client) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.client == c
}

// get returns the plugin once it is ready.
func (u *unit) get(ctx context.Context) (*plugin.Client, error) {
	for {
		u.mu.Lock()
		client, status, changed := u.client, u.status, u.changed
		u.mu.Unlock()
		switch {
		case client != nil && !gone(client):
			return client, nil
		case status.State == StateFailed:
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: the plugin failed: %s; `cellkernel plugin restart %s-%s` tries again", u.label(), status.LastError, u.spec.Kind, u.spec.Name)
		case status.State == StateStopped:
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: the plugin is stopped", u.label())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, sdk.Errorf(sdk.CodeOf(ctx.Err()), "%s: wait for the plugin, which is in state %s: %v", u.label(), status.State, ctx.Err())
		}
	}
}

func gone(c *plugin.Client) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

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
	u.mu.Lock()
	before := u.starts
	u.mu.Unlock()
	select {
	case u.requests <- struct{}{}:
	default: // one is asked for already
	}
	return u.outcome(ctx, func() bool { return u.starts > before && u.status.State != StateStarting })
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
		case ok || status.State == StateStopped:
			return sdk.Errorf(sdk.CodeUnavailable, "%s: %s: %s", u.label(), status.State, status.LastError)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for the plugin: %w", u.label(), ctx.Err())
		}
	}
}
