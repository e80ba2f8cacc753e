package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/e2e/testdata/probe/api"
	"github.com/cellkernel/cellkernel/examples/netlab"
	"github.com/cellkernel/cellkernel/kernel/admin"
)

// hostNode makes a node on a host of a network lab.
func hostNode(t *testing.T, lab *netlab.Lab, family netlab.Family, home, name, genome string) *node {
	t.Helper()
	h, err := lab.Host(name, family)
	if err != nil {
		t.Fatal(err)
	}
	n := farNode(t, home, name, genome)
	n.host = h
	return n
}

const askerCell = `
[cells.asker]
command = ["PROBE", "serve"]
axons.store = { to = ["axon://store"], wait = false }
`

// awaitPeer waits until a node sees another one in a state.
func (n *node) awaitPeer(name string, state admin.PeerState) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%q is %s", name, state), func() bool {
		return slices.ContainsFunc(n.peers().Peers, func(p admin.Peer) bool { return p.Name == name && p.State == state })
	})
}

// Hosts of one mesh find each other without an address in their genomes; one
// of another mesh is seen, called foreign, and never called.
func TestHostsMeet(t *testing.T) {
	t.Parallel()
	for name, family := range map[string]netlab.Family{"IPv4": netlab.V4, "IPv6": netlab.V6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab, home, golgi := netlab.New(t), newMesh(t), ""
			if family == netlab.V6 {
				golgi = "[golgi]\nlisten = \"[::]:9000\"\n"
			}
			stranger := hostNode(t, lab, family, newMesh(t), "stranger", golgi+storeCell)
			stranger.up()
			a := hostNode(t, lab, family, home, "ant", golgi+askerCell)
			a.up()
			a.eventually("the stranger is foreign", func() bool {
				return slices.ContainsFunc(a.peers().Peers, func(p admin.Peer) bool { return p.State == admin.PeerForeign })
			})
			asker := a.client(a.mesh(), "asker")
			if out := a.relay(asker, "store", time.Second); out.Code != "deadline" && out.Code != "unavailable" {
				t.Errorf("with a stranger alone: got %+v, want nobody", out)
			}
			b := hostNode(t, lab, family, home, "bee", golgi+storeCell)
			b.up()
			a.mustRelay(asker, "store")
			a.awaitPeer("bee", admin.PeerVerified)
		})
	}
}

// The network is cut and heals: calls end by their deadlines meanwhile, with
// an error that says what it is, and go on afterwards.
func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	lab, home := netlab.New(t), newMesh(t)
	a, b := hostNode(t, lab, netlab.V4, home, "ant", askerCell), hostNode(t, lab, netlab.V4, home, "bee", storeCell)
	b.up()
	a.up()
	asker := a.client(a.mesh(), "asker")
	a.mustRelay(asker, "store")
	if err := lab.Partition([]*netlab.Host{a.host}, []*netlab.Host{b.host}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		out := a.relay(asker, "store", time.Second)
		if out.Code != "deadline" && out.Code != "unavailable" {
			t.Errorf("while the network is cut: got %+v", out)
		}
		a.inTime("a call with a deadline of 1 s", time.Duration(out.TookMS)*time.Millisecond, time.Second+100*time.Millisecond)
	}
	if err := lab.Heal(); err != nil {
		t.Fatal(err)
	}
	a.mustRelay(asker, "store")
}

// A node swaps its discovery under load and no call fails; what does not work
// is refused, by swap and by up, and the one in use stays.
func TestDiscoverySwap(t *testing.T) {
	t.Parallel()
	lab, home := netlab.New(t), newMesh(t)
	light, err := lab.Host("light", netlab.V4)
	if err != nil {
		t.Fatal(err)
	}
	server := &node{t: t, dir: t.TempDir(), host: light}
	at := light.Addr(netlab.V4).String() + ":9443"
	server.start("lighthouse", "--listen", at)
	golgi := func(discovery, at string) string {
		return "[golgi]\ndiscovery = [" + discovery + "]\n[plugins.discovery-lighthouse]\nservers = [\"" + at + "\"]\n"
	}
	b := hostNode(t, lab, netlab.V4, home, "bee", golgi(`"multicast", "lighthouse"`, at)+storeCell)
	b.up()
	c := hostNode(t, lab, netlab.V4, home, "cid", golgi(`"multicast", "lighthouse"`, at)+strings.ReplaceAll(storeCell, "store", "pet"))
	doomed := c.up()
	head := "[kernel]\nmesh = \"lab\"\nnode = \"ant\"\n"
	a := hostNode(t, lab, netlab.V4, home, "ant", golgi(`"multicast"`, at)+askerCell)
	a.up()
	asker := a.client(a.mesh(), "asker")
	a.mustRelay(asker, "store")
	a.load(asker, order("store"))
	// A node that was in use dies, which is no reason to keep what saw it last.
	a.awaitPeer("cid", admin.PeerVerified)
	if r := a.ck("ping", "cid"); r.code != 0 {
		t.Fatalf("ping: got %d %q", r.code, r.err)
	}
	doomed.signal(syscall.SIGKILL)
	a.want(0, "plugin", "swap", "discovery-multicast", "discovery-lighthouse")
	if list := a.want(0, "peers").out; strings.Contains(list, "multicast") || !strings.Contains(list, "quic://") {
		t.Errorf("a discovery that was exchanged is named still, or what is dialled is not:\n%s", list)
	}
	a.more(asker, 50)
	a.want(0, "plugin", "swap", "lighthouse", "multicast")
	a.more(asker, 50)
	if r := a.ck("plugin", "swap", "discovery-multicast", probe); r.code == 0 || !strings.Contains(r.err, "multicast") || strings.Contains(r.err, "--force") {
		t.Errorf("swap for a program that is no plugin: got %d %q", r.code, r.err)
	}
	// A lighthouse at which nobody is sees nothing.
	a.write("genome.toml", head+golgi(`"lighthouse"`, a.host.Addr(netlab.V4).String()+":1")+askerCell)
	if r := a.ck("up"); r.code == 0 || !strings.Contains(r.err, `end discovery "multicast"`) || !strings.Contains(r.err, "plugin swap --force") {
		t.Errorf("up with a lighthouse that is not there: got %d %q", r.code, r.err)
	}
	if p := a.process("discovery-multicast"); p.State != admin.StateReady {
		t.Errorf("after the refusals multicast is %s", p.State)
	}
	a.write("genome.toml", head+golgi(`"lighthouse"`, at)+askerCell)
	a.want(0, "up")
	a.more(asker, 50)
	a.flawless(asker)
}

// A host without any network boots and serves its cells.
func TestHostWithoutNetwork(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	n := hostNode(t, lab, 0, newMesh(t), "hermit", storeCell+askerCell)
	n.up()
	n.mustRelay(n.client(n.mesh(), "asker"), "store")
}

// Cells that need no other machine open Unix sockets and no others.
func TestLocalCellsOpenUnixSocketsOnly(t *testing.T) {
	t.Parallel()
	n := newNode(t, "[cells.store]\ncommand = [\"PROBE\", \"serve\"]\n"+askerCell)
	n.up()
	n.mustRelay(n.client(n.mesh(), "asker"), "store")
	seen := 0
	for _, p := range n.processes() {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		unix, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			link, _ := os.Readlink(fd) // it may have been closed
			inode, ok := strings.CutPrefix(link, "socket:[")
			if !ok {
				continue
			}
			seen++
			if inode = strings.TrimSuffix(inode, "]"); !strings.Contains(string(unix), " "+inode) {
				t.Errorf("%s has a socket that is no Unix socket: inode %s", p.ID(), inode)
			}
		}
	}
	if seen < 6 {
		t.Errorf("saw %d sockets: too few to be all", seen)
	}
}

// order is a load that leaves the machine some time for others.
func order(to string) *api.Order {
	return &api.Order{To: to, Method: "echo", Callers: 4, DeadlineMS: patience.Milliseconds(), PauseUS: 20_000}
}

// The transport of the node that is called is exchanged under load: callers
// hear of the new process before the old one leaves, and no call fails.
func TestTransportSwap(t *testing.T) {
	t.Parallel()
	lab, home := netlab.New(t), newMesh(t)
	b := hostNode(t, lab, netlab.V4, home, "bee", storeCell)
	b.up()
	a := hostNode(t, lab, netlab.V4, home, "ant", askerCell)
	a.up()
	asker := a.client(a.mesh(), "asker")
	a.mustRelay(asker, "store")
	a.load(asker, order("store"))
	for _, idle := range []string{"20s", "25s"} {
		before := b.process("transport-quic").PID
		b.write("genome.toml", "[kernel]\nmesh = \"lab\"\nnode = \"bee\"\n"+storeCell+"[plugins.transport-quic]\nidle = \""+idle+"\"\n")
		b.want(0, "up")
		if after := b.process("transport-quic").PID; after == before {
			t.Error("the transport was not replaced")
		}
		a.more(asker, 50)
	}
	a.flawless(asker)
}
