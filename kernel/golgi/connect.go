package golgi

import (
	"context"
	"net"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	nextAddr   = 250 * time.Millisecond // for an address before the next is tried beside it (RFC 8305, section 5)
	maxAddrs   = 8                      // addresses of one dial
	addrBudget = 5 * time.Second        // for one address
)

// An attempt is how dialling one address went.
type attempt struct {
	addr sdk.Addr
	conn net.Conn
	err  error
}

// connect dials the addresses of a route, the next one when the last has not
// answered in a moment, and returns the first connection.
func (g *Golgi) connect(ctx context.Context, r *route) (net.Conn, sdk.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs := r.addrs[:min(len(r.addrs), maxAddrs)]
	results := make(chan attempt, len(addrs))
	next := time.NewTimer(0)
	defer next.Stop()
	var last error
	for begun, ended := 0, 0; ended < len(addrs); {
		select {
		case <-next.C:
			if begun < len(addrs) {
				addr := addrs[begun]
				begun++
				g.wg.Go(func() { results <- g.tryAddr(ctx, addr) })
				next.Reset(nextAddr)
			}
		case a := <-results:
			ended++
			g.tried(r, a.addr, a.err)
			if a.err == nil {
				g.wg.Go(func() { discard(results, begun-ended) })
				return a.conn, a.addr, nil
			}
			last = a.err
			next.Reset(0)
		}
	}
	return nil, sdk.Addr{}, last
}

func (g *Golgi) tryAddr(ctx context.Context, addr sdk.Addr) attempt {
	ctx, cancel := context.WithTimeout(ctx, addrBudget)
	defer cancel()
	conn, err := g.opt.Dial(ctx, addr)
	return attempt{addr, conn, err}
}

// discard closes the connections that came second.
func discard(results <-chan attempt, n int) {
	for range n {
		if a := <-results; a.conn != nil {
			a.conn.Close()
		}
	}
}

// tried notes how an address of another node did.
func (g *Golgi) tried(r *route, addr sdk.Addr, err error) {
	if r.to.node == "" || g.opt.Peers == nil {
		return
	}
	if err != nil {
		g.opt.Peers.Failed(r.to.node, addr)
	}
}
