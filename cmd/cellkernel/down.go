package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// goneLimit bounds how long the kernel may take to end after it has said that
// nothing else is left.
const goneLimit = 10 * time.Second

func (a *app) downCommand() *cobra.Command {
	var r admin.DownRequest
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Drain and end the kernel and everything it started",
		Long: `Down lets cells finish what they do, says what it waits for and what it had to kill, and returns when
the kernel and all its processes are gone.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.Within < 0 {
				return usage(fmt.Errorf("read flag --within: want a positive duration, got %v", r.Within))
			}
			return a.down(cmd.Context(), r)
		},
	}
	a.outputFlag(cmd)
	cmd.Flags().BoolVar(&r.Now, "now", false, "kill at once instead of draining")
	cmd.Flags().DurationVar(&r.Within, "within", 0, "kill what has not finished by then (default: what the genome says)")
	return cmd
}

func (a *app) down(ctx context.Context, r admin.DownRequest) error {
	c, err := a.connectToChange(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// Before it is asked to end, its process id can not belong to another.
	proc, err := unix.PidfdOpen(c.PID(), 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("watch kernel process %d: %w", c.PID(), err)
	}
	if err == nil {
		defer unix.Close(proc)
	}
	v, end := newView(a.stderr), drained{Genome: c.Version().Genome, PID: c.PID(), Ended: []endedProcess{}}
	err = c.Down(ctx, r, func(e admin.Event) error { v.event(e); end.note(e.Process); return nil })
	// A kernel that was killed while it drained is down as well.
	if err != nil && (ctx.Err() != nil || sdk.CodeOf(err) != sdk.CodeUnavailable) {
		return err
	}
	if proc >= 0 {
		if err := waitGone(ctx, proc, c.PID()); err != nil {
			return err
		}
	}
	return a.show(end, func(io.Writer) error { // the view has said the rest
		for _, e := range end.Ended {
			if e.Detail != "" && !r.Now { // else all of them were to be killed
				v.note(e.id() + " was " + e.Detail)
			}
		}
		return nil
	})
}

// A drained is what down has brought to an end, as JSON.
type drained struct {
	Genome string         `json:"genome"`
	PID    int            `json:"pid"` // of the kernel
	Ended  []endedProcess `json:"ended"`
}

// An endedProcess is a process that ended while the kernel drained, and how.
type endedProcess struct {
	Kind    string      `json:"kind"`
	Name    string      `json:"name"`
	Replica int         `json:"replica"`
	State   admin.State `json:"state"`
	Detail  string      `json:"detail,omitempty"`
}

// id is how people call the process: "worker#2".
func (e endedProcess) id() string {
	p := admin.Process{Kind: e.Kind, Name: e.Name, Replica: e.Replica}
	return p.ID()
}

// note keeps the last state of a process that does not run any more.
func (d *drained) note(p *admin.Process) {
	if p == nil || p.State != admin.StateStopped && p.State != admin.StateDone && p.State != admin.StateFailed {
		return
	}
	d.Ended = slices.DeleteFunc(d.Ended, func(e endedProcess) bool {
		return e.Kind == p.Kind && e.Name == p.Name && e.Replica == p.Replica
	})
	d.Ended = append(d.Ended, endedProcess{p.Kind, p.Name, p.Replica, p.State, p.Detail})
}

// waitGone waits until the process behind a pidfd has ended.
func waitGone(ctx context.Context, proc, pid int) error {
	// A pidfd becomes readable when its process ends. The pauses are only for
	// an interrupt to be noticed.
	for end := time.Now().Add(goneLimit); time.Now().Before(end); {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(proc), Events: unix.POLLIN}}, 100)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("watch kernel process %d: %w", pid, err)
		case n > 0:
			return nil
		}
	}
	return sdk.Errorf(sdk.CodeDeadline, "end kernel: process %d is still there %v after it has drained", pid, goneLimit)
}
