package golgi_test

import (
	"context"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A kernel knows by its own cells, not by the other side, how many calls they
// have begun to whose cells, and for how long any of them was in flight: while
// one runs it grows with the clock, and otherwise not at all. Handlers go on for a
// moment after a call that was given up.
func TestOwnCallsAreCounted(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.g.Route("store", golgi.Routes{Doors: []string{doorName}})
	m := b.attach("store", 1, channel.Welcome{})
	release, started := make(chan struct{}), make(chan struct{}, 1)
	m.Register(&desc, func(_ context.Context, c *cell.Call) error {
		started <- struct{}{}
		<-release
		return c.Reply(&text{"served"})
	})
	m.Ready()
	eventually(t, "the cell is not ready", func() bool { return b.g.Served("store") == 1 })
	shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: hostOf(b)}}})
	node, pair := b.self.Node(), golgi.Pair{From: "shop", Cell: "store"}
	if own := a.g.Own(node); own.Busy != 0 || len(own.Calls) != 0 {
		t.Errorf("before any call: %+v", own)
	}
	begun := time.Now()
	answered := make(chan error, 1)
	go func() { _, err := ask(t, shop, "store", long); answered <- err }()
	<-started
	running := time.Now()
	eventually(t, "a call that runs is not counted", func() bool { return a.g.Own(node).Calls[pair] == 1 })
	eventually(t, "time in flight does not grow", func() bool {
		own := a.g.Own(node)
		return own.Busy > 300*time.Millisecond && own.Busy >= time.Since(running)-2*time.Second/10
	})
	close(release)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	most := time.Since(begun)
	own := a.g.Own(node)
	for range 3 { // reports of the idle link, if there were any
		select {
		case <-own.Changed:
		case <-time.After(300 * time.Millisecond):
		}
		own = a.g.Own(node)
	}
	if own.Busy > most || own.Calls[pair] != 1 {
		t.Errorf("in flight for %s of %s: %+v", own.Busy, most, own)
	}
	rest := own.Busy
	<-time.After(300 * time.Millisecond)
	if own = a.g.Own(node); own.Busy != rest {
		t.Errorf("nothing runs, and %s became %s", rest, own.Busy)
	}
	if err := shop.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the link is not over", func() bool { return !a.g.Uses(node) })
	if own = a.g.Own(node); own.Busy > rest+2*time.Second || own.Calls[pair] > 2 {
		t.Errorf("after the end: %+v", own)
	}
	if own = a.g.Own(a.self.Node()); own.Busy != 0 || len(own.Calls) != 0 {
		t.Errorf("of another node: %+v", own)
	}
}
