package golgi_test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

func TestCloseWaitsForNobody(t *testing.T) {
	r := newRig(t, nil)
	path := filepath.Join(t.TempDir(), "c")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	go r.g.ServeControl(ln)
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ch := channel.New(conn)
	defer ch.Close()
	ch.SendMessage(channel.Message{Type: channel.TypeHello, Hello: &channel.Hello{Version: 99}})
	m, _, err := ch.RecvMessage(make([]byte, channel.MaxMessage))
	t.Log(m.Type, err)
	ln.Close()
	done := make(chan struct{})
	go func() { r.g.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
		t.Fatal("Close still waits for a process that was refused and stays connected")
	}
}

func TestAllowIsLive(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("a", golgi.Routes{Axons: leadsTo("b", "b")})
	r.g.Route("b", golgi.Routes{})
	r.serve("b", 1)
	a := r.attach("a", 1, channel.Welcome{})
	if _, err := ask(t, a, "b", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	r.g.Route("b", golgi.Routes{Allow: map[string]bool{"x": true}})
	// The news is on its way: until it is there calls still go well.
	for end := time.Now().Add(long); ; {
		_, err := ask(t, a, "b", long)
		if sdk.CodeOf(err) == sdk.CodeDenied {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("revoked, and yet: %v", err)
		}
	}
}

func TestOneNameTooManyDoesNotCostTheOthers(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	r.g.Route("shop", golgi.Routes{Axons: leadsTo("store", "store")})
	r.serve("store", 1)
	shop := r.attach("shop", 1, channel.Welcome{})
	if _, err := ask(t, shop, "store", long); err != nil {
		t.Fatal(err)
	}
	var last error
	for i := range 1100 {
		_, last = ask(t, shop, sdk.CellName(fmt.Sprintf("name-%d", i)), long)
	}
	if sdk.CodeOf(last) != sdk.CodeOverloaded {
		t.Errorf("one name too many: got %v", last)
	}
	if _, err := ask(t, shop, "store", long); err != nil {
		t.Errorf("the others: %v", err)
	}
}

func TestNewsDoNotPileUpBeforeWhoIsStopped(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	routes := golgi.Routes{Axons: leadsTo("store", "store")}
	r.g.Route("shop", routes)
	a, err := r.g.Attach(golgi.Replica{Cell: "shop", Index: 1, Incarnation: 1}, channel.Welcome{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Channel.Close()
	ch, err := channel.FromFile(a.Channel)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	for _, m := range []channel.Message{{Type: channel.TypeHello, Hello: &channel.Hello{Version: channel.Version}}, {Type: channel.TypeNeed, Name: "store"}} {
		if err := ch.SendMessage(m); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, channel.MaxMessage)
	for range 2 { // the welcome, and the first set: from here on nothing is read
		if _, _, err := ch.RecvMessage(buf); err != nil {
			t.Fatal(err)
		}
	}
	for range 20_000 {
		r.g.Route("shop", routes) // which tells it again
	}
	ch.SetReadDeadline(time.Now().Add(long))
	if m, _, err := ch.RecvMessage(buf); err != nil || m.Type != channel.TypeEndpoints || m.Endpoints == nil {
		t.Errorf("got %+v, %v: want the latest set", m, err)
	}
}
