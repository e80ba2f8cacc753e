package main

import (
	"context"
	"errors"

	"github.com/cellkernel/cellkernel/kernel/supervisor"
)

// helper runs this program as one of the helpers that a kernel starts through
// its own executable, if args say so, and returns the exit code.
func helper(args []string) (code int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case supervisor.StubCommand:
		return supervisor.ExecStub(args[1:]), true
	case supervisor.SweepCommand:
		return supervisor.SweepMain(args[1:]), true
	}
	return 0, false
}

// bootKernel makes a kernel of this process.
func bootKernel(context.Context, bootOptions) (runner, error) {
	return nil, errors.ErrUnsupported
}
