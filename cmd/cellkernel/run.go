package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run NAME [-- COMMAND...]",
		Short: "Run a cell once, in this terminal, attached to the running kernel",
		Long: `Run starts one more instance of a cell as a child of this terminal: with its standard input
and output, its place in the mesh, and its exit code. A command behind -- takes the place of the
cell's own, so that a debugger or a test can be that cell.`,
		Example:           "  cellkernel run coordinator\n  cellkernel run worker -- dlv exec ./worker",
		Args:              args(1, -1),
		ValidArgsFunction: a.completeCells,
		RunE: func(cmd *cobra.Command, words []string) error {
			if dash := cmd.ArgsLenAtDash(); dash != 1 && len(words) > 1 {
				return withHint(usage(fmt.Errorf("run %q: unexpected %q", words[0], words[1])), "put -- before a command")
			}
			cell, err := sdk.ParseCellName(words[0])
			if err != nil {
				return usage(fmt.Errorf("run: %w", err))
			}
			c, err := a.connectToChange(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if !own(c) {
				return sdk.Errorf(sdk.CodeDenied, "run %q: its kernel runs as user %d, and names the command", cell, c.UID())
			}
			launch, err := c.Launch(cmd.Context(), cell, words[1:])
			if err != nil {
				return withCellHint(err)
			}
			return a.attach(cmd.Context(), cell, launch)
		},
	}
}

// attach runs the launched command as our child and passes its exit code on.
func (a *app) attach(ctx context.Context, cell sdk.CellName, l *admin.Launch) error {
	if len(l.Command) == 0 {
		return fmt.Errorf("run %q: kernel named no command", cell)
	}
	child := exec.Command(l.Command[0], l.Command[1:]...)
	child.Dir = l.Dir
	child.Env = append(os.Environ(), l.Env...)
	child.Stdin, child.Stdout, child.Stderr = a.stdin, a.stdout, a.stderr
	// An interrupt from the terminal reaches the child by itself, and the
	// child decides what it means. What was sent to us alone is passed on.
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(sig)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return fmt.Errorf("run %q: %w", cell, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-sig:
			if s == syscall.SIGTERM || s == syscall.SIGHUP {
				_ = child.Process.Signal(s) // it may have ended meanwhile
			}
		case err := <-ended:
			return exitOf(cell, err)
		}
	}
}

// exitOf turns the end of a child into our own: 128 + signal as shells do.
func exitOf(cell sdk.CellName, err error) error {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		if err != nil {
			return fmt.Errorf("run %q: %w", cell, err)
		}
		return nil
	}
	if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exitError{128 + int(ws.Signal())}
	}
	return &exitError{e.ExitCode()}
}
