// The cell herald passes calls on to the chatterboxes of its own machine. A
// caller keeps at most four links to a cell of another machine, and so does
// not reach each of its replicas; the herald does.
package main

import (
	"context"

	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

// A herald implements gossip.Chatterbox in the name of others.
type herald struct{ gossip.ChatterboxClient }

func main() {
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		gossip.RegisterChatterbox(m, herald{gossip.NewChatterboxClient(m.Synapse("chatterbox"))})
		return m.Serve(ctx)
	})
}
