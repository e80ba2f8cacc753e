package golgi

import (
	"context"
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
)

// Reach dials a node where it was seen lately and says nothing there: the
// transport learns that the address is the node's, so that one which can takes
// its connections there (see quictransport). Links that could not be taken
// along end by their own silence. It blocks for as long as a dial may.
func (g *Golgi) Reach(node sdk.NodeID, addrs []sdk.Addr) {
	if !g.dialled(node) {
		return
	}
	ctx, cancel := context.WithTimeout(g.ctx, addrBudget)
	defer cancel()
	var all sync.WaitGroup
	for _, addr := range addrs[:min(len(addrs), maxAddrs)] {
		all.Go(func() {
			conn, err := g.opt.Dial(ctx, addr)
			if err != nil {
				g.opt.Log.Debug("reach a node where it was seen", "node", node.Short(), "address", addr.String(), "error", err)
				return
			}
			conn.Close()
		})
	}
	all.Wait()
}

// dialled reports whether a link that was dialled to a node is open.
func (g *Golgi) dialled(node sdk.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.links {
		if l.to == nil && l.foreign != nil && l.foreign.node == node {
			return true
		}
	}
	return false
}
