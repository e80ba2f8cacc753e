// Package admintest has a kernel of the imagination for tests of whatever
// talks to an admin socket.
package admintest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// A Fake is an [admin.Kernel] that answers from its fields, which tests set
// before they serve it. Every request that changes something is noted.
type Fake struct {
	V        admin.Version
	S        admin.Status
	Procs    []admin.Process
	Plug     []admin.Plugin
	Settings []admin.Setting
	Records  []admin.LogRecord
	Methods  map[sdk.CellName][]admin.Method
	Changes  []admin.Change // what Apply answers
	Run      admin.Launch   // what Launch answers
	Mates    admin.Peers    // what Peers answers
	Pulses   []admin.Pulse  // what Ping yields, for each node that Mates has
	Why      admin.Explanation
	Kept     []admin.Denial // what Denied answers
	Money    *admin.Wallet  // what Wallet answers; nil: it keeps no book
	Booked   []admin.Entry  // what Entries yields
	// OnCall answers calls; nil: every method is unknown.
	OnCall func(ctx context.Context, r admin.CallRequest) (json.RawMessage, error)
	// Fail makes a method, named as in [admin.Kernel], answer an error.
	Fail map[string]error
	// OnDown runs when Down is asked for, after its events.
	OnDown func()
	// Draining are the events of Down.
	Draining []admin.Event
	Journal  *admin.Journal

	mu    sync.Mutex // guards noted
	noted []string
}

var _ admin.Kernel = (*Fake)(nil)

// New returns a fake of two ready workers, a failed cell and a plugin.
func New() *Fake {
	proc := func(kind, name string, replica, pid int, state admin.State) admin.Process {
		return admin.Process{Kind: kind, Name: name, Replica: replica, PID: pid, State: state,
			UptimeMS: 61_000, RSSBytes: 12 << 20, CPUUS: 1_500_000}
	}
	v := admin.Version{API: admin.APIVersion, Version: "v0.0.0-fake", Node: "desk-fake", PID: 4711,
		Genome: "/nowhere/genome.toml", Dirs: []string{"/nowhere"}}
	plug := admin.Plugin{Kind: sdk.KindTransport, Name: "uds", Version: "v1", Source: "bundled",
		State: admin.StateReady, PID: 4715, UptimeMS: 61_000}
	return &Fake{
		V:       v,
		S:       admin.Status{State: admin.StateReady, Posture: "node desk-fake: this machine only", Version: v, Mesh: "private", Uptime: 61_000},
		Plug:    []admin.Plugin{plug},
		Journal: admin.NewJournal(64),
		Procs: []admin.Process{
			proc(admin.KindKernel, "kernel", 0, 4711, admin.StateReady),
			proc(admin.KindCell, "worker", 1, 4712, admin.StateReady),
			proc(admin.KindCell, "worker", 2, 4713, admin.StateReady),
			proc(admin.KindPlugin, "transport-uds", 0, 4715, admin.StateReady),
		},
		Methods: map[sdk.CellName][]admin.Method{
			"worker": {{Service: "Worker", Name: "Work", Doc: "Work burns CPU."}},
		},
	}
}

// Serve serves f at dir/admin.sock until the returned func is called.
func (f *Fake) Serve(dir string) (stop func(), err error) {
	ln, err := admin.Listen(dir + "/" + admin.SocketName)
	if err != nil {
		return nil, err
	}
	return f.ServeOn(ln), nil
}

// ServeOn serves f on ln until the returned func is called.
func (f *Fake) ServeOn(ln net.Listener) (stop func()) {
	srv := admin.NewServer(f, admin.Options{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	return sync.OnceFunc(func() {
		f.Journal.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		wg.Wait()
	})
}

// Noted returns the changes that were asked for, in order: "scale worker 4".
func (f *Fake) Noted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.noted)
}

func (f *Fake) note(method, format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noted = append(f.noted, strings.TrimSpace(fmt.Sprintf(format, args...)))
	return f.Fail[method]
}

// cell returns what is wrong with a name.
func (f *Fake) cell(name sdk.CellName) error {
	for _, p := range f.Procs {
		if p.Kind == admin.KindCell && p.Name == string(name) {
			return nil
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "find cell %q: no such cell", name)
}

// Version implements [admin.Viewer].
func (f *Fake) Version() admin.Version { return f.V }

// Status implements [admin.Viewer].
func (f *Fake) Status(context.Context) (*admin.Status, error) { return &f.S, f.Fail["Status"] }

// Processes implements [admin.Viewer].
func (f *Fake) Processes(context.Context) ([]admin.Process, error) {
	return f.Procs, f.Fail["Processes"]
}

// Plugins implements [admin.Viewer].
func (f *Fake) Plugins(context.Context) ([]admin.Plugin, error) { return f.Plug, f.Fail["Plugins"] }

// Config implements [admin.Viewer].
func (f *Fake) Config(context.Context) ([]admin.Setting, error) {
	return f.Settings, f.Fail["Config"]
}

// Events implements [admin.Watcher].
func (f *Fake) Events(ctx context.Context, after uint64, yield func(admin.Event) error) error {
	return f.Journal.Follow(ctx, after, yield)
}

// Logs implements [admin.Watcher].
func (f *Fake) Logs(ctx context.Context, q admin.LogQuery, yield func(admin.LogRecord) error) error {
	var recs []admin.LogRecord
	known := map[string]bool{"kernel": true}
	for _, p := range f.Procs {
		known[p.Name], known[p.ID()] = true, true
	}
	for _, s := range q.Sources {
		if !known[s] {
			return sdk.Errorf(sdk.CodeNotFound, "find log of %q: no such cell or plugin", s)
		}
	}
	for _, r := range f.Records {
		wanted := len(q.Sources) == 0 || slices.Contains(q.Sources, r.ID()) || slices.Contains(q.Sources, r.Name)
		if wanted && !r.Time.Before(q.Since) {
			recs = append(recs, r)
		}
	}
	if q.Tail > 0 && len(recs) > q.Tail {
		recs = recs[len(recs)-q.Tail:]
	}
	for _, r := range recs {
		if err := yield(r); err != nil {
			return err
		}
	}
	if q.Follow {
		<-ctx.Done()
	}
	return f.Fail["Logs"]
}

// Start implements [admin.Controller].
func (f *Fake) Start(_ context.Context, t admin.Target) error { return f.control("Start", t) }

// Stop implements [admin.Controller].
func (f *Fake) Stop(_ context.Context, t admin.Target) error { return f.control("Stop", t) }

// Restart implements [admin.Controller].
func (f *Fake) Restart(_ context.Context, t admin.Target) error { return f.control("Restart", t) }

func (f *Fake) control(method string, t admin.Target) error {
	if err := f.cell(t.Cell); err != nil {
		return err
	}
	return f.note(method, "%s %s", strings.ToLower(method), t)
}

// Scale implements [admin.Controller].
func (f *Fake) Scale(_ context.Context, cell sdk.CellName, replicas int) error {
	if err := f.cell(cell); err != nil {
		return err
	}
	return f.note("Scale", "scale %s %d", cell, replicas)
}

// RestartPlugin implements [admin.Controller].
func (f *Fake) RestartPlugin(_ context.Context, name string) error {
	for _, p := range f.Plug {
		if name == p.Name || name == string(p.Kind)+"-"+p.Name {
			return f.note("RestartPlugin", "restart plugin %s", name)
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "restart plugin %q: no such plugin", name)
}

// SwapPlugin implements [admin.Controller].
func (f *Fake) SwapPlugin(_ context.Context, from, to string, force bool) error {
	for _, p := range f.Plug {
		if from == p.Name || from == string(p.Kind)+"-"+p.Name {
			return f.note("SwapPlugin", "swap plugin %s %s %t", from, to, force)
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "swap plugin %q: no such plugin", from)
}

// Apply implements [admin.Controller].
func (f *Fake) Apply(_ context.Context, p admin.Plan) ([]admin.Change, error) {
	verb := "apply"
	if p.DryRun {
		verb = "plan"
	}
	return f.Changes, f.note("Apply", "%s %s %s", verb, p.File, strings.Join(p.Cells, " "))
}

// Down implements [admin.Controller].
func (f *Fake) Down(_ context.Context, r admin.DownRequest, yield func(admin.Event) error) error {
	for _, e := range f.Draining {
		if err := yield(e); err != nil {
			return err
		}
	}
	if f.OnDown != nil {
		f.OnDown()
	}
	return f.note("Down", "down now=%v within=%v", r.Now, r.Within)
}

// Describe implements [admin.Caller].
func (f *Fake) Describe(_ context.Context, cell sdk.CellName) ([]admin.Method, error) {
	if err := f.cell(cell); err != nil {
		return nil, err
	}
	return f.Methods[cell], f.Fail["Describe"]
}

// Call implements [admin.Caller].
func (f *Fake) Call(ctx context.Context, r admin.CallRequest) (json.RawMessage, error) {
	if err := f.cell(r.Target.Cell); err != nil {
		return nil, err
	}
	if f.OnCall == nil {
		return nil, sdk.Errorf(sdk.CodeNotFound, "call %s.%s: no such method", r.Target, r.Method)
	}
	return f.OnCall(ctx, r)
}

// Launch implements [admin.Caller].
func (f *Fake) Launch(_ context.Context, cell sdk.CellName, command []string) (*admin.Launch, error) {
	if err := f.cell(cell); err != nil {
		return nil, err
	}
	l := f.Run
	if len(command) > 0 {
		l.Command = command
	}
	return &l, f.note("Launch", "launch %s", cell)
}
