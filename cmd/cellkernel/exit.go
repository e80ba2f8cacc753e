package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/config"
	"github.com/cellkernel/cellkernel/sdk"
)

// The exit codes: the contract with scripts, listed in docs/cli.md.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitConfig      = 3
	exitNotFound    = 4
	exitUnreachable = 5
	exitDenied      = 6
	exitNoATP       = 7
	exitTimeout     = 8
	exitChanges     = 9
	exitInterrupted = 130
)

// exitCode is the one place that says which error ends with which code.
func exitCode(err error) int {
	var pass *exitError
	var use *usageError
	var conf *configError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &pass):
		return pass.code
	case errors.As(err, &use):
		return exitUsage
	case errors.As(err, &conf):
		return exitConfig
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	var e *sdk.Error
	switch {
	case errors.As(err, &e):
		return exitOfCode(e.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}

func exitOfCode(c sdk.Code) int {
	switch c {
	case sdk.CodeOK:
		return exitOK
	case sdk.CodeInvalid:
		return exitUsage
	case sdk.CodeNotFound:
		return exitNotFound
	case sdk.CodeUnavailable:
		return exitUnreachable
	case sdk.CodeDenied:
		return exitDenied
	case sdk.CodeNoATP:
		return exitNoATP
	case sdk.CodeDeadline:
		return exitTimeout
	case sdk.CodeCancelled:
		return exitInterrupted
	}
	return exitFailed
}

// errInterrupted ends a command that a signal interrupted. It says nothing:
// whoever pressed the keys knows.
var errInterrupted = errors.New("interrupted")

// An exitError ends the command with a code of its own and without a word.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// A usageError is a command line that can not be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(err error) error { return &usageError{err} }

// A configError is a manifest that can not be used. Report, if there is one,
// is for people: every mistake with its line and a caret. List is the same for
// programs.
type configError struct {
	err    error
	report string
	list   config.Errors
}

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// A hintError carries what the user could do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// withHint returns err with a hint. The innermost hint wins, since it knows most.
func withHint(err error, format string, args ...any) error {
	var h *hintError
	if err == nil || errors.As(err, &h) {
		return err
	}
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// report tells people what went wrong: one line, and at most one hint.
// A manifest's mistakes come before it, as they point at its lines.
func (a *app) report(err error) {
	var pass *exitError
	if err == nil || errors.Is(err, errInterrupted) || errors.As(err, &pass) {
		return
	}
	var conf *configError
	if errors.As(err, &conf) && conf.report != "" {
		fmt.Fprintln(a.stderr, strings.TrimRight(printable(conf.report), "\n"))
	}
	fmt.Fprintf(a.stderr, "cellkernel: %s\n", strings.TrimRight(printable(err.Error()), "\n"))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", hint)
	}
}

// hintFor returns err's own hint, or the one of its code.
func hintFor(err error) string {
	var h *hintError
	if errors.As(err, &h) {
		return h.hint
	}
	var e *sdk.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Code {
	case sdk.CodeNoATP:
		return `ask the node that does the work for credit: "cellkernel wallet credit" there`
	case sdk.CodeOverloaded:
		return `"cellkernel scale" adds replicas`
	}
	return ""
}
