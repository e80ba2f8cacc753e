package golgi_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// headerOf seals a link header, signed by a node; nil leaves it unsigned.
func headerOf(t *testing.T, mesh *identity.Mesh, by *identity.Identity, h wire.LinkHeader) []byte {
	t.Helper()
	if by != nil {
		statement, err := h.Statement()
		if err != nil {
			t.Fatal(err)
		}
		h.Proof = mesh.ProveLink(by, statement)
	}
	b, err := wire.AppendLinkHeader(nil, h, mesh.LinkKey())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// knock sends a link header to the door for other machines, and returns the
// open connection and the answer.
func (f *farRig) knock(header []byte) (net.Conn, sdk.Code, string) {
	f.t.Helper()
	c, err := net.Dial("tcp", hostOf(f))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(long))
	if _, err := c.Write(header); err != nil {
		f.t.Fatal(err)
	}
	var code [1]byte
	if _, err := io.ReadFull(c, code[:]); err != nil {
		f.t.Fatal(err)
	}
	if code[0] == 0 {
		return c, 0, ""
	}
	text, err := io.ReadAll(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return c, sdk.Code(code[0]), string(text[1:])
}

// Knowing the mesh secret is not being another node: neither to get around the
// deny list or an allow list, nor to use up what another may.
func TestWhoClaimsToBeAnotherNodeIsRefused(t *testing.T) {
	mesh := identity.NewMesh()
	friend, evil := newFarRig(t, mesh), newIdentity(t)
	b := newFarRig(t, mesh)
	b.offer("store", golgi.Routes{Allow: map[string]bool{string(friend.self.Node()): true}})
	as := func(id *identity.Identity) wire.LinkHeader {
		return wire.LinkHeader{ID: 1, Node: string(id.Node()), Cell: "evil", Wanted: "store"}
	}
	elsewhere, moved := as(friend.self), as(friend.self)
	elsewhere.Binding[0] = 1
	statement, err := elsewhere.Statement()
	if err != nil {
		t.Fatal(err)
	}
	moved.Proof = mesh.ProveLink(friend.self, statement)
	other := as(friend.self)
	other.Wanted = "golgi"
	if statement, err = other.Statement(); err != nil {
		t.Fatal(err)
	}
	changed := as(friend.self)
	changed.Proof = mesh.ProveLink(friend.self, statement)
	foreign := as(friend.self)
	if statement, err = foreign.Statement(); err != nil {
		t.Fatal(err)
	}
	foreign.Proof = identity.NewMesh().ProveLink(friend.self, statement)
	nobody := as(evil)
	nobody.Node = "nobody"
	for name, header := range map[string][]byte{
		"without a signature":        headerOf(t, mesh, nil, as(friend.self)),
		"signed by another":          headerOf(t, mesh, evil, as(friend.self)),
		"signed for another channel": headerOf(t, mesh, nil, moved),
		"signed for another cell":    headerOf(t, mesh, nil, changed),
		"signed in another mesh":     headerOf(t, mesh, nil, foreign),
		"of no node":                 headerOf(t, mesh, evil, nobody),
	} {
		if _, code, text := b.knock(header); code != sdk.CodeDenied || !strings.Contains(text, "verify link header") {
			t.Errorf("%s: answer %s %q", name, code, text)
		}
	}
	if _, code, text := b.knock(headerOf(t, mesh, evil, as(evil))); code != sdk.CodeDenied || !strings.Contains(text, "allow list") {
		t.Errorf("in its own name: answer %s %q", code, text)
	}
	id := evil.Node()
	b.denied.Store(&id)
	if _, code, text := b.knock(headerOf(t, mesh, evil, as(evil))); code != sdk.CodeDenied || !strings.Contains(text, "deny list") {
		t.Errorf("denied: answer %s %q", code, text)
	}
	if _, code, text := b.knock(headerOf(t, mesh, friend.self, as(friend.self))); code != 0 {
		t.Errorf("the node itself: answer %s %q", code, text)
	}
}

// Handshakes that one node begins and does not go on with leave room for those
// of others.
func TestFrozenHandshakesOfOneNodeLeaveRoom(t *testing.T) {
	mesh := identity.NewMesh()
	a, b, evil := newFarRig(t, mesh), newFarRig(t, mesh), newIdentity(t)
	b.offer("store", golgi.Routes{})
	header := headerOf(t, mesh, evil, wire.LinkHeader{ID: 1, Node: string(evil.Node()), Cell: "evil", Wanted: "store"})
	begun := time.Now()
	var frozen []net.Conn
	for range 300 { // more than a cell secures at once
		c, code, text := b.knock(header)
		if code != 0 {
			t.Fatalf("answer %s %q", code, text)
		}
		frozen = append(frozen, c)
	}
	if _, err := ask(t, a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: hostOf(b)}}}), "store", 2*time.Second); err != nil {
		t.Errorf("a call of another node: %v", err)
	}
	if took := time.Since(begun); took > 4*time.Second { // the call above is what counts
		t.Logf("after %v the first handshakes are over: they are not counted", took)
		return
	}
	goOn := 0
	for _, c := range frozen {
		c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			goOn++
		}
	}
	if goOn == 0 || goOn > 64 {
		t.Errorf("%d handshakes of one node go on", goOn)
	}
}

func TestAKernelIsReachedByItsOwnID(t *testing.T) {
	f := newFarRig(t, identity.NewMesh())
	self := f.kernelAs(sdk.GolgiName)
	self.Register(&desc, func(_ context.Context, c *cell.Call) error { return c.Reply(&text{"the kernel"}) })
	self.Ready()
	if got, err := ask(t, f.cli(), sdk.CellName("golgi@"+string(f.self.Node())), long); got != "the kernel" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAHeaderOfAnotherMeshIsCalledThat(t *testing.T) {
	said := make(lineLog, 64)
	b := newFarRig(t, identity.NewMesh(), func(o *golgi.Options) { o.Log = slog.New(slog.NewTextHandler(said, nil)) })
	other := identity.NewMesh()
	header := headerOf(t, other, b.self, wire.LinkHeader{ID: 1, Node: string(b.self.Node()), Cell: "c", Wanted: "golgi"})
	if _, code, text := b.knock(header); code != sdk.CodeDenied || text != "refused" {
		t.Errorf("answer %s %q", code, text)
	}
	if line := <-said; !strings.Contains(line, "another mesh's secret") {
		t.Errorf("logged %q", line)
	}
}
