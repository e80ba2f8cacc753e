package golgi_test

import (
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// Who is not invited again is out, and who is comes back.
func TestLinksOfAReplacedMeshAreCut(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	b.g.Route("till", golgi.Routes{Axons: map[sdk.CellName]golgi.Axon{"store": {To: []golgi.Target{{Cell: "store"}}}}})
	till := b.attach("till", 1, channel.Welcome{})
	shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: hostOf(b)}}})
	a.sees(b, "store")
	if _, err := ask(t, shop, "store", long); err != nil {
		t.Fatal(err)
	}
	fresh := identity.NewMesh()
	if n := b.g.SetMesh(fresh); n == 0 {
		t.Error("no link was ended")
	}
	if n := b.g.SetMesh(fresh); n != 0 {
		t.Errorf("the same mesh again ended %d links", n)
	}
	eventually(t, "a member of the mesh before can still call", func() bool {
		_, err := ask(t, shop, "store", time.Second)
		return sdk.CodeOf(err) == sdk.CodeDenied
	})
	eventually(t, "its links are not counted any more", func() bool { return a.peers.Nodes()[0].Links == 0 })
	if _, err := ask(t, till, "store", long); err != nil {
		t.Errorf("a cell of the same kernel: %v", err)
	}
	a.g.SetMesh(fresh)
	eventually(t, "it is in again", func() bool { _, err := ask(t, shop, "store", time.Second); return err == nil })
}
