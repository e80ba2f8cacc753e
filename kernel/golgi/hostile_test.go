package golgi_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

func TestWhoStopsInMidHandshakeIsFreed(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	header := headerOf(t, mesh, a.self, wire.LinkHeader{ID: 1, Node: string(a.self.Node()), Cell: "shop", Wanted: "store"})
	c, err := net.Dial("tcp", hostOf(b))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write(header)
	begun := time.Now()
	c.SetReadDeadline(begun.Add(2 * long))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, []byte{0}) {
		t.Fatalf("got %x, %v: want a welcome, and then the end without a word", got, err)
	}
	if took := time.Since(begun); took < 4*time.Second {
		t.Errorf("ended after %s", took)
	}
	eventually(t, "the link still counts", func() bool {
		for _, f := range b.g.Flows() {
			if f.Links > 0 {
				return false
			}
		}
		return true
	})
}

// A relayed connection ends at somebody in the middle: its channel has another
// binding than the one at the far end.
type relayed struct {
	*net.TCPConn
	binding [32]byte
}

func (r relayed) ChannelBinding() [32]byte { return r.binding }
func (r relayed) File() (*os.File, error)  { return r.TCPConn.File() }

func TestARelayInTheMiddleIsRefusedBeforeAnyCertificate(t *testing.T) {
	mesh := identity.NewMesh()
	b := newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards seen
	var seen bytes.Buffer
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	behind := hostOf(b)
	wg.Go(func() { // the relay passes all on, and keeps a copy
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", behind)
			if err != nil {
				near.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				defer to.Close()
				buf := make([]byte, 4096)
				for {
					n, err := from.Read(buf)
					mu.Lock()
					seen.Write(buf[:n])
					mu.Unlock()
					if err != nil {
						return
					}
					to.Write(buf[:n])
				}
			}
			wg.Go(func() { pass(far, near) })
			wg.Go(func() { pass(near, far) })
		}
	})
	a := newFarRig(t, mesh, func(o *golgi.Options) {
		plain := o.Dial
		o.Dial = func(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
			c, err := plain(ctx, addr)
			if tcp, ok := c.(*net.TCPConn); ok {
				return relayed{tcp, [32]byte{1}}, err
			}
			return c, err
		}
	})
	for _, known := range []bool{false, true} {
		host := ln.Addr().String()
		axon := golgi.Axon{To: []golgi.Target{{Cell: "store", Host: host}}}
		if known {
			axon.To[0].Host = ""
			port := b.port
			b.port = uint16(ln.Addr().(*net.TCPAddr).Port)
			a.sees(b, "store")
			b.port = port
		}
		shop := a.calls("store", axon)
		_, err := ask(t, shop, "store", long)
		if sdk.CodeOf(err) != sdk.CodeDenied || !strings.HasSuffix(err.Error(), "refused") {
			t.Errorf("announced before: %t: got %v", known, err)
		}
		shop.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	key := a.self.Node().Key()
	if bytes.Contains(seen.Bytes(), key) || seen.Len() == 0 {
		t.Errorf("the relay saw %d bytes, the key of a node among them: %t", seen.Len(), bytes.Contains(seen.Bytes(), key))
	}
}

func TestLinksAreMadeAnewUnderCalls(t *testing.T) {
	mesh := identity.NewMesh()
	a := newFarRig(t, mesh)
	b := newFarRig(t, mesh, func(o *golgi.Options) { o.LinkAge = time.Millisecond })
	b.offer("store", golgi.Routes{})
	shop := a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: hostOf(b)}}})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // two rounds
	defer cancel()
	calls := 0
	for ; ctx.Err() == nil; calls++ {
		if calls == 100 {
			rel, stop := context.WithTimeout(ctx, long)
			a.g.Release(rel, "tcp")
			if rel.Err() != nil {
				t.Error("links do not end when they are released")
			}
			stop()
		}
		if got, err := ask(t, shop, "store", long); err != nil {
			t.Fatalf("call %d: %q, %v", calls, got, err)
		}
	}
	if calls < 100 {
		t.Errorf("only %d calls", calls)
	}
}
