package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// briefLimit bounds the commands that only look.
const briefLimit = 10 * time.Second

// brief is the context of a command that only looks. A kernel that does not
// answer by its end is unreachable.
func brief(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(cmd.Context(), briefLimit, withHint(
		sdk.Errorf(sdk.CodeUnavailable, "kernel does not answer within %v", briefLimit), stoppedHint))
}

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether everything is ready",
		Long: `Status sums up the kernel: who it is, what is reachable, and what is not ready.
It ends with 0 if all is ready, 1 if not, and 5 if no kernel runs.`,
		Args:              args(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := brief(cmd)
			defer cancel()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if err := a.show(s, func(w io.Writer) error { return statusText(w, s) }); err != nil {
				return err
			}
			if s.State != admin.StateReady {
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	a.outputFlag(cmd)
	return cmd
}

func statusText(w io.Writer, s *admin.Status) error {
	state := string(s.State)
	if s.State == admin.StateFailed {
		state = "degraded"
	}
	if n := stopped(s.Cells); n == 1 {
		state += ", 1 cell stopped"
	} else if n > 1 {
		state += fmt.Sprintf(", %d cells stopped", n)
	}
	fmt.Fprintf(w, "%s, up %s: %s\n", state, timeText(s.Uptime, time.Millisecond), printable(s.Posture))
	for _, p := range s.Problems {
		fmt.Fprintf(w, "problem: %s\n", printable(p))
	}
	for _, d := range s.Differs {
		fmt.Fprintf(w, "differs from the genome: %s\n", printable(d))
	}
	if len(s.Cells) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, c := range s.Cells {
		rows = append(rows, []string{string(c.Name), string(c.State), readyText(&c), cellKind(&c), c.Detail})
	}
	return table(w, []string{"CELL", "STATE", "READY", "KIND", "DETAIL"}, rows)
}

// stopped counts the cells that somebody stopped.
func stopped(cells []admin.CellStatus) int {
	n := 0
	for _, c := range cells {
		if c.State == admin.StateStopped {
			n++
		}
	}
	return n
}

func readyText(c *admin.CellStatus) string { return fmt.Sprintf("%d/%d", c.Ready, c.Want) }

func cellKind(c *admin.CellStatus) string {
	switch {
	case c.Main:
		return "main"
	case c.Job:
		return "job"
	}
	return "service"
}
