// The cell greeter serves hello.Greeter.
package main

import (
	"context"
	"os"

	"github.com/cellkernel/cellkernel/examples/template-cell/hello"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type greeter struct{}

// Greet implements hello.Greeter.
func (greeter) Greet(_ context.Context, who *hello.Name) (*hello.Greeting, error) {
	return &hello.Greeting{Text: "hello, " + who.Name, PID: int64(os.Getpid())}, nil
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		hello.RegisterGreeter(m, greeter{})
		return m.Serve(ctx)
	})
}
