package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/kernel/vacuole"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// selectCells returns the cells that a plan asks for, in the order in which
// they start.
func selectCells(g *genome.Genome, p admin.Plan) ([]sdk.CellName, error) {
	order, err := genome.Order(g)
	if err != nil || len(p.Cells) == 0 {
		return order, err
	}
	var names []sdk.CellName
	for _, n := range p.Cells {
		names = append(names, sdk.CellName(n))
	}
	closure, err := g.Closure(names...)
	if err != nil || !p.NoDeps {
		return closure, err
	}
	return slices.DeleteFunc(closure, func(n sdk.CellName) bool { return !slices.Contains(names, n) }), nil
}

// A binary is the program of a cell as it was when it was last started.
type binary struct {
	path  string
	stamp string // changes with the file
}

// build makes the programs of cells and notes what they are.
func (k *Kernel) build(ctx context.Context, g *genome.Genome, names []sdk.CellName) error {
	cells := g.Packages(names)
	if len(cells) == 0 {
		return nil
	}
	paths, err := k.opt.Build(ctx, cells, k.dirs.bin, func(text string) {
		k.journal.Publish(admin.Event{Kind: admin.EventBuild, Text: text})
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("find program of %q: %w", name, err)
		}
		k.built[name] = binary{path, fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())}
	}
	return nil
}

// addCell makes a cell known to the golgi and to the supervisor.
func (k *Kernel) addCell(g *genome.Genome, name sdk.CellName) error {
	c := g.Cells[name]
	k.golgi.Route(name, routes(g, c))
	return k.cells.Add(k.cellSpec(c))
}

// cellSpec says how the supervisor runs a cell.
func (k *Kernel) cellSpec(c *genome.Cell) supervisor.CellSpec {
	s := supervisor.CellSpec{
		Name: c.Name, Argv: k.argv(c), Env: environ(c), Dir: c.Dir, Replicas: c.Replicas,
		Restart: supervisor.RestartRule(c.Restart), Job: c.Job, Ready: supervisor.ReadyByCell,
		StartTimeout: c.StartTimeout, DrainTimeout: c.DrainTimeout, Limits: c.Limits.SDK(),
		Budget: supervisor.Budget{Restarts: c.Restarts.Max, Within: c.Restarts.Within},
	}
	switch {
	case c.Ready.Probe():
		s.Ready, s.Probe = supervisor.ReadyByProbe, supervisor.Probe{TCP: c.Ready.TCP, HTTP: c.Ready.HTTP, Exec: c.Ready.Exec}
		s.StartTimeout = c.Ready.Within
	case c.Job:
		s.Ready = supervisor.ReadyAtStart
	}
	return s
}

func (k *Kernel) argv(c *genome.Cell) []string {
	if c.Package == "" {
		return append(slices.Clone(c.Command), c.Args...)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string{k.built[c.Name].path}, c.Args...)
}

// inherited are the variables that cells get from the kernel's environment.
// Everything else, secrets among it, stays here.
var inherited = [...]string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
	"XDG_RUNTIME_DIR", "GOPATH", "GOCACHE", "GOMODCACHE", "GODEBUG", "GOCOVERDIR",
}

func environ(c *genome.Cell) []string {
	var env []string
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	for name, v := range c.Env {
		env = append(env, name+"="+v)
	}
	slices.Sort(env)
	return env
}

// routes says whom a cell may call, and who may call it.
func routes(g *genome.Genome, c *genome.Cell) golgi.Routes {
	r := golgi.Routes{Axons: make(map[sdk.CellName]golgi.Axon), Junctions: c.Junctions}
	for name, a := range c.Axons {
		axon := golgi.Axon{Peers: a.Peers}
		for _, t := range a.To {
			axon.To = append(axon.To, golgi.Target(t))
		}
		r.Axons[name] = axon
	}
	if len(c.Allow) > 0 {
		r.Allow = make(map[string]bool)
		for _, who := range c.Allow {
			r.Allow[who] = true
		}
	}
	for _, addr := range g.Listeners(c) {
		r.Doors = append(r.Doors, addr.String())
	}
	return r
}

// welcome is what a replica learns when it attaches.
func (k *Kernel) welcome(name sdk.CellName) channel.Welcome {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.genome.Cells[name]
	w := channel.Welcome{Links: k.genome.Golgi.Links, MaxMessage: int(k.genome.Golgi.MaxMessage), Meter: k.genome.Golgi.Billing != "", NodeCalls: k.genome.Kernel.NodeCalls}
	if c == nil {
		return w
	}
	w.Concurrency, w.DrainMS = c.Concurrency, c.DrainTimeout.Milliseconds()
	w.Axons = make(map[sdk.CellName]channel.Axon)
	for axon, a := range c.Axons {
		w.Axons[axon] = channel.Axon{TimeoutMS: a.Timeout.Milliseconds(), Retries: &a.Retries, Spread: a.Spread, Links: a.Links}
	}
	return w
}

// hooks connect the supervisor with the rest.
func (k *Kernel) hooks() supervisor.Hooks {
	return supervisor.Hooks{
		Start: k.attach, Started: k.metered, Exited: func(r supervisor.Replica, e supervisor.Exit) { k.gauge.Ended(workload(r), e.Exit) },
		Output: func(r supervisor.Replica, stdout, stderr *os.File) <-chan struct{} {
			return k.output(r, stdout, stderr)
		},
		Drain: func(ctx context.Context, r supervisor.Replica) error {
			err := k.golgi.Drain(ctx.Done(), golgi.Replica(r))
			if sdk.CodeOf(err) == sdk.CodeNotFound {
				return nil // it does not speak the sdk, or has left: SIGTERM says enough
			}
			return err
		},
		Event: k.cellChanged,
		LastLines: func(name sdk.CellName, index int) []string {
			return k.vacuole.Last(vacuole.Source{Kind: vacuole.Cell, Name: string(name), Replica: index}, lastLines)
		},
	}
}

const lastLines = 20 // shown of a cell that failed

// attach gives a process that is about to start its control channel: as an
// inherited descriptor, and as a token for wrappers that close descriptors.
func (k *Kernel) attach(ctx context.Context, r supervisor.Replica, c supervisor.CellSpec) (supervisor.Launch, error) {
	a, err := k.golgi.Attach(golgi.Replica(r), k.welcome(r.Cell))
	if err != nil {
		return supervisor.Launch{}, err
	}
	l := supervisor.Launch{
		Env: []string{
			cell.EnvFD + "=3", cell.EnvSocket + "=" + k.dirs.control, cell.EnvToken + "=" + a.Token,
		},
		Files: []*os.File{a.Channel}, Close: a.Cancel,
	}
	k.place(ctx, r, c, &l)
	return l, nil
}

// output stores what a replica prints. The standard output of the main job
// goes to the kernel's own, byte by byte, as well.
func (k *Kernel) output(r supervisor.Replica, stdout, stderr *os.File) <-chan struct{} {
	src := vacuole.Source{Kind: vacuole.Cell, Name: string(r.Cell), Replica: r.Index}
	var out io.ReadCloser = stdout
	k.mu.Lock()
	if r.Cell == k.genome.Workspace.Main {
		out = tee{stdout, k.opt.Stdout}
	}
	k.mu.Unlock()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for stream, pipe := range map[string]io.ReadCloser{"stdout": out, "stderr": stderr} {
		src.Stream = stream
		stored, err := k.vacuole.Attach(pipe, src)
		if err != nil {
			k.log.Error("store output", "source", src.String(), "error", err)
			pipe.Close()
			continue
		}
		wg.Go(func() { <-stored })
	}
	go func() { wg.Wait(); close(done) }() // ends with the pipes, which the supervisor waits for
	return done
}

// tee copies what is read.
type tee struct {
	io.ReadCloser
	w io.Writer
}

func (t tee) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	if n > 0 {
		// Whoever closed our standard output does not want the rest.
		_, _ = t.w.Write(b[:n])
	}
	return n, err
}

// startCells starts cells side by side, each when what it needs is ready, and
// waits until all are. The first that fails ends the wait.
func (k *Kernel) startCells(ctx context.Context, names []sdk.CellName) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := make(map[sdk.CellName]chan struct{}, len(names))
	for _, n := range names {
		ready[n] = make(chan struct{})
	}
	k.mu.Lock()
	g := k.genome
	k.mu.Unlock()
	var wg sync.WaitGroup
	for _, n := range names {
		wg.Go(func() {
			for _, need := range g.Needs(n) {
				other, starts := ready[need]
				if !starts {
					continue // runs already, or was not asked for
				}
				select {
				case <-other:
				case <-ctx.Done():
					return
				}
			}
			if err := k.startCell(ctx, n); err != nil {
				cancel(err)
				return
			}
			close(ready[n])
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (k *Kernel) startCell(ctx context.Context, name sdk.CellName) error {
	if err := k.cells.Start(ctx, name); err != nil {
		return err
	}
	return k.cells.WaitReady(ctx, name)
}

// bundled says how a plugin inside this program is started.
func (k *Kernel) bundled(kind plugin.Kind, use string) (plugin.Command, bool) {
	args, ok := k.opt.Bundled(sdk.Kind(kind), use)
	return plugin.Command{Path: "/proc/self/exe", Exe: k.opt.Self, Args: args}, ok
}

// launch starts plugins through the spawner, so that they have cgroups and are
// swept like cells.
func (k *Kernel) launch(ctx context.Context, c plugin.Command) (plugin.Process, error) {
	argv := append([]string{c.Path}, c.Args...)
	p, err := k.spawner.Spawn(ctx, supervisor.Spec{Name: c.Name, Exe: c.Exe, Argv: argv, Env: c.Env, Dir: c.Dir, Files: c.Files})
	if err != nil {
		return nil, err
	}
	return process{p}, nil
}

// process is a supervisor's process as a plugin's.
type process struct{ *supervisor.Process }

func (p process) Stdout() io.ReadCloser { return p.Process.Stdout }
func (p process) Stderr() io.ReadCloser { return p.Process.Stderr }

func (p process) Wait() error {
	e, err := p.Process.Wait(context.Background())
	if err == nil && (e.Code != 0 || e.Signal != 0) {
		err = errors.New(e.String())
	}
	return err
}

// pluginLog stores the lines of plugins.
func (k *Kernel) pluginLog() func(kind plugin.Kind, name string, level slog.Level, line []byte) {
	var mu sync.Mutex // guards writers
	writers := make(map[string]io.Writer)
	return func(kind plugin.Kind, name string, _ slog.Level, line []byte) {
		name = string(kind) + "-" + name
		mu.Lock()
		w := writers[name]
		if w == nil {
			var err error
			if w, err = k.vacuole.Writer(vacuole.Source{Kind: vacuole.Plugin, Name: name}); err != nil {
				mu.Unlock()
				k.log.Error("store output", "plugin", name, "error", err)
				return
			}
			writers[name] = w
		}
		mu.Unlock()
		// Two writes could be torn apart by another line.
		_, _ = w.Write(append(slices.Clone(line), '\n')) // never fails: see vacuole.Writer
	}
}

// pluginChanged publishes a plugin's state.
func (k *Kernel) pluginChanged(s catalog.Status) {
	p := pluginProcess(s)
	k.logState(p)
	k.journal.Publish(admin.Event{Kind: admin.EventState, Process: &p})
	k.network.PluginChanged(s)
}

// cellChanged publishes a replica's state, and with it that of its cell.
func (k *Kernel) cellChanged(s supervisor.Status) {
	p := cellProcess(s)
	k.logState(p)
	k.mu.Lock()
	defer k.mu.Unlock() // so that two events of a cell are in order
	if k.last[s.Cell] == nil {
		k.last[s.Cell] = make(map[int]supervisor.Status)
	}
	k.last[s.Cell][s.Index] = s
	st := cellStatus(k.genome, s.Cell, slices.Collect(maps.Values(k.last[s.Cell])))
	k.journal.Publish(admin.Event{Kind: admin.EventState, Process: &p, Cell: &st})
}

// logState writes what happened to a process to the kernel's log: the only
// trace of it that outlives the kernel.
func (k *Kernel) logState(p admin.Process) {
	level := slog.LevelInfo
	switch p.State {
	case admin.StateBackoff, admin.StateCrashLoop, admin.StateFailed:
		level = slog.LevelWarn
	}
	about := []any{"process", p.ID()}
	if p.PID != 0 {
		about = append(about, "pid", p.PID)
	}
	if p.Detail != "" {
		about = append(about, "why", p.Detail)
	}
	k.log.Log(context.Background(), level, string(p.State), about...)
}

// doubt tells people what looks like a slip of the hand in what is to run, and
// did not before.
func (k *Kernel) doubt(before, now []genome.Problem) {
	for _, p := range now {
		if !slices.ContainsFunc(before, func(b genome.Problem) bool { return b.Text == p.Text }) {
			k.note(p.Sentence())
		}
	}
}

// note tells people something, once: who shows events does not show the log's
// lines below WARN.
func (k *Kernel) note(text string) {
	k.log.Info(text)
	k.journal.Publish(admin.Event{Kind: admin.EventNote, Time: time.Now(), Text: text})
}
