// The cell greeter serves greet.Greeter.
package main

import (
	"context"

	"github.com/cellkernel/cellkernel/examples/hello/greet"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type greeter struct{ replica int }

// Hello implements greet.Greeter.
func (g greeter) Hello(_ context.Context, who *greet.Person) (*greet.Greeting, error) {
	return &greet.Greeting{Text: "hello, " + who.Name, Replica: uint32(g.replica)}, nil
}

// Everybody implements greet.Greeter.
func (g greeter) Everybody(ctx context.Context, who *greet.People, out cell.Sender[greet.Greeting]) error {
	for _, name := range who.Names {
		greeting, err := g.Hello(ctx, &greet.Person{Name: name})
		if err != nil {
			return err
		}
		if err := out.Send(greeting); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		greet.RegisterGreeter(m, greeter{m.Replica()})
		return m.Serve(ctx)
	})
}
