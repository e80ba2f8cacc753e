package kernel

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/kernel/metrics"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/kernel/vacuole"
	"github.com/cellkernel/cellkernel/sdk"
)

// Version implements [admin.Viewer].
func (k *Kernel) Version() admin.Version {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := admin.Version{
		API: admin.APIVersion, Version: k.opt.Version, Node: k.genome.Kernel.Node, PID: os.Getpid(), Genome: k.genome.File,
	}
	for _, c := range k.genome.Cells {
		if !slices.Contains(v.Dirs, c.Dir) {
			v.Dirs = append(v.Dirs, c.Dir)
		}
	}
	slices.Sort(v.Dirs)
	return v
}

// Status implements [admin.Viewer].
func (k *Kernel) Status(context.Context) (*admin.Status, error) {
	s := &admin.Status{
		Posture: k.posture(), Version: k.Version(), Mesh: k.mesh(), Uptime: time.Since(k.begun).Milliseconds(), Problems: []string{}, Differs: []string{},
		Plugins: k.plugins(), Cells: k.cellStatuses(), LastEvent: k.journal.Last(),
	}
	k.mu.Lock()
	s.State, s.Differs = k.state, append(s.Differs, k.genome.PluginsUnlike(k.file)...)
	k.mu.Unlock()
	for _, c := range s.Cells {
		if c.State != admin.StateReady && c.State != admin.StateDone && c.State != admin.StateStopped {
			s.Problems = append(s.Problems, problem("cell "+string(c.Name), c.State, c.Detail))
		}
	}
	for _, p := range s.Plugins {
		if p.State != admin.StateReady {
			s.Problems = append(s.Problems, problem(fmt.Sprintf("plugin %s-%s", p.Kind, p.Name), p.State, p.Detail))
		}
	}
	if s.State == admin.StateReady && len(s.Problems) > 0 {
		s.State = admin.StateFailed
	}
	return s, nil
}

// problem is one line of [admin.Status].Problems.
func problem(what string, state admin.State, detail string) string {
	text := what + " is " + string(state)
	if detail != "" {
		text += ": " + detail
	}
	return text
}

// Processes implements [admin.Viewer].
func (k *Kernel) Processes(ctx context.Context) ([]admin.Process, error) {
	list := []admin.Process{k.self()}
	usage := k.gauge.Usage(ctx)
	for _, s := range k.cells.List() {
		if u, ok := usage[workload(s.Replica)]; ok {
			s.Usage = supervisor.Reading{CPU: u.CPU, RSS: u.RSS, Stall: u.Stall, Source: u.Source}
		}
		list = append(list, cellProcess(s))
	}
	for _, s := range k.catalog.Status() {
		list = append(list, pluginProcess(s))
	}
	return list, nil
}

// self describes the kernel's own process.
func (k *Kernel) self() admin.Process {
	k.mu.Lock()
	state := k.state
	k.mu.Unlock()
	p := admin.Process{
		Kind: admin.KindKernel, Name: "kernel", PID: os.Getpid(), State: state,
		UptimeMS: time.Since(k.begun).Milliseconds(), RSSBytes: supervisor.Observe(os.Getpid()).RSS,
	}
	var ru syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &ru) == nil {
		p.CPUUS, p.Meter = (ru.Utime.Nano()+ru.Stime.Nano())/1000, "rusage"
	}
	return p
}

func cellProcess(s supervisor.Status) admin.Process {
	p := admin.Process{
		Kind: admin.KindCell, Name: string(s.Cell), Replica: s.Index, Incarnation: s.Incarnation, PID: s.PID,
		State: admin.State(s.State), Restarts: s.Restarts, RSSBytes: s.Usage.RSS, CPUUS: s.Usage.CPU.Microseconds(), StallUS: s.Usage.Stall.Microseconds(), Meter: s.Usage.Source, Detail: s.Reason,
	}
	if s.PID != 0 {
		p.UptimeMS = time.Since(s.Started).Milliseconds()
	}
	return p
}

func pluginProcess(s catalog.Status) admin.Process {
	p := admin.Process{
		Kind: admin.KindPlugin, Name: string(s.Kind) + "-" + s.Name, PID: s.PID, State: admin.State(s.State),
		Restarts: s.Restarts,
	}
	if s.State != catalog.StateReady {
		p.Detail = s.LastError // it has got over what was before
	}
	if s.PID != 0 {
		p.UptimeMS = time.Since(s.Started).Milliseconds()
		r := supervisor.Observe(s.PID)
		p.RSSBytes, p.CPUUS, p.Meter = r.RSS, r.CPU.Microseconds(), r.Source
	}
	return p
}

// Plugins implements [admin.Viewer].
func (k *Kernel) Plugins(context.Context) ([]admin.Plugin, error) { return k.plugins(), nil }

func (k *Kernel) plugins() []admin.Plugin {
	list := []admin.Plugin{}
	for _, s := range k.catalog.Status() {
		p := pluginProcess(s)
		list = append(list, admin.Plugin{
			Kind: sdk.Kind(s.Kind), Name: s.Name, Version: s.Version, Source: s.Source, State: p.State,
			PID: s.PID, Restarts: s.Restarts, UptimeMS: p.UptimeMS, Detail: p.Detail,
		})
	}
	return list
}

// MetricProcesses implements [metrics.Source].
func (k *Kernel) MetricProcesses() []metrics.Process {
	all, _ := k.Processes(context.Background()) // has no way to fail
	var list []metrics.Process
	for _, p := range all {
		list = append(list, metrics.Process{
			Kind: p.Kind, Name: p.Name, State: string(p.State), Replica: p.Replica, Restarts: p.Restarts,
			CPU: float64(p.CPUUS) / 1e6, RSS: p.RSSBytes,
		})
	}
	return list
}

// MetricCalls implements [metrics.Source].
func (k *Kernel) MetricCalls() []metrics.Calls {
	var list []metrics.Calls
	for _, f := range k.golgi.Flows() {
		list = append(list, metrics.Calls{
			From: string(f.From), To: string(f.To), Links: f.Links, Calls: f.Stats.Calls, Errors: f.Stats.Errors,
			Handler: float64(f.Stats.HandlerUS) / 1e6, In: f.Stats.BytesIn, Out: f.Stats.BytesOut,
		})
	}
	return list
}

// cellStatuses sums up the replicas of each cell.
func (k *Kernel) cellStatuses() []admin.CellStatus {
	k.mu.Lock()
	g, wanted := k.genome, slices.Clone(k.wanted)
	k.mu.Unlock()
	byCell := make(map[sdk.CellName][]supervisor.Status)
	for _, s := range k.cells.List() {
		byCell[s.Cell] = append(byCell[s.Cell], s)
	}
	list := []admin.CellStatus{}
	for _, name := range wanted {
		list = append(list, cellStatus(g, name, byCell[name]))
	}
	return list
}

// cellStatus sums up the replicas of one cell.
func cellStatus(g *genome.Genome, name sdk.CellName, replicas []supervisor.Status) admin.CellStatus {
	st := admin.CellStatus{Name: name, Want: len(replicas), State: admin.StateReady, Main: g.Workspace.Main == name}
	if c := g.Cells[name]; c != nil {
		st.Job = c.Job
	}
	for _, s := range replicas {
		sum(&st, s)
	}
	return st
}

// gravity orders states: a cell is in the gravest state of its replicas.
var gravity = [...]supervisor.State{
	supervisor.Ready, supervisor.Done, supervisor.Stopped, supervisor.Draining, supervisor.Starting,
	supervisor.Backoff, supervisor.Crashloop, supervisor.Failed,
}

func sum(st *admin.CellStatus, s supervisor.Status) {
	switch s.State {
	case supervisor.Ready:
		st.Ready++
	case supervisor.Done:
		st.Want-- // it has done what was wanted
	}
	if slices.Index(gravity[:], s.State) > slices.Index(gravity[:], supervisor.State(st.State)) {
		st.State = admin.State(s.State)
		if s.State != supervisor.Done {
			st.Detail = ""
			if s.Reason != "" {
				st.Detail = fmt.Sprintf("%s#%d %s", s.Cell, s.Index, s.Reason)
			}
		}
	}
}

func (k *Kernel) mesh() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return membership.MeshName(k.genome.Kernel.Mesh)
}

// namedReplicas is how many replicas of a cell a drain lists one by one.
const namedReplicas = 4

// waitingFor names the replicas that run, of a cell with many their number.
// The list is sorted by cell.
func waitingFor(list []supervisor.Status) []string {
	var out []string
	for len(list) > 0 {
		name, end := list[0].Cell, 0
		var of []string
		for end < len(list) && list[end].Cell == name {
			s := list[end]
			end++
			if s.State == supervisor.Ready || s.State == supervisor.Starting || s.State == supervisor.Draining {
				of = append(of, fmt.Sprintf("%s#%d", s.Cell, s.Index))
			}
		}
		if len(of) > namedReplicas {
			of = []string{fmt.Sprintf("%s (%d)", name, len(of))}
		}
		out, list = append(out, of...), list[end:]
	}
	return out
}

// Events implements [admin.Watcher].
func (k *Kernel) Events(ctx context.Context, after uint64, yield func(admin.Event) error) error {
	return k.journal.Follow(ctx, after, yield)
}

// Logs implements [admin.Watcher].
func (k *Kernel) Logs(ctx context.Context, q admin.LogQuery, yield func(admin.LogRecord) error) error {
	<-k.started // there is no log before
	if err := k.knownSources(q.Sources); err != nil {
		return err
	}
	if !q.Follow {
		return StoredLogs(ctx, k.vacuole.Dir(), q, yield)
	}
	sub, err := k.vacuole.Follow(vacuole.Query{Names: q.Sources, Since: q.Since, Tail: q.Tail})
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		l, err := sub.Next(ctx)
		if err == io.EOF || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := yield(logRecord(l)); err != nil {
			return err
		}
	}
}

// StoredLogs reads the logs in dir, which may be those of a kernel that has
// ended: .cell/logs beside its genome. It does not follow them.
func StoredLogs(ctx context.Context, dir string, q admin.LogQuery, yield func(admin.LogRecord) error) error {
	var failed error
	query := vacuole.Query{Names: q.Sources, Since: q.Since, Tail: q.Tail}
	err := vacuole.Read(ctx, dir, query, func(l vacuole.Line) bool {
		failed = yield(logRecord(l))
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

// continued is how the vacuole marks a piece of a long line.
const continued = " [+]"

func logRecord(l vacuole.Line) admin.LogRecord {
	text, partial := strings.CutSuffix(l.Text, continued)
	if l.Lost > 0 {
		text = fmt.Sprintf("(%d lines were written faster than they could be shown)", l.Lost)
	}
	return admin.LogRecord{
		Time: l.Time, Kind: string(l.Source.Kind), Name: l.Source.Name, Replica: l.Source.Replica,
		Stream: l.Source.Stream, Text: text, Partial: partial,
	}
}

// knownSources refuses names that nothing has.
func (k *Kernel) knownSources(names []string) error {
	known := map[string]bool{"kernel": true}
	for _, s := range k.cells.List() {
		known[string(s.Cell)], known[fmt.Sprintf("%s#%d", s.Cell, s.Index)] = true, true
	}
	for _, s := range k.catalog.Status() {
		known[string(s.Kind)+"-"+s.Name] = true
	}
	for _, n := range names {
		if !known[n] {
			return sdk.Errorf(sdk.CodeNotFound, "find log of %.80q: no such cell or plugin", n)
		}
	}
	return nil
}

func (k *Kernel) setState(s admin.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = s
}

func (k *Kernel) setWanted(names []sdk.CellName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = names
}

func (k *Kernel) wantedCells() []sdk.CellName {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.wanted)
}

// running is a genome, and the cells of it that run.
func (k *Kernel) running() (*genome.Genome, []sdk.CellName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.genome, slices.Clone(k.wanted)
}

// genomeNow returns what runs, which is what the files said when it was last
// read, with what was changed by hand since.
func (k *Kernel) genomeNow() *genome.Genome {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.genome
}
