package golgi_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A till is what a golgi has passed on of what cells say.
type till struct {
	mu    sync.Mutex
	nodes map[sdk.NodeID]uint64 // calls
	over  int
}

func (c *till) counted(_ golgi.Replica, _ channel.Stats, links []golgi.Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range links {
		for _, m := range l.Methods {
			c.nodes[l.Node] = max(c.nodes[l.Node], m.Calls)
		}
		if l.Over {
			c.over++
		}
	}
}

// metered returns a kernel with a cell "store" that is metered.
func metered(t *testing.T, mesh *identity.Mesh) (*farRig, *till) {
	c := &till{nodes: make(map[sdk.NodeID]uint64)}
	f := newFarRig(t, mesh, func(o *golgi.Options) { o.Counted = c.counted })
	f.g.Route("store", golgi.Routes{Doors: []string{doorName}})
	m := f.attach("store", 1, channel.Welcome{Meter: true})
	m.Register(&desc, func(_ context.Context, c *cell.Call) error { return c.Reply(&text{"served"}) })
	m.Ready()
	eventually(t, "the cell is not ready", func() bool { return f.g.Served("store") == 1 })
	return f, c
}

func TestWhoHasNoLeaseLeftIsRefused(t *testing.T) {
	mesh := identity.NewMesh()
	a := newFarRig(t, mesh)
	b, _ := metered(t, mesh)
	shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: hostOf(b)}}})
	node := a.self.Node()
	// Before there is any link: the first call is refused, too.
	b.g.Lease(node, 0, time.Now().Add(time.Minute), "it owes too much", false)
	if _, err := ask(t, shop, "store", long); sdk.CodeOf(err) != sdk.CodeNoATP || sdk.AsError(err).Executed != sdk.ExecutedNo || !strings.Contains(err.Error(), "it owes too much") {
		t.Fatalf("without a lease: %v", err)
	}
	served := func() bool { got, err := ask(t, shop, "store", long); return err == nil && got == "served" }
	b.g.Lease(node, sdk.OneATP, time.Now().Add(time.Minute), "", false)
	eventually(t, "a lease has no effect", served)
	b.g.Lease(node, sdk.OneATP, time.Now(), "it is over", false)
	eventually(t, "a lease that is over has no effect", func() bool { return !served() })
	b.g.Unlease(node)
	eventually(t, "a lease can not be taken back", served)
}

func TestCountersSayWhichNodeCalls(t *testing.T) {
	mesh := identity.NewMesh()
	a := newFarRig(t, mesh)
	b, c := metered(t, mesh)
	shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: hostOf(b)}}})
	for range 3 {
		if _, err := ask(t, shop, "store", long); err != nil {
			t.Fatal(err)
		}
	}
	look := func(ok func() bool) func() bool {
		return func() bool { c.mu.Lock(); defer c.mu.Unlock(); return ok() }
	}
	eventually(t, "calls are not counted", look(func() bool { return c.nodes[a.self.Node()] > 0 }))
	if err := shop.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of links is not counted", look(func() bool { return c.over > 0 }))
}
