package golgi_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A dial can outlive who asked for it: then no link is made, and nothing is
// said to a process that is gone.
func TestADialOfACellThatIsGoneEndsInNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialling, goOn := make(chan struct{}, 8), make(chan struct{})
	a := newFarRig(t, identity.NewMesh(), func(o *golgi.Options) {
		plain := o.Dial
		o.Dial = func(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
			dialling <- struct{}{}
			<-goOn
			return plain(ctx, addr)
		}
	})
	shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: ln.Addr().String()}}})
	go ask(t, shop, "store", long)
	<-dialling
	if err := shop.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cell is still there", func() bool {
		return sdk.CodeOf(a.g.Drain(t.Context().Done(), golgi.Replica{Cell: "shop", Index: 1, Incarnation: 1})) == sdk.CodeNotFound
	})
	close(goOn)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(long))
	n, err := conn.Read(make([]byte, wire.MaxLinkHeader))
	a.g.SetMesh(identity.NewMesh()) // cuts every link
	if n != 0 {
		t.Errorf("a link was asked for: %d bytes, %v", n, err)
	}
}

// A deny list that changes while a node proves who it is counts for it. The
// cell that asks is played by hand.
func TestWhoIsDeniedWhileItIsAdmittedStaysOut(t *testing.T) {
	mesh, other := identity.NewMesh(), newIdentity(t)
	var g atomic.Pointer[golgi.Golgi]
	var asked atomic.Bool
	a := newFarRig(t, mesh, func(o *golgi.Options) {
		o.Denied = func(sdk.NodeID) bool {
			if asked.Swap(true) {
				return true
			}
			g.Load().Recheck() // it was put on the list just after it was looked up
			return false
		}
	})
	g.Store(a.g)
	at := welcoming(t)
	a.g.Route("shop", golgi.Routes{Axons: map[sdk.CellName]golgi.Axon{"store": {To: []golgi.Target{{Cell: "store", Host: at}}}}})
	att, err := a.g.Attach(golgi.Replica{Cell: "shop", Index: 1, Incarnation: 1}, channel.Welcome{})
	if err != nil {
		t.Fatal(err)
	}
	defer att.Channel.Close()
	ch, err := channel.FromFile(att.Channel)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	say := func(m channel.Message, want string) channel.Message {
		t.Helper()
		if err := ch.SendMessage(m); err != nil {
			t.Fatal(err)
		}
		for ch.SetReadDeadline(time.Now().Add(long)); ; {
			m, files, err := ch.RecvMessage(make([]byte, channel.MaxMessage))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				f.Close()
			}
			if m.Type == want {
				return m
			}
		}
	}
	key := make([]byte, 32)
	key[0] = 1
	say(channel.Message{Type: channel.TypeHello, Hello: &channel.Hello{Version: channel.Version, Features: []string{channel.FeatureNoise}, Key: key}}, channel.TypeWelcome)
	link := say(channel.Message{Type: channel.TypeDial, ID: 1, Name: "store", Endpoint: "axon://" + at + "/store"}, channel.TypeLink)
	cert, err := mesh.CertifyCell(other, "store", [32]byte{2}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	proof := &channel.Proof{Certificate: cert, Key: append([]byte{2}, make([]byte, 31)...), Hash: make([]byte, 32)}
	answer := say(channel.Message{Type: channel.TypeAdmit, ID: link.Link.ID, Proof: proof}, channel.TypeAdmitted)
	if answer.Failure == nil || answer.Failure.Code != sdk.CodeDenied.String() {
		t.Errorf("got %+v, %+v", answer.Link, answer.Failure)
	}
}

// welcoming is a listener that takes every link and says nothing more.
func welcoming(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte{0})
			wg.Go(func() { defer c.Close(); io.Copy(io.Discard, c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// Whoever has the secret of a mesh can name any cell, which counts for
// nothing until it is proved.
func TestNamesThatAreNotProvedAreNotCounted(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	for _, name := range []string{"ghost", "no name\n"} {
		header := headerOf(t, mesh, a.self, wire.LinkHeader{ID: 1, Node: string(a.self.Node()), Cell: name, Wanted: "store"})
		c, err := net.Dial("tcp", hostOf(b))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(header)
		c.SetReadDeadline(time.Now().Add(long))
		code := make([]byte, 1)
		if _, err := c.Read(code); err != nil || (code[0] == 0) != (name == "ghost") {
			t.Fatalf("%q: answer %x, %v", name, code, err)
		}
		c.Close()
	}
	rel, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	b.g.Release(rel, "tcp")
	if flows := b.g.Flows(); rel.Err() != nil || len(flows) != 0 {
		t.Errorf("%v: %+v", rel.Err(), flows)
	}
}

// Strangers that say nothing do not hold up the end.
func TestCloseWaitsForNoStranger(t *testing.T) {
	b := newFarRig(t, identity.NewMesh())
	c, err := net.Dial("tcp", hostOf(b))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{60, 0}); err != nil {
		t.Fatal(err)
	}
	mute := b.calls("x", golgi.Axon{To: []golgi.Target{{Cell: "x", Host: hostOf(b)}}})
	ask(t, mute, "x", time.Second) // it was accepted behind the stranger
	begun := time.Now()
	b.g.Close()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	c.SetReadDeadline(time.Now().Add(long))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the connection is still open: %v", err)
	}
}
