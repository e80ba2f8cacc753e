package golgi_test

import (
	"net"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

// A node with links is dialled where it was seen lately, and nothing is said
// there; one without is left alone.
func TestReach(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	seen := []sdk.Addr{{Scheme: "tcp", Host: ln.Addr().String()}}
	a.g.Reach(b.self.Node(), seen)
	b.offer("store", golgi.Routes{})
	shop := a.calls("store", golgi.Axon{})
	a.sees(b, "store")
	if _, err := ask(t, shop, "store", long); err != nil {
		t.Fatal(err)
	}
	a.g.Reach(b.self.Node(), seen)
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(long))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(long))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v: want the end", n, err)
	}
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond)) // it would be waiting
	if _, err := ln.Accept(); err == nil {
		t.Error("it was dialled before there was a link")
	}
}
