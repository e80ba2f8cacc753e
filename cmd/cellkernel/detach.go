package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
)

// A detached boot has two processes. The parent executes itself in a session
// of its own, with --report-fd; that child is the kernel. Over one pipe the
// child sends what there is to show while it boots, then the result. After
// it the child writes nowhere but to its logs, and the parent ends.

// reportFD is the pipe's descriptor in the child: the first of ExtraFiles.
const reportFD = 3

// A report is one message from the child, a line of JSON.
type report struct {
	Show   string        `json:"show,omitempty"`   // bytes for standard error
	Done   bool          `json:"done,omitempty"`   // this is the last report
	Exit   int           `json:"exit,omitempty"`   // of Done: the exit code of the command
	Status *admin.Status `json:"status,omitempty"` // of Done: what runs, if it got ready
}

// detach starts the kernel in a process of its own and waits until it is
// ready or has failed.
func (a *app) detach(ctx context.Context, p admin.Plan) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer r.Close()
	// This very program, even if its file was replaced meanwhile.
	child := exec.Command("/proc/self/exe", detachedArgs(p)...)
	child.Args[0] = os.Args[0]
	child.ExtraFiles = []*os.File{w}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	w.Close() // or the end of the child would not end our reading
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	// An interrupt while it boots ends the boot: nobody would expect a kernel.
	stop := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer stop()
	last, err := a.followBoot(r)
	switch {
	case ctx.Err() != nil:
		_ = child.Wait()
		return errInterrupted
	case err != nil:
		return errors.Join(fmt.Errorf("detach: kernel ended while it booted: %w", err), child.Wait())
	case last.Exit != 0:
		_ = child.Wait() // its exit code is the one it reported
		return &exitError{last.Exit}
	}
	err = child.Process.Release()
	if last.Status == nil || err != nil {
		return err
	}
	return a.show(last.Status, func(io.Writer) error { return nil }) // the reports have said it
}

// detachedArgs is the command line of the child, which runs p.
func detachedArgs(p admin.Plan) []string {
	args := []string{"up", fmt.Sprintf("--report-fd=%d", reportFD)}
	for _, o := range p.Overlays {
		args = append(args, "--overlay="+o)
	}
	for _, set := range p.Sets {
		args = append(args, "--set="+set)
	}
	if p.NoDeps {
		args = append(args, "--no-deps")
	}
	return append(append(args, "--", p.File), p.Cells...)
}

// followBoot shows the child's reports and returns the last.
func (a *app) followBoot(r io.Reader) (report, error) {
	dec := json.NewDecoder(bufio.NewReader(r))
	for {
		var rep report
		if err := dec.Decode(&rep); err != nil {
			return rep, err
		}
		if rep.Show != "" {
			if _, err := io.WriteString(a.stderr, rep.Show); err != nil {
				return rep, err
			}
		}
		if rep.Done {
			return rep, nil
		}
	}
}

// A reporter is the child's end: a writer for what is to be shown, until the
// last report.
type reporter struct {
	mu   sync.Mutex // guards pipe
	pipe *os.File   // nil after the last report
}

// Write implements io.Writer. Nobody listens after the last report, so what
// is written then is dropped; it is in the logs.
func (r *reporter) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipe != nil {
		// A parent that was killed is no reason for the kernel to end.
		_ = writeJSON(r.pipe, report{Show: string(b)})
	}
	return len(b), nil
}

// done sends the last report and cuts the process off from the terminal.
// Doing it again changes nothing.
func (r *reporter) done(exit int, s *admin.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipe == nil {
		return
	}
	_ = leaveTerminal()
	_ = writeJSON(r.pipe, report{Done: true, Exit: exit, Status: s})
	r.pipe.Close()
	r.pipe = nil
}

// leaveTerminal points the standard descriptors at /dev/null: the terminal
// may go away, and a write to it would then kill the process (SIGPIPE).
func leaveTerminal() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// reportUp is the child's side of detach: it runs the kernel and reports on
// a descriptor, until all is ready or something failed, or what it did
// instead because a kernel runs already.
func (a *app) reportUp(ctx context.Context, f *upFlags) error {
	unix.CloseOnExec(f.child)
	rep := &reporter{pipe: os.NewFile(uintptr(f.child), "report")}
	shown := *a
	shown.stderr = rep
	err := shown.up(ctx, f, func(ctx context.Context, r runner, g *genome.Genome) error {
		v := newView(rep)
		return shown.foreground(ctx, r, v, func() bool {
			if main := g.Workspace.Main; main != "" {
				v.note(fmt.Sprintf("main %s: the kernel ends with it", main))
			}
			s, _ := r.Status(context.WithoutCancel(ctx)) // of this very process: there is no way to fail
			rep.done(exitOK, s)
			return false
		})
	})
	// If it never got ready, the parent is still there to be told why.
	shown.report(err)
	rep.done(exitCode(err), nil)
	if err == nil {
		return nil
	}
	return &exitError{exitCode(err)} // it has been said
}
