// The job visitor asks the cell greeter for one greeting and prints it.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/cellkernel/cellkernel/examples/hello/greet"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		greeter := greet.NewGreeterClient(m.Synapse("greeter"))
		reply, err := greeter.Hello(ctx, &greet.Person{Name: strings.Join(os.Args[1:], " ")})
		if err != nil {
			return err
		}
		_, err = fmt.Printf("%s (from greeter#%d)\n", reply.Text, reply.Replica)
		return err
	})
}
