// Package build makes the executables of cells that are Go packages. It
// regenerates stale generated code, asks the go command which files matter,
// and remembers the answer beside the executable: as long as none of them
// changed, a later call runs no process at all.
//
// Any number of kernels may build the same cells at the same time: outputs
// and records are replaced whole, and a record names the very executable it
// belongs to.
package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen"
)

// A Job is one cell to build.
type Job struct {
	Name    string // of the cell, for messages
	Dir     string // absolute: where Package is relative to, and which module it belongs to
	Package string // import path, absolute directory, or one that begins with a dot
	Out     string // absolute path of the executable; its directory is made
}

// Options say how to build. The zero Options are usable.
type Options struct {
	Log func(line string) // told what is done and why, from one goroutine; may be nil
	Env []string          // for the go command, as os.Environ; nil: this process's own
}

// A Result is what happened to one job.
type Result struct {
	Name        string
	Path        string // of the executable; empty if it could not be built
	Built       bool   // Path is a new file; it differs from the one before
	Regenerated bool   // generated code of the cell's module was stale and written again
}

// Cells builds what changed and returns one result for each job, in order. It
// blocks while the go command runs and kills it when ctx is done. Jobs do not
// spoil each other: the error names each cell that could not be built, with
// the compiler's lines. A running executable is never written to, only
// replaced.
func Cells(ctx context.Context, jobs []Job, opts Options) ([]Result, error) {
	b := newBuilder(opts)
	results := make([]Result, len(jobs))
	modules := map[string][]*task{}
	var order []string
	var errs []error
	for i, j := range jobs {
		results[i].Name = j.Name
		if err := j.check(); err != nil {
			errs = append(errs, err)
			continue
		}
		why := b.stale(j)
		if why == "" {
			results[i].Path = j.Out
			continue
		}
		root := moduleRoot(j)
		if modules[root] == nil {
			order = append(order, root)
		}
		modules[root] = append(modules[root], &task{Job: j, why: why, result: &results[i]})
	}
	for _, root := range order {
		m := &module{builder: b, root: root, tasks: modules[root]}
		m.build(ctx)
		errs = append(errs, m.errors()...)
	}
	return results, errors.Join(errs...)
}

// errors returns what went wrong, once where several cells fail for one reason.
func (m *module) errors() []error {
	var list []error
	told := map[string]bool{}
	for _, t := range m.tasks {
		if t.err == nil || told[t.err.Error()] {
			continue
		}
		told[t.err.Error()] = true
		what := fmt.Sprintf("cell %q", t.Name)
		for _, other := range m.tasks {
			if other != t && other.err != nil && other.err.Error() == t.err.Error() {
				what += fmt.Sprintf(", %q", other.Name)
			}
		}
		list = append(list, fmt.Errorf("build %s: %w", what, t.err))
	}
	return list
}

// Stale says for each job that [Cells] would build why it would. It runs and
// writes nothing, so it can not know whether building will succeed.
func Stale(jobs []Job, opts Options) (map[string]string, error) {
	b := newBuilder(opts)
	why := map[string]string{}
	for _, j := range jobs {
		if err := j.check(); err != nil {
			return nil, err
		}
		if text := b.stale(j); text != "" {
			why[j.Name] = text
		}
	}
	return why, nil
}

func (j Job) check() error {
	switch {
	case !filepath.IsAbs(j.Dir) || !filepath.IsAbs(j.Out):
		return fmt.Errorf("build cell %q: directory %q and output %q: want absolute paths", j.Name, j.Dir, j.Out)
	case j.Package == "" || strings.HasPrefix(j.Package, "-") || strings.Contains(j.Package, "..."):
		return fmt.Errorf("build cell %q: package %q: want an import path or a directory", j.Name, j.Package)
	}
	return nil
}

// pattern is the package as the go command understands it from any directory
// of the module.
func (j Job) pattern() string {
	if j.Package == "." || j.Package == ".." || strings.HasPrefix(j.Package, "./") || strings.HasPrefix(j.Package, "../") {
		return filepath.Join(j.Dir, j.Package)
	}
	return j.Package
}

// moduleRoot is the directory of the module that the job belongs to, or the
// job's own if there is none: then the go command says what is wrong.
func moduleRoot(j Job) string {
	dir := j.Dir
	if p := j.pattern(); filepath.IsAbs(p) {
		dir = p
	}
	for up := dir; ; up = filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(up, "go.mod")); err == nil {
			return up
		}
		if up == filepath.Dir(up) {
			return j.Dir
		}
	}
}

// A task is a job that is not up to date.
type task struct {
	Job
	why    string
	result *Result
	pkg    *listed  // its main package, once it was listed
	own    []string // directories of the cell's own module
	rec    *record
	built  string // where go build left the executable
	err    error
}

// A builder is one call of Cells.
type builder struct {
	opts  Options
	tool  tool
	sums  map[watch]sum   // of what was looked at; emptied when files may have changed
	stats map[string]bool // directory: its generated code is stale
}

func newBuilder(opts Options) *builder {
	if opts.Env == nil {
		opts.Env = os.Environ()
	}
	return &builder{opts: opts, tool: findTool(opts.Env), sums: map[watch]sum{}, stats: map[string]bool{}}
}

func (b *builder) log(format string, args ...any) {
	if b.opts.Log != nil {
		b.opts.Log(fmt.Sprintf(format, args...))
	}
}

// forget makes the builder look at all files again.
func (b *builder) forget() {
	clear(b.sums)
	clear(b.stats)
}

// A module is the tasks of one Go module: one go build makes them all.
type module struct {
	*builder
	root  string
	tasks []*task
	tmp   string    // outputs before they are put in place
	begun time.Time // by the clock of the file system
}

func (m *module) failAll(err error) {
	for _, t := range m.tasks {
		if t.err == nil {
			t.err = err
		}
	}
}

// alive lists the tasks that have not failed.
func (m *module) alive() []*task {
	return slices.DeleteFunc(slices.Clone(m.tasks), func(t *task) bool { return t.err != nil })
}

func (m *module) build(ctx context.Context) {
	for _, t := range m.tasks {
		m.log("build %s: %s", t.Name, t.why)
	}
	if m.tool.path == "" {
		m.failAll(errors.New(`find "go" in PATH: not there: install Go 1.26 or newer, or give the cell a command instead of a package`))
		return
	}
	if err := m.makeTemp(); err != nil {
		m.failAll(err)
		return
	}
	defer os.RemoveAll(m.tmp)
	if err := m.list(ctx); err != nil {
		m.failAll(err)
		return
	}
	if again := m.regenerate(ctx); again {
		if err := m.touchClock(); err != nil {
			m.failAll(err)
			return
		}
		if err := m.list(ctx); err != nil {
			m.failAll(err)
			return
		}
	}
	for _, t := range m.alive() {
		t.rec = m.newRecord(t)
	}
	m.compile(ctx)
	m.forget()
	for _, t := range m.alive() {
		if t.err = m.place(t); t.err == nil {
			t.err = m.remember(t)
		}
	}
}

// makeTemp makes the directory for outputs, beside where they will be, so
// that putting them in place is a rename.
func (m *module) makeTemp() error {
	dir := filepath.Dir(m.tasks[0].Out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	removeOld(dir)
	tmp, err := os.MkdirTemp(dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	m.tmp = tmp
	return m.touchClock()
}

const (
	tempPrefix = ".build-"
	tempMaxAge = 24 * time.Hour
)

// removeOld removes what builds that were killed left behind.
func removeOld(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")) // the pattern is well formed
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > tempMaxAge {
			os.RemoveAll(path)
		}
	}
}

// touchClock reads the file system's clock, which lags behind the system's:
// what changed later than now says so with its own time.
func (m *module) touchClock() error {
	f, err := os.CreateTemp(m.tmp, "clock-")
	if err != nil {
		return fmt.Errorf("read clock of %s: %w", m.tmp, err)
	}
	defer os.Remove(f.Name())
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read clock of %s: %w", m.tmp, err)
	}
	m.begun = info.ModTime()
	return nil
}

// regenerate writes stale generated code in the cells' own module and reports
// whether it wrote any.
func (m *module) regenerate(ctx context.Context) bool {
	wrote := false
	failed := map[string]error{}
	for _, t := range m.alive() {
		for _, dir := range t.own {
			if !m.generatedStale(dir) {
				continue
			}
			err, seen := failed[dir]
			if !seen {
				var changed bool
				changed, err = m.generate(ctx, dir)
				failed[dir], wrote = err, wrote || changed
			}
			if err != nil {
				t.err = err
				break
			}
			t.result.Regenerated = true
		}
	}
	m.forget()
	return wrote
}

func (m *module) generate(ctx context.Context, dir string) (changed bool, err error) {
	out, err := gen.Run(ctx, []string{dir}, gen.Options{Dir: m.root})
	if err != nil {
		return false, err
	}
	for _, r := range out {
		if len(r.Changed) > 0 {
			changed = true
			m.log("regenerate %s: %s", shorten(dir, m.root), strings.Join(r.Changed, ", "))
		}
	}
	return changed, nil
}

// shorten returns path relative to base if it is below it.
func shorten(path, base string) string {
	if rel, err := filepath.Rel(base, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}
