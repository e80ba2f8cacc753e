package main

import (
	"context"
	"errors"
)

// helper runs the command as one of its own helpers, if args say so, and
// returns the exit code.
func helper(args []string) (code int, ok bool) {
	return 0, false
}

// bootKernel makes a kernel of this process.
func bootKernel(context.Context, bootOptions) (runner, error) {
	return nil, errors.ErrUnsupported
}
