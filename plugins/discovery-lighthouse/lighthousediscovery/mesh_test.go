package lighthousediscovery_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthouse"
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/lighthousediscovery"
	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/memnet"
	"github.com/cellkernel/cellkernel/sdk"
)

// A mesh is lighthouses and nodes in memory, in a bubble of synctest.
type mesh struct {
	t    *testing.T
	net  memnet.Net
	stop map[string]func() // of lighthouses
	next int               // host part of the next socket's address
}

func newMesh(t *testing.T) *mesh { return &mesh{t: t, stop: map[string]func(){}} }

// light starts a lighthouse, or starts it again.
func (m *mesh) light(addr string) *lighthouse.Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := lighthouse.New(m.net.Listen(netip.MustParseAddrPort(addr)), lighthouse.Options{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	m.stop[addr] = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("serve: %v", err)
		}
		delete(m.stop, addr)
	}
	return s
}

// dark stops the lighthouses that are left.
func (m *mesh) dark() {
	for _, stop := range m.stop {
		stop()
	}
}

func conf(servers ...string) lighthousediscovery.Config {
	c := lighthousediscovery.DefaultConfig()
	c.Servers = servers
	return c
}

// A node is a discovery and what its watch saw.
type node struct {
	*lighthousediscovery.Discovery
	mu     sync.Mutex // guards events
	events []sdk.Event
	end    func()
	dials  atomic.Int32
}

// node starts a node whose sockets are at an address of its own.
func (m *mesh) node(c lighthousediscovery.Config) *node {
	m.next++
	n, host := &node{}, m.next
	n.Discovery = lighthousediscovery.Open(c, [32]byte{byte(host)}, slog.New(slog.DiscardHandler),
		func(_ context.Context, server string, _ int) (net.Conn, error) {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(host)}), uint16(1000+n.dials.Add(1)))
			return m.net.Dial(at, netip.MustParseAddrPort(server)), nil
		})
	return n
}

// watch begins to note what n sees.
func (n *node) watch(t *testing.T) *node {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.Watch(ctx, func(e sdk.Event) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, e)
		})
	}()
	n.end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	}
	return n
}

// close ends n without a goodbye of its watch.
func (n *node) close() {
	if n.end != nil {
		n.end()
	}
	n.Close()
}

// all returns what n saw.
func (n *node) all() []sdk.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// has returns how often n saw an event of a kind with an envelope.
func (n *node) has(k sdk.EventKind, envelope string) (times int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Kind == k && string(e.Envelope) == envelope {
			times++
		}
	}
	return times
}

func announce(t *testing.T, n *node, envelopes ...string) {
	t.Helper()
	var self []sdk.Envelope
	for _, e := range envelopes {
		self = append(self, sdk.Envelope(e))
	}
	if err := n.Announce(t.Context(), self); err != nil {
		t.Fatalf("announce %.40q: %v", envelopes, err)
	}
}

const one, two = "192.0.2.1:9443", "192.0.2.2:9443"

// envelope is one of a mesh, so that watching waits for nothing.
func envelope(tag byte, text string) string {
	return "ckA\x01" + strings.Repeat(string(rune(tag)), 8) + text
}

func TestLeaseEndsAfterThreeBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.light(one)
		a, b := m.node(conf(one)), m.node(conf(one))
		announce(t, b, envelope('m', "b"))
		b.watch(t)
		announce(t, a, envelope('m', "a"))
		time.Sleep(time.Second)
		if b.has(sdk.EventSeen, envelope('m', "a")) != 1 || b.has(sdk.EventSynced, "") != 1 {
			t.Fatalf("b saw %q", b.all())
		}
		time.Sleep(time.Minute) // beats keep it, and say nothing
		if b.has(sdk.EventSeen, envelope('m', "a")) != 1 || b.has(sdk.EventGone, envelope('m', "a")) != 0 {
			t.Fatalf("after a minute b saw %q", b.all())
		}
		m.net.Filter(func(from, _ netip.AddrPort, _ []byte) bool { return from.Addr() != netip.MustParseAddr("10.0.0.1") })
		time.Sleep(5 * time.Second)
		if b.has(sdk.EventGone, envelope('m', "a")) != 0 {
			t.Error("it was gone before its lease ended")
		}
		time.Sleep(5 * time.Second) // 9 s after the last beat at the latest
		if b.has(sdk.EventGone, envelope('m', "a")) != 1 {
			t.Errorf("its lease did not end: b saw %q", b.all())
		}
		a.close()
		b.close()
		m.dark()
	})
}

// Who is in another mesh sees nothing, whoever announces first.
func TestMeshesDoNotSeeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.light(one)
		a, b, c := m.node(conf(one)), m.node(conf(one)), m.node(conf(one))
		for i, n := range []*node{a, b, c} {
			n.watch(t)
			announce(t, n, envelope("mmx"[i], "node"+string(rune('a'+i))))
		}
		time.Sleep(time.Second)
		if a.has(sdk.EventSeen, envelope('m', "nodeb")) != 1 || a.has(sdk.EventSeen, envelope('x', "nodec")) != 0 || c.has(sdk.EventSeen, envelope('m', "nodea")) != 0 {
			t.Errorf("a saw %q, c saw %q", a.all(), c.all())
		}
		// The mesh got a new secret: b moves to it, and sees who did.
		announce(t, b, envelope('x', "nodeb"))
		time.Sleep(time.Second)
		if b.has(sdk.EventSeen, envelope('x', "nodec")) != 1 || c.has(sdk.EventSeen, envelope('x', "nodeb")) != 1 {
			t.Errorf("after the change b saw %q, c saw %q", b.all(), c.all())
		}
		for _, n := range []*node{a, b, c} {
			n.close()
		}
		m.dark()
	})
}

// A lighthouse that restarts forgot everybody. Nobody seems to be gone, all
// are known again after a beat, and they do not come at the same instant.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		s := m.light(one)
		var nodes []*node
		for i := range 30 {
			n := m.node(conf(one))
			announce(t, n, envelope('m', fmt.Sprint(i)))
			nodes = append(nodes, n.watch(t))
		}
		time.Sleep(5 * time.Second)
		if s.Stats().Nodes != 30 {
			t.Fatalf("before: %+v", s.Stats())
		}
		m.stop[one]()
		var mu sync.Mutex
		times := map[time.Time]int{}
		m.net.Filter(func(from, to netip.AddrPort, b []byte) bool {
			if b[4] == 3 { // registrations
				mu.Lock()
				times[time.Now().Truncate(10*time.Millisecond)]++
				mu.Unlock()
			}
			return true
		})
		s = m.light(one)
		time.Sleep(5 * time.Second)
		if s.Stats().Nodes != 30 {
			t.Errorf("after: %+v", s.Stats())
		}
		mu.Lock()
		for at, n := range times {
			if n > 15 {
				t.Errorf("%d registrations in the 10 ms after %v", n, at)
			}
		}
		mu.Unlock()
		late := m.node(conf(one))
		announce(t, late, envelope('m', "late"))
		nodes[3].Close() // dies as well
		time.Sleep(2 * lighthousediscovery.DoubtTime)
		for i := range 30 {
			gone := 0
			if i == 3 {
				gone = 1
			}
			if nodes[7].has(sdk.EventSeen, envelope('m', fmt.Sprint(i))) != 1 || nodes[7].has(sdk.EventGone, envelope('m', fmt.Sprint(i))) != gone {
				t.Errorf("node %d: %d times seen, %d gone", i, nodes[7].has(sdk.EventSeen, envelope('m', fmt.Sprint(i))), nodes[7].has(sdk.EventGone, envelope('m', fmt.Sprint(i))))
			}
		}
		if nodes[7].has(sdk.EventSeen, envelope('m', "late")) != 1 {
			t.Error("who came after the restart was not seen")
		}
		for _, n := range append(nodes, late) {
			n.close()
		}
		m.dark()
	})
}

// A node that died while its lighthouse restarted is gone in the end.
func TestDeathDuringARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.light(one)
		a, b := m.node(conf(one)), m.node(conf(one))
		announce(t, a, envelope('m', "a"))
		announce(t, b, envelope('m', "b"))
		b.watch(t)
		time.Sleep(time.Second)
		m.stop[one]()
		a.Close()
		m.light(one)
		time.Sleep(lighthousediscovery.DoubtTime + 10*time.Second)
		if b.has(sdk.EventGone, envelope('m', "a")) != 1 || b.has(sdk.EventGone, envelope('m', "b")) != 0 {
			t.Errorf("b saw %q", b.all())
		}
		b.close()
		m.dark()
	})
}

// Two lighthouses are a union: each node is told of once, and is gone when
// both say so. One that is dead delays the snapshot by its time-out at most.
func TestTwoLighthouses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.light(one)
		m.light(two)
		a, b := m.node(conf(one, two)), m.node(conf(two, one))
		only, keeper := m.node(conf(one)), m.node(conf(one, two))
		announce(t, keeper, envelope('m', "keeper"))
		keeper.watch(t)
		announce(t, b, envelope('m', "b"))
		b.watch(t)
		announce(t, only, envelope('m', "only"))
		for i := range 5 { // as a kernel does with each beat
			announce(t, a, envelope('m', fmt.Sprint("a", i)))
			time.Sleep(time.Second)
		}
		for i := range 5 {
			if got := b.has(sdk.EventSeen, envelope('m', fmt.Sprint("a", i))); got < 1 || got > 2 { // two origins
				t.Errorf("a's announcement %d was seen %d times", i, got)
			}
		}
		// One of the two is cut off from a: nothing is gone.
		m.net.Filter(func(from, to netip.AddrPort, _ []byte) bool {
			return from.Addr() != netip.MustParseAddr("10.0.0.1") || to.String() != two
		})
		time.Sleep(30 * time.Second)
		if slices.ContainsFunc(b.all(), func(e sdk.Event) bool { return e.Kind == sdk.EventGone }) {
			t.Errorf("with one lighthouse cut off b saw %q", b.all())
		}
		m.stop[two]()
		late := m.node(conf(one, two))
		announce(t, late, envelope('m', "late"))
		began := time.Now()
		late.watch(t)
		for late.has(sdk.EventSynced, "") == 0 && time.Since(began) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 2500*time.Millisecond || late.has(sdk.EventSeen, envelope('m', "only")) != 1 {
			t.Errorf("synced after %v; saw %q", took, late.all())
		}
		a.close()
		time.Sleep(5 * time.Second)
		if b.has(sdk.EventGone, envelope('m', "a4")) != 1 {
			t.Errorf("a is not gone: %q", b.all())
		}
		// The dead lighthouse knew b as well, and can not keep it alive.
		b.close()
		time.Sleep(time.Second)
		if keeper.has(sdk.EventGone, envelope('m', "b")) != 1 {
			t.Errorf("b is not gone: %q", keeper.all())
		}
		for _, n := range []*node{only, keeper, late} {
			n.close()
		}
		m.dark()
	})
}

// While no lighthouse answers there is no view, and announcing says why.
func TestNoLighthouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		n := m.node(conf(one, two))
		began := time.Now()
		err := n.Announce(t.Context(), []sdk.Envelope{sdk.Envelope(envelope('m', "n"))})
		if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), one) || !strings.Contains(err.Error(), two) {
			t.Errorf("got %v, want unavailable and both lighthouses", err)
		}
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		n.watch(t)
		time.Sleep(time.Minute)
		if len(n.all()) != 0 {
			t.Errorf("saw %q", n.all())
		}
		m.light(two) // what was announced meanwhile is not lost
		time.Sleep(10 * time.Second)
		if n.has(sdk.EventSynced, "") != 1 || n.has(sdk.EventSeen, envelope('m', "n")) != 1 {
			t.Errorf("saw %q", n.all())
		}
		n.close()
		m.dark()
	})
}

// With a fifth of all datagrams lost each way the largest announcements of
// many nodes arrive.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.light(one)
		dice, mu := rand.New(rand.NewPCG(1, 2)), sync.Mutex{}
		m.net.Filter(func(_, _ netip.AddrPort, _ []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return dice.IntN(100) >= 20
		})
		var nodes []*node
		for i := range 5 {
			n := m.node(conf(one))
			var self []sdk.Envelope
			for p := range sdk.MaxEnvelopes {
				self = append(self, sdk.Envelope(envelope('m', fmt.Sprintf("%d %d %s", i, p, strings.Repeat("x", 1000)))))
			}
			if err := n.Announce(t.Context(), self); err != nil && sdk.CodeOf(err) != sdk.CodeUnavailable {
				t.Fatal(err) // it may take longer than the time-out
			}
			nodes = append(nodes, n.watch(t))
		}
		time.Sleep(time.Minute)
		for i, n := range nodes {
			seen := map[string]bool{}
			for _, e := range n.all() {
				seen[string(e.Envelope)] = true
				if e.Kind == sdk.EventGone {
					t.Errorf("node %d: somebody is gone", i)
				}
			}
			if len(seen)-1 != 5*sdk.MaxEnvelopes { // and the empty one of synced
				t.Errorf("node %d saw %d envelopes", i, len(seen)-1)
			}
		}
		for _, n := range nodes {
			n.close()
		}
		m.dark()
	})
}

// A behind is a socket behind something that changes its port.
type behind struct {
	*memnet.Socket
	port int
}

func (b behind) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(192, 168, 0, 2), Port: b.port} }

// The origin is where the lighthouse saw the node, and says if that port is
// not the node's own.
func TestOrigins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.light(one)
		direct := m.node(conf(one))
		natted := lighthousediscovery.Open(conf(one), [32]byte{99}, slog.New(slog.DiscardHandler),
			func(context.Context, string, int) (net.Conn, error) {
				return behind{m.net.Dial(netip.MustParseAddrPort("203.0.113.7:40123"), netip.MustParseAddrPort(one)), 51000}, nil
			})
		announce(t, direct, envelope('m', "direct"))
		direct.watch(t)
		if err := natted.Announce(t.Context(), []sdk.Envelope{sdk.Envelope(envelope('m', "natted"))}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		want := map[string]string{envelope('m', "direct"): "10.0.0.1:1001", envelope('m', "natted"): "203.0.113.7:40123 nat:51000"}
		for _, e := range direct.all() {
			if e.Origin != want[string(e.Envelope)] {
				t.Errorf("%q: got origin %q, want %q", e.Envelope, e.Origin, want[string(e.Envelope)])
			}
			delete(want, string(e.Envelope))
		}
		if len(want) != 0 {
			t.Errorf("not seen: %v", want)
		}
		natted.Close()
		direct.close()
		m.dark()
	})
}

// During a swap two processes of one node are there. The new one has the
// registration; the old one's goodbye takes nothing away; and if it is the new
// one that ends, the old one is there again.
func TestTwoProcessesOfOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		s := m.light(one)
		watcher := m.node(conf(one))
		announce(t, watcher, envelope('m', "w"))
		watcher.watch(t)
		for round := range 4 {
			before := m.node(conf(one))
			announce(t, before, envelope('m', "before"))
			m.next-- // the same key
			time.Sleep(time.Second)
			after := m.node(conf(one))
			after.dials.Store(100)
			announce(t, after, envelope('m', "after"))
			time.Sleep(10 * time.Second)
			first, second := before, after
			if round%2 == 1 {
				first, second = after, before
			}
			first.Close()
			time.Sleep(10 * time.Second)
			if got := s.Stats().Nodes; got != 2 {
				t.Errorf("round %d: %d nodes are registered, want the watcher and the other process", round, got)
			}
			second.Close()
			time.Sleep(time.Second)
			if got := s.Stats().Nodes; got != 1 {
				t.Errorf("round %d: %d nodes are registered, want the watcher", round, got)
			}
		}
		watcher.close()
		m.dark()
	})
}
