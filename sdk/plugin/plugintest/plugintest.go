package plugintest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// A Target is a plugin to be tested. It yields any number of instances.
type Target struct {
	mode    string
	process bool
	open    func(ctx context.Context, o plugin.Options) (*plugin.Client, error)
}

// InProcess tests a plugin inside this process, over a pipe.
func InProcess(p plugin.Plugin) Target {
	return Target{mode: "pipe", open: func(ctx context.Context, o plugin.Options) (*plugin.Client, error) {
		return plugin.Pipe(ctx, p, o)
	}}
}

// Command tests the executable at path, which is started with args.
func Command(path string, args ...string) Target {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return Process(plugin.Command{Path: path, Args: args})
}

// Process tests what cmd starts.
func Process(cmd plugin.Command) Target {
	return Target{mode: "process", process: true, open: func(ctx context.Context, o plugin.Options) (*plugin.Client, error) {
		return plugin.Start(ctx, cmd, o)
	}}
}

// Options adapt the clauses to a plugin. The zero value is good for most.
type Options struct {
	Config map[string]any // the plugin's section
	// Second is the section of the second instance where a clause needs two;
	// nil for the same as Config.
	Second map[string]any
	// Host is what a transport is to listen on, "127.0.0.1:0"; empty to try
	// the usual ones.
	Host string
	// Alone says that instances of a discovery can not meet, as those of an
	// in-memory one in two processes: clauses that need two are skipped.
	Alone bool
	// Volatile says that a ledger forgets everything when it ends.
	Volatile bool
	// Only names the clauses to check; nil for all. The start is always checked.
	Only    []string
	Timeout time.Duration // of one clause; 0 for 30 s
	RunDir  string        // see plugin.Options
	Env     []string      // see plugin.Options
	Launch  plugin.Launch // see plugin.Options
	Log     func(level slog.Level, line []byte)
}

// The verdicts of a [Result].
const (
	Pass = "pass"
	Fail = "fail"
	Skip = "skip"
)

// A Result is what became of one clause.
type Result struct {
	Clause  string `json:"clause"`  // "transport/eof-after-bytes"
	Promise string `json:"promise"` // what the plugin has to keep
	Verdict string `json:"verdict"` // pass, fail or skip
	Why     string `json:"why,omitempty"`
	Millis  int64  `json:"ms"`
}

// A Report is what became of all clauses.
type Report struct {
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Mode    string   `json:"mode"` // pipe or process
	OK      bool     `json:"ok"`   // no clause failed
	Results []Result `json:"results"`
}

// A clause is one promise and its check.
type clause struct {
	name    string
	promise string
	check   func(e *env) error
	process bool // makes sense for processes only
}

// Run checks all clauses of the target's kind, one after the other. A target
// that does not start fails the first clause and has the others skipped.
func Run(ctx context.Context, t Target, o Options) Report {
	r := Report{Mode: t.mode, OK: true}
	r.each(ctx, t, o, func(_ string, check func() Result) {
		r.Results = append(r.Results, check())
		r.OK = r.OK && r.Results[len(r.Results)-1].Verdict != Fail
	})
	return r
}

// Test checks each clause as a subtest.
func Test(t *testing.T, target Target, o Options) {
	t.Helper()
	r := Report{Mode: target.mode}
	r.each(t.Context(), target, o, func(name string, check func() Result) {
		t.Run(name, func(t *testing.T) {
			switch res := check(); res.Verdict {
			case Fail:
				t.Errorf("%s: %s", res.Promise, res.Why)
			case Skip:
				t.Skip(res.Why)
			}
		})
	})
}

// each hands out the clauses. The first tells the kind.
func (r *Report) each(ctx context.Context, t Target, o Options, do func(name string, check func() Result)) {
	var info plugin.Info
	start := clause{name: "start", promise: "describes itself, opens and answers pings", check: func(e *env) error {
		c, err := e.open()
		if err != nil {
			return err
		}
		info = c.Info()
		return c.Ping(e.ctx)
	}}
	started := false
	do("start", func() Result {
		res := start.run(ctx, t, o, info)
		started = res.Verdict == Pass
		return res
	})
	r.Kind, r.Name, r.Version = string(info.Kind), info.Name, info.Version
	for _, c := range clausesOf(info.Kind) {
		if o.Only != nil && !slices.Contains(o.Only, c.name) {
			continue
		}
		do(c.name, func() Result {
			if !started {
				return Result{Clause: c.name, Promise: c.promise, Verdict: Skip, Why: "the plugin does not start"}
			}
			return c.run(ctx, t, o, info)
		})
	}
}

func clausesOf(kind plugin.Kind) []clause {
	all := commonClauses()
	switch kind {
	case plugin.KindTransport:
		return append(all, transportClauses()...)
	case plugin.KindDiscovery:
		return append(all, discoveryClauses()...)
	case plugin.KindLedger:
		return append(all, ledgerClauses()...)
	case plugin.KindBilling:
		return append(all, billingClauses()...)
	}
	return all
}

func (c clause) run(ctx context.Context, t Target, o Options, info plugin.Info) Result {
	res := Result{Clause: c.name, Promise: c.promise, Verdict: Pass}
	begin := time.Now()
	err := c.try(ctx, t, o, info)
	res.Millis = time.Since(begin).Milliseconds()
	var skip skipError
	switch {
	case errors.As(err, &skip):
		res.Verdict, res.Why = Skip, string(skip)
	case err != nil:
		res.Verdict, res.Why = Fail, err.Error()
	}
	return res
}

func (c clause) try(ctx context.Context, t Target, o Options, info plugin.Info) (err error) {
	if c.process && !t.process {
		return skipError("not for plugins in this process")
	}
	limit := o.Timeout
	if limit == 0 {
		limit = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	dir, err := os.MkdirTemp(o.RunDir, "pt")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	e := &env{ctx: ctx, target: t, o: o, info: info, dir: dir}
	defer func() { err = errors.Join(err, e.close()) }()
	return c.check(e)
}

// A skipError is why a clause can not be checked.
type skipError string

func (e skipError) Error() string { return string(e) }

// An env is what one clause runs in.
type env struct {
	ctx     context.Context
	target  Target
	o       Options
	info    plugin.Info
	dir     string
	clients []*plugin.Client
	cleanup []func()
	tail    lastLines
}

// later runs f when the clause has ended, before the plugins are stopped.
func (e *env) later(f func()) { e.cleanup = append(e.cleanup, f) }

func (e *env) open() (*plugin.Client, error) { return e.openWith(e.o.Config, "") }

// openWith opens an instance that is stopped when the clause ends.
func (e *env) openWith(config map[string]any, state string) (*plugin.Client, error) {
	c, err := e.target.open(e.ctx, plugin.Options{
		Kind: e.info.Kind, Config: config, State: state, RunDir: e.o.RunDir, Env: e.o.Env, Launch: e.o.Launch, Certify: Certify,
		Log: func(level slog.Level, line []byte) {
			e.tail.add(line)
			if e.o.Log != nil {
				e.o.Log(level, line)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	e.clients = append(e.clients, c)
	return c, nil
}

// close ends what the clause left. A plugin that died meanwhile, unless the
// clause killed it, is a failure of the clause.
func (e *env) close() error {
	for i := len(e.cleanup) - 1; i >= 0; i-- {
		e.cleanup[i]()
	}
	var errs []error
	for _, c := range e.clients {
		if err := c.Err(); err != nil {
			errs = append(errs, fmt.Errorf("%w; the last it wrote:%s", err, e.tail.String()))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_ = c.Stop(ctx) // its own clause checks it
		cancel()
	}
	return errors.Join(errs...)
}

// drop makes close forget c: the clause ended it.
func (e *env) drop(c *plugin.Client) {
	for i, x := range e.clients {
		if x == c {
			e.clients = append(e.clients[:i], e.clients[i+1:]...)
			return
		}
	}
}

type lastLines struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (l *lastLines) add(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(line[:min(len(line), 300)]))
	if len(l.lines) > 5 {
		l.lines = l.lines[1:]
	}
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return "\n    " + strings.Join(l.lines, "\n    ")
}
