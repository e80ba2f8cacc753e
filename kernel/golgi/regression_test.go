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
