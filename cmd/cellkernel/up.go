package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// A runner is a kernel of this process that has not started yet.
type runner interface {
	admin.Kernel
	// Run boots the kernel, serves its admin socket, and blocks until it has
	// ended: because Down was called, because its main job ended, whose exit
	// code it returns, or because booting failed. When ctx is done it kills
	// everything at once. When it returns, the events and logs have ended.
	Run(ctx context.Context) (exit int, err error)
}

// bootOptions are what a new kernel is made of.
type bootOptions struct {
	Plan    admin.Plan
	Genome  *genome.Genome // what Plan's sources say; valid
	Origins *config.Origins
	Version string
	Stdout  io.Writer // gets the bytes of the main job's standard output, and nothing else
}

// A booter makes a kernel, without starting anything.
type booter func(context.Context, bootOptions) (runner, error)

// logLimit bounds how long the last lines of a kernel that has ended may take
// to be shown.
const logLimit = 5 * time.Second

type upFlags struct {
	plan   admin.Plan
	detach bool
	donor  bool
	child  int // descriptor to report to; 0: we are not the detached child
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up [FILE] [CELL]...",
		Short: "Boot the cells of a genome.toml, or bring a running kernel in line with it",
		Long: `Up builds what is stale, starts a kernel with its plugins and cells, and stays in the foreground:
standard output carries only what the main job writes, standard error everything else. The first
Ctrl-C drains and says what it waits for, the second kills. When the main job ends, up ends with
its exit code.

If a kernel runs the file already, up plans the difference, prints it, applies it and waits. It ends
with 1 if something is not ready then, whether up has changed it or not.
FILE is a genome.toml or its directory (default: the nearest one from the working directory upward);
CELLs limit what is started to these and what they need.`,
		Example: "  cellkernel up\n  cellkernel up examples/bench/genome.toml --set cells.worker.replicas=2\n  cellkernel up -d worker",
		Args:    args(0, -1), ValidArgsFunction: a.completeUp,
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := a.planFrom(&f.plan, words); err != nil {
				return err
			}
			if f.donor { // behind what --set says: the word is the later one
				f.plan.Sets = append(f.plan.Sets, "kernel.donor=true")
			}
			if f.child > 0 {
				return a.reportUp(cmd.Context(), &f)
			}
			return a.up(cmd.Context(), &f, a.inForeground)
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&f.detach, "detach", "d", false, "return when all is ready or something failed; the kernel goes on")
	fl.BoolVar(&f.plan.NoDeps, "no-deps", false, "start the named cells without what they need")
	fl.BoolVar(&f.plan.DryRun, "dry-run", false, "only print what would change; ends with 9 if anything would")
	fl.BoolVar(&f.donor, "donor", false, "other nodes pay for what their calls use: sets kernel.donor")
	fl.StringArrayVar(&f.plan.Sets, "set", nil, "override a setting: section.key=value, as in TOML")
	fl.StringArrayVar(&f.plan.Overlays, "overlay", nil, "lay another file over the genome")
	fl.IntVar(&f.child, "report-fd", 0, "")
	_ = fl.MarkHidden("report-fd") // exists: it was defined in the line before
	a.outputFlag(cmd)
	return cmd
}

// planFrom completes p with the command line's arguments and the environment.
func (a *app) planFrom(p *admin.Plan, words []string) error {
	file, err := a.genomeFile()
	if err != nil {
		return err
	}
	switch {
	case len(words) > 0 && isManifest(words[0]):
		if file, err = manifestAt(words[0]); err != nil {
			return err
		}
		words = words[1:]
	case file == "":
		if file, err = nearestManifest(); err != nil {
			return err
		}
	}
	for _, w := range words {
		if _, err := sdk.ParseCellName(w); err != nil {
			return usage(fmt.Errorf("up %q: no such file, and no name of a cell", w))
		}
	}
	if p.NoDeps && len(words) == 0 {
		return usage(errors.New("read flag --no-deps: want the cells to start without what they need"))
	}
	p.File, p.Cells, p.Environ = file, words, settingsOf(os.Environ())
	return absolute(p.Overlays)
}

// up applies the plan to the kernel that runs it, or makes one for run.
func (a *app) up(ctx context.Context, f *upFlags, run func(context.Context, runner, *genome.Genome) error) error {
	c, err := kernelOf(ctx, f.plan.File)
	switch {
	case err != nil:
		return err
	case c != nil:
		defer c.Close()
		if g, _, err := load(f.plan); err == nil { // else the kernel says it
			a.noteJunctions(g)
		}
		if err := a.apply(ctx, c, f.plan); err != nil || f.plan.DryRun {
			return err
		}
		return a.standing(ctx, c)
	}
	g, origins, err := load(f.plan)
	if err != nil {
		return err
	}
	if err := knownCells(g, f.plan.Cells); err != nil {
		return err
	}
	if err := checkState(f.plan.File); err != nil {
		return err
	}
	switch {
	case f.plan.DryRun:
		return a.dryRun(g, f.plan)
	case f.detach && f.child == 0:
		return a.detach(ctx, f.plan)
	}
	r, err := a.boot(ctx, bootOptions{Plan: f.plan, Genome: g, Origins: origins, Version: thisBuild().Version, Stdout: a.stdout})
	if err != nil {
		return bootError(err)
	}
	if len(g.Cells) == 0 {
		newView(a.stderr).note(relative(f.plan.File) + " has no cells: nothing but the kernel will run")
	}
	a.noteJunctions(g)
	return memberHint(lockedHint(run(ctx, r, g)))
}

// noteJunctions says which junctions lead to where nothing is yet.
func (a *app) noteJunctions(g *genome.Genome) {
	for _, p := range config.LooseJunctions(g) {
		newView(a.stderr).note(p.Sentence())
	}
}

// lockedHint tells whoever lost against another start what to do.
func lockedHint(err error) error {
	if sdk.CodeOf(err) == sdk.CodeUnavailable && strings.Contains(err.Error(), "another kernel runs here") {
		return withHint(err, `it may be booting still: "cellkernel status" asks it`)
	}
	return err
}

// inForeground runs r in this terminal, which ends it.
func (a *app) inForeground(ctx context.Context, r runner, _ *genome.Genome) error {
	v := newView(a.stderr)
	v.ends = `; Ctrl-C or "cellkernel down" ends it`
	return a.foreground(ctx, r, v, func() bool { return true })
}

// foreground runs r here and shows it, until it has ended. When all is ready
// it calls onReady, which says whether to show the logs from then on.
func (a *app) foreground(ctx context.Context, r runner, v *view, onReady func() bool) error {
	started := time.Now()
	// Interrupts end it in steps, not by ctx.
	base := context.WithoutCancel(ctx)
	life, kill := context.WithCancel(base)
	defer kill()
	watch, blind := context.WithCancel(base)
	defer blind()
	var shows sync.WaitGroup
	first := sync.OnceFunc(func() { // it may get ready again
		if onReady() {
			shows.Go(func() { _ = showLogs(watch, r, v, started) })
		}
	})
	shows.Go(func() {
		_ = r.Events(watch, 0, func(e admin.Event) error {
			v.event(e)
			if e.Kind == admin.EventReady {
				first()
			}
			return nil
		})
	})
	stopped := a.onInterrupt(ctx, life, r, v, kill)
	exit, err := r.Run(life)
	kill() // nothing is left that could mind
	interrupted := stopped()
	late := time.AfterFunc(logLimit, blind)
	shows.Wait()
	late.Stop()
	switch {
	case interrupted:
		return ended(ctx, err)
	case err != nil:
		return bootError(err)
	case exit != 0:
		return &exitError{exit}
	}
	return nil
}

// ended is how a kernel ends that a signal told to: by hand it was
// interrupted, a service manager's SIGTERM just did what it should.
func ended(ctx context.Context, err error) error {
	var s *signalError
	if errors.As(context.Cause(ctx), &s) && s.sig != os.Interrupt {
		return err
	}
	return errInterrupted
}

// onInterrupt drains r when ctx is done and kills it at the second interrupt.
// The returned func ends the watch and reports whether there was an interrupt.
func (a *app) onInterrupt(ctx, life context.Context, r runner, v *view, kill func()) func() bool {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	interrupted := false // written before wg is done, read after
	wg.Go(func() {
		select {
		case <-quit:
			return
		case <-ctx.Done():
			interrupted = true
		}
		v.note("draining; once more to kill")
		wg.Go(func() {
			// The events say what it waits for; Run returns when it is done.
			if err := r.Down(life, admin.DownRequest{}, func(admin.Event) error { return nil }); err != nil && life.Err() == nil {
				v.note("drain: " + err.Error())
			}
		})
		select {
		case <-quit:
		case <-a.kill:
			kill()
		}
	})
	return func() bool {
		close(quit)
		wg.Wait()
		return interrupted
	}
}

// showLogs shows what is written from since on, but not what goes to
// standard output anyway.
func showLogs(ctx context.Context, k admin.Kernel, v *view, since time.Time) error {
	mains := map[string]bool{}
	if s, err := k.Status(ctx); err == nil {
		for _, c := range s.Cells {
			mains[string(c.Name)] = c.Main
		}
	}
	return k.Logs(ctx, admin.LogQuery{Since: since, Follow: true}, func(rec admin.LogRecord) error {
		if rec.Kind == admin.KindCell && rec.Stream == "stdout" && mains[rec.Name] {
			return nil
		}
		if rec.Kind == admin.KindKernel && saidByEvents(rec.Text) {
			return nil
		}
		return v.log(rec)
	})
}

// saidByEvents reports whether a line of the kernel's log is about something
// that an event has said, and better.
func saidByEvents(line string) bool {
	if strings.HasPrefix(line, "level=INFO") {
		return true
	}
	for _, s := range []admin.State{admin.StateBackoff, admin.StateCrashLoop, admin.StateFailed} {
		if strings.HasPrefix(line, "level=WARN msg="+string(s)+" process=") {
			return true
		}
	}
	return false
}

// dryRun says what a kernel that does not run yet would start.
func (a *app) dryRun(g *genome.Genome, p admin.Plan) error {
	var list []admin.Change
	for _, c := range genome.Diff(genome.Default(), g) {
		listed := c.Cell == "" || len(p.Cells) == 0 || slices.Contains(p.Cells, string(c.Cell))
		if listed && c.Op == genome.OpAdd {
			list = append(list, admin.Change{Op: string(c.Op), Key: c.Key, Cell: c.Cell, Fields: c.Fields, From: c.From, To: c.To})
		}
	}
	if err := a.show(list, func(io.Writer) error { newView(a.stderr).changes(list); return nil }); err != nil {
		return err
	}
	return &exitError{exitChanges}
}
