package golgi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a Golgi whose transport is a plain Unix socket.
type rig struct {
	t    *testing.T
	g    *golgi.Golgi
	home *identity.Mesh
	key  []byte
	addr string
	hung chan golgi.Replica
}

func newRig(t *testing.T, junction func(string) (sdk.Addr, *identity.Mesh, error), more ...func(*golgi.Options)) *rig {
	t.Helper()
	dir := t.TempDir()
	home := identity.NewMesh()
	r := &rig{t: t, home: home, key: home.LinkKey(), addr: filepath.Join(dir, "links"), hung: make(chan golgi.Replica, 8)}
	ln, err := net.Listen("unix", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	o := golgi.Options{
		Run: "run-" + dir, Self: newIdentity(t), Home: home, Local: sdk.Addr{Scheme: "uds", Host: r.addr}, Junction: junction,
		Dial: func(ctx context.Context, a sdk.Addr) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.Host)
		},
		Hung: func(id golgi.Replica, _ string) { r.hung <- id },
	}
	for _, change := range more {
		change(&o)
	}
	r.g = golgi.New(o)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.g.ServeLinks(ln, golgi.Door{}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { ln.Close(); r.g.Close(); wg.Wait() })
	return r
}

// newIdentity makes a node.
func newIdentity(t *testing.T) *identity.Identity {
	t.Helper()
	store, err := identity.OpenStore(filepath.Join(t.TempDir(), "mesh"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	id, err := store.Identity("node")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// leadsTo is the axons of a cell that calls one other.
func leadsTo(name, cell sdk.CellName) map[sdk.CellName]golgi.Axon {
	return map[sdk.CellName]golgi.Axon{name: {To: []golgi.Target{{Cell: cell}}}}
}

// attach attaches one replica.
func (r *rig) attach(name sdk.CellName, index int, w channel.Welcome) *cell.Membrane {
	r.t.Helper()
	a, err := r.g.Attach(golgi.Replica{Cell: name, Index: index, Incarnation: uint64(index)}, w)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Channel.Close()
	ch, err := channel.FromFile(a.Channel)
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := cell.Attach(ch, channel.Hello{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return m
}

type text struct{ S string }

func (x *text) AppendFlat(b []byte) []byte { return append(b, x.S...) }
func (x *text) ParseFlat(b []byte) error   { x.S = string(b); return nil }

func newText() flat.Message { return new(text) }

var desc = cell.Desc{Name: "Who", Methods: []cell.MethodDesc{{Name: "Am", NewIn: newText, NewOut: newText}}}

// serve attaches a replica that answers its own name and its caller's.
func (r *rig) serve(name sdk.CellName, index int) *cell.Membrane {
	m := r.attach(name, index, channel.Welcome{})
	m.Register(&desc, func(ctx context.Context, c *cell.Call) error {
		return c.Reply(&text{string(m.Name()) + " to " + string(cell.Caller(ctx).Cell)})
	})
	m.Ready()
	return m
}

func ask(t *testing.T, m *cell.Membrane, name sdk.CellName, within time.Duration) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	v, err := m.Synapse(name).Client(&desc).Call(ctx, 0, &text{})
	if err != nil {
		return "", err
	}
	defer v.Release()
	return string(v.Bytes()), nil
}

const long = 10 * time.Second

func TestNamesLeadWhereTheManifestSays(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	r.g.Route("shop", golgi.Routes{Axons: leadsTo("backend", "store")})
	r.serve("store", 1)
	shop := r.serve("shop", 1)
	if got, err := ask(t, shop, "backend", long); got != "store to shop" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := ask(t, shop, "store", long); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("a name without an axon: got %v", err)
	}
	r.g.Route("shop", golgi.Routes{Axons: leadsTo("store", "store")})
	deadline := time.Now().Add(long)
	for {
		got, err := ask(t, shop, "store", long)
		if got == "store to shop" {
			break
		}
		if sdk.CodeOf(err) != sdk.CodeNotFound || time.Now().After(deadline) {
			t.Fatalf("after the manifest changed: got %q, %v", got, err)
		}
	}
}

func TestOwnNameReachesOthersOnly(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("twin", golgi.Routes{})
	one := r.serve("twin", 1)
	if _, err := ask(t, one, "twin", 50*time.Millisecond); sdk.CodeOf(err) != sdk.CodeDeadline {
		t.Errorf("alone: got %v", err)
	}
	r.serve("twin", 2)
	if got, err := ask(t, one, "twin", long); got != "twin to twin" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAllow(t *testing.T) {
	r := newRig(t, nil)
	axons := leadsTo("vault", "vault")
	r.g.Route("vault", golgi.Routes{Allow: map[string]bool{"friend": true}})
	r.g.Route("friend", golgi.Routes{Axons: axons})
	r.g.Route("other", golgi.Routes{Axons: axons})
	r.serve("vault", 1)
	if got, err := ask(t, r.serve("friend", 1), "vault", long); got != "vault to friend" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := ask(t, r.serve("other", 1), "vault", long); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("who is not in the list: got %v", err)
	}
}

func TestJunctionJoinsTwoKernels(t *testing.T) {
	there := newRig(t, nil)
	there.g.Route("books", golgi.Routes{})
	there.serve("books", 1)
	here := newRig(t, func(dir string) (sdk.Addr, *identity.Mesh, error) {
		if dir != "/there" {
			return sdk.Addr{}, nil, errors.New("no kernel runs in " + dir)
		}
		return sdk.Addr{Scheme: "uds", Host: there.addr}, there.home, nil
	})
	here.g.Route("reader", golgi.Routes{Junctions: map[sdk.CellName]string{"books": "/there", "lost": "/nowhere"}})
	reader := here.serve("reader", 1)
	if got, err := ask(t, reader, "books", long); got != "books to reader" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := ask(t, reader, "lost", 100*time.Millisecond); sdk.CodeOf(err) != sdk.CodeDeadline {
		t.Errorf("a kernel that does not run: got %v", err)
	}
}

// knock dials the links socket like a stranger and returns the answer.
func (r *rig) knock(b []byte) (byte, error) {
	c, err := net.Dial("unix", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		r.t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(long))
	var answer [1]byte
	_, err = io.ReadFull(c, answer[:])
	return answer[0], err
}

func TestStrangersAreRefusedUniformly(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	r.serve("store", 1)
	h := wire.LinkHeader{ID: 1, Node: string(newIdentity(t).Node()), Cell: "x", Wanted: "store"}
	good, err := wire.AppendLinkHeader(nil, h, r.key)
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := wire.AppendLinkHeader(nil, h, []byte("another key"))
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	for name, b := range map[string][]byte{
		"another key": forged, "a flipped bit": flipped, "a length of 65535": {0xff, 0xff}, "a length of 0": {0, 0},
	} {
		if code, err := r.knock(b); sdk.Code(code) != sdk.CodeDenied || err != nil {
			t.Errorf("%s: got %s, %v", name, sdk.Code(code), err)
		}
	}
	if code, err := r.knock(good); code != 0 || err != nil {
		t.Errorf("the right key: got %s, %v", sdk.Code(code), err)
	}
	// Whoever claims that both ends are this kernel's must name a link that
	// this kernel is just opening.
	h.Node, h.Wanted = "run-"+filepath.Dir(r.addr), "store#1@1"
	own, _ := wire.AppendLinkHeader(nil, h, r.key)
	if code, _ := r.knock(own); sdk.Code(code) != sdk.CodeDenied {
		t.Errorf("a claim to be local: got %s", sdk.Code(code))
	}
}

func TestTokensAreGoodOnce(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	path := filepath.Join(filepath.Dir(r.addr), "control")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.g.ServeControl(l); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer l.Close()
	dial := func(h channel.Hello) (*cell.Membrane, error) {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		return cell.Attach(channel.New(c), h)
	}
	token := r.g.Token(golgi.Replica{Cell: "store", Index: 9}, channel.Welcome{})
	m, err := dial(channel.Hello{Token: token})
	if err != nil || m.Name() != "store" || m.Replica() != 9 {
		t.Fatalf("got %v, %v", m, err)
	}
	defer m.Close()
	if _, err := dial(channel.Hello{Token: token}); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("used twice: got %v", err)
	}
	cli, err := dial(channel.Hello{})
	if err != nil || cli.Name() != sdk.CLIName {
		t.Fatalf("without a token: got %v, %v", cli, err)
	}
	cli.Close()
}

func TestDrainTakesAReplicaOutOfReach(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	r.g.Route("shop", golgi.Routes{Axons: leadsTo("store", "store")})
	store := r.attach("store", 1, channel.Welcome{})
	store.Register(&desc, func(_ context.Context, c *cell.Call) error { return c.Reply(&text{"first"}) })
	served := make(chan error, 1)
	go func() { served <- store.Serve(context.Background()) }()
	shop := r.serve("shop", 1)
	if _, err := ask(t, shop, "store", long); err != nil {
		t.Fatal(err)
	}
	if err := r.g.Drain(nil, golgi.Replica{Cell: "store", Index: 1, Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := ask(t, shop, "store", 50*time.Millisecond); sdk.CodeOf(err) != sdk.CodeDeadline {
		t.Errorf("after the drain: got %v", err)
	}
}

func TestMessagesBeforeHelloEndTheChannel(t *testing.T) {
	r := newRig(t, nil)
	a, err := r.g.Attach(golgi.Replica{Cell: "store", Index: 1}, channel.Welcome{})
	if err != nil {
		t.Fatal(err)
	}
	ch, err := channel.FromFile(a.Channel)
	if err != nil {
		t.Fatal(err)
	}
	a.Channel.Close()
	defer ch.Close()
	w, _ := os.CreateTemp(t.TempDir(), "")
	defer w.Close()
	if err := ch.SendMessage(channel.Message{Type: channel.TypeReady}, w); err != nil {
		t.Fatal(err)
	}
	ch.SetReadDeadline(time.Now().Add(long))
	if _, _, err := ch.Recv(make([]byte, channel.MaxMessage)); err != io.EOF {
		t.Errorf("got %v, want io.EOF", err)
	}
}

func TestFlowsCountWhatCellsAnswered(t *testing.T) {
	r := newRig(t, nil)
	r.g.Route("store", golgi.Routes{})
	r.g.Route("shop", golgi.Routes{Axons: leadsTo("store", "store")})
	r.serve("store", 1)
	shop := r.serve("shop", 1)
	for range 7 {
		if _, err := ask(t, shop, "store", long); err != nil {
			t.Fatal(err)
		}
	}
	awaitCalls := func(links int) {
		t.Helper()
		deadline := time.Now().Add(long)
		for {
			fs := r.g.Flows()
			if len(fs) == 1 && fs[0].From == "shop" && fs[0].To == "store" && fs[0].Links == links && fs[0].Stats.Calls == 7 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("got %+v, want 7 calls and %d links from shop to store", fs, links)
			}
			time.Sleep(10 * time.Millisecond) // cells tell their counters once a second
		}
	}
	awaitCalls(1)
	if err := shop.Close(); err != nil {
		t.Fatal(err)
	}
	awaitCalls(0)
}
