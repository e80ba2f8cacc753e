// Command cellkernel boots, shows and changes a mesh of cells.
//
// The binary is also three of its own helpers, which it starts through its
// own executable: see [helper].
package main

import (
	"context"
	"os"
)

func main() {
	if code, ok := helper(os.Args[1:]); ok {
		os.Exit(code)
	}
	ctx, kill, stop := signals(context.Background())
	a := newApp(os.Stdin, os.Stdout, os.Stderr)
	a.kill = kill
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
