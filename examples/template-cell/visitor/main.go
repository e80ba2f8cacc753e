// The job visitor asks the cell greeter for one greeting and prints it.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/cellkernel/cellkernel/examples/template-cell/hello"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		who := &hello.Name{Name: strings.Join(os.Args[1:], " ")}
		reply, err := hello.NewGreeterClient(m.Synapse("greeter")).Greet(ctx, who)
		if err != nil {
			return err
		}
		fmt.Println(reply.Text)
		return nil
	})
}
