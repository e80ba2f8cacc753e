package golgi_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

func (f *farRig) explain(from, name sdk.CellName) *golgi.Explanation {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), long)
	defer cancel()
	e, err := f.g.Explain(ctx, from, name)
	if err != nil {
		f.t.Fatal(err)
	}
	return e
}

// says checks that a rule was told.
func says(t *testing.T, e *golgi.Explanation, key string, ok bool, text string) {
	t.Helper()
	if !slices.ContainsFunc(e.Rules, func(r golgi.Rule) bool {
		return r.Key == key && r.OK == ok && strings.Contains(r.Text, text)
	}) {
		t.Errorf("no rule %s, %v, %q in %+v", key, ok, text, e.Rules)
	}
}

func TestExplainTriesEveryAddress(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	eventually(t, "it is ready", func() bool { return b.g.Served("store") == 1 })
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shut.Close() // nobody listens there
	a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store"}, {Cell: "store", Host: shut.Addr().String()}}})
	a.sees(b, "store")
	e := a.explain("shop", "store")
	says(t, e, "axon", true, "store = axon://store, axon://"+shut.Addr().String()+"/store")
	if e.Failure != nil || len(e.Reaches) != 2 {
		t.Fatalf("got %+v", e)
	}
	node, at := e.Reaches[0], e.Reaches[1]
	if node.Kind != "node" || node.Node != b.self.Node() || len(node.Tries) != 1 || node.Tries[0].Err != nil || node.Tries[0].Addr.Host != hostOf(b) {
		t.Errorf("the node: got %+v", node)
	}
	if at.Kind != "address" || len(at.Tries) != 1 || at.Tries[0].Err == nil || !strings.Contains(at.Tries[0].Err.Error(), "refused") {
		t.Errorf("the address where nobody listens: got %+v", at)
	}
	eventually(t, "no link is left", func() bool {
		return a.peers.Nodes()[0].Links == 0 && b.g.Served("store") == 1 && linksOf(b) == 0
	})
}

// cli attaches the kernel itself as a caller.
func (f *farRig) cli() *cell.Membrane { return f.kernelAs(sdk.CLIName) }

func (f *farRig) kernelAs(name sdk.CellName) *cell.Membrane {
	f.t.Helper()
	file, err := f.g.AttachSelf(name)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	ch, err := channel.FromFile(file)
	if err != nil {
		f.t.Fatal(err)
	}
	m, err := cell.Attach(ch, channel.Hello{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return m
}

// linksOf counts the links that cells of f answer.
func linksOf(f *farRig) int {
	n := 0
	for _, flow := range f.g.Flows() {
		n += flow.Links
	}
	return n
}

func TestExplainNamesTheRuleThatForbids(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.offer("store", golgi.Routes{Allow: map[string]bool{"friend": true}})
	eventually(t, "it is ready", func() bool { return b.g.Served("store") == 1 })
	a.sees(b, "store")
	other := a.self.Node()
	a.calls("store", golgi.Axon{})
	if e := a.explain("shop", "store"); len(e.Reaches) != 1 || sdk.CodeOf(e.Reaches[0].Tries[0].Err) != sdk.CodeDenied ||
		!strings.Contains(e.Reaches[0].Tries[0].Err.Error(), "allow list") {
		t.Errorf("the other kernel's allow: got %+v", e.Reaches)
	}
	a.g.Route("shop", golgi.Routes{Axons: map[sdk.CellName]golgi.Axon{"store": {To: []golgi.Target{{Cell: "store"}}, Peers: []sdk.NodeID{other}}}})
	e := a.explain("shop", "store")
	says(t, e, "peers", false, string(b.self.Node()))
	if sdk.CodeOf(e.Failure) != sdk.CodeDenied {
		t.Errorf("got %v", e.Failure)
	}
	a.g.Route("vault", golgi.Routes{Allow: map[string]bool{"friend": true}})
	a.g.Route("shop", golgi.Routes{Axons: leadsTo("vault", "vault")})
	e = a.explain("shop", "vault")
	says(t, e, "allow", false, `allows [friend], not "shop"`)
	says(t, e, "listen", true, "this machine")
	e = a.explain("shop", "nothing")
	says(t, e, "axon", false, "it has [vault]")
	if sdk.CodeOf(e.Failure) != sdk.CodeNotFound {
		t.Errorf("got %v", e.Failure)
	}
	if _, err := a.g.Explain(t.Context(), "nobody", "vault"); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("from nobody: got %v", err)
	}
}

func TestExplainTriesLocalReplicas(t *testing.T) {
	a := newFarRig(t, identity.NewMesh())
	a.offer("store", golgi.Routes{})
	a.serve("store", 2)
	eventually(t, "both are ready", func() bool { return a.g.Served("store") == 2 })
	e := a.explain("", "store")
	if len(e.Reaches) != 2 || !e.Reaches[0].Local || e.Reaches[0].Tries[0].Err != nil || e.Reaches[1].Tries[0].Err != nil {
		t.Errorf("got %+v", e)
	}
	eventually(t, "the links are over", func() bool { return linksOf(a) == 0 })
}

// An address that takes a connection and says nothing costs the budget and no more.
func TestExplainEndsInTime(t *testing.T) {
	a := newFarRig(t, identity.NewMesh())
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	a.calls("store", golgi.Axon{To: []golgi.Target{{Cell: "store", Host: mute.Addr().String()}}})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	e, err := a.g.Explain(ctx, "shop", "store")
	if err != nil || sdk.CodeOf(e.Reaches[0].Tries[0].Err) != sdk.CodeDeadline {
		t.Errorf("got %+v, %v", e, err)
	}
}

// The command line reaches a node by its id or by its address.
func TestNodesAreCalledByIDOrAddress(t *testing.T) {
	mesh := identity.NewMesh()
	a, b := newFarRig(t, mesh), newFarRig(t, mesh)
	b.offer("store", golgi.Routes{})
	cli := a.cli()
	a.sees(b, "store")
	for _, name := range []sdk.CellName{"store@" + sdk.CellName(b.self.Node()), "store@" + sdk.CellName(hostOf(b))} {
		if got, err := ask(t, cli, name, long); got != "store to cli" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	eventually(t, "the paths are known", func() bool {
		for _, p := range a.g.Paths() {
			if p.Node != b.self.Node() || p.Addr.Host != hostOf(b) {
				t.Errorf("got %+v", p)
			}
		}
		return len(a.g.Paths()) > 0
	})
}
