package peers_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

func wantAddrs(t *testing.T, tab *peers.Table, want string) {
	t.Helper()
	var list []string
	for _, a := range tab.Addrs(id(1), "a") {
		list = append(list, a.String())
	}
	if got := strings.Join(list, " "); got != want {
		t.Fatalf("addresses\n%s, want\n%s", got, want)
	}
}

func TestAddressesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		seq := uint64(0)
		tell := func(origins ...string) {
			seq++
			for _, o := range origins {
				tab.See(mc, o, says(1, seq, "a", "b"))
			}
			time.Sleep(beat)
		}
		tell("10.0.0.7:9099", "[fe80::1%eth0]:9099")
		wantAddrs(t, tab, "quic://10.0.0.7:9000 quic://[fe80::1%eth0]:9000 tcp://10.0.0.7:9001 tcp://[fe80::1%eth0]:9001")
		if a := tab.Addrs(id(1), "a"); string(a[0].Hint) != "hash" || a[2].Hint != nil {
			t.Errorf("hints %q and %q", a[0].Hint, a[2].Hint)
		}
		six := sdk.Addr{Scheme: "quic", Host: "[fe80::1%eth0]:9000"}
		tab.Used(id(1), six)
		wantAddrs(t, tab, "quic://[fe80::1%eth0]:9000 quic://10.0.0.7:9000 tcp://10.0.0.7:9001 tcp://[fe80::1%eth0]:9001")
		tab.Failed(id(1), six)
		wantAddrs(t, tab, "quic://10.0.0.7:9000 tcp://10.0.0.7:9001 tcp://[fe80::1%eth0]:9001 quic://[fe80::1%eth0]:9000")
		tell("10.0.0.9:9099", "10.0.0.7:9099") // its address changes; the old one is replayed
		wantAddrs(t, tab, "quic://10.0.0.9:9000 quic://10.0.0.7:9000 tcp://10.0.0.9:9001 tcp://10.0.0.7:9001 tcp://[fe80::1%eth0]:9001 quic://[fe80::1%eth0]:9000")
		for range int(peers.Retry / beat) {
			tell("10.0.0.9:9099")
		}
		wantAddrs(t, tab, "quic://10.0.0.9:9000 quic://10.0.0.7:9000 quic://[fe80::1%eth0]:9000 tcp://10.0.0.9:9001 tcp://10.0.0.7:9001 tcp://[fe80::1%eth0]:9001")
		for range int(peers.Keep / beat) {
			tell("10.0.0.9:9099")
		}
		wantAddrs(t, tab, "quic://10.0.0.9:9000 tcp://10.0.0.9:9001")
		if tab.Addrs(id(1), "absent") != nil || tab.Addrs(id(2), "a") != nil {
			t.Error("what nobody serves has addresses")
		}
		// Neither of a node nor of an address that is not known.
		tab.Used(id(2), six)
		tab.Failed(id(1), sdk.Addr{Scheme: "quic", Host: "192.0.2.1:1"})
		wantAddrs(t, tab, "quic://10.0.0.9:9000 tcp://10.0.0.9:9001")
	})
}

func TestLiveAddressesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		origin := func(i int) string { return fmt.Sprintf("10.0.1.%d:9099", i) }
		has := func(ip string) bool {
			for _, a := range tab.Addrs(id(1), "a") {
				if strings.Contains(a.Host, ip) {
					return true
				}
			}
			return false
		}
		for i := range 8 {
			tab.See(mc, origin(i), says(1, 1, "a"))
		}
		// Someone replays each beat from very many addresses.
		for i := 8; i < 200; i++ {
			see(t, tab, mc, origin(i), says(1, 1, "a"), peers.VerdictOld)
		}
		time.Sleep(beat)
		see(t, tab, mc, origin(200), says(1, 2, "a"), peers.VerdictRefreshed)
		if has("10.0.1.200:") || !has("10.0.1.0:") || len(tab.Addrs(id(1), "a")) != 2*peers.MaxOrigins {
			t.Error("a live address made room")
		}
		time.Sleep(beat)
		for i := range 7 { // number 7 falls silent
			tab.See(mc, origin(i), says(1, 3, "a"))
		}
		time.Sleep(2 * beat)
		see(t, tab, mc, origin(201), says(1, 4, "a"), peers.VerdictRefreshed)
		if !has("10.0.1.201:") || has("10.0.1.7:") || !has("10.0.1.0:") {
			t.Error("a silent address did not make room")
		}
	})
}

// A node behind a NAT that rewrites ports is dialled where it was seen, at the
// port that it announces, and its row says what the NAT did.
func TestRewrittenPorts(t *testing.T) {
	tab := newTable()
	const behind = "203.0.113.7:40123 nat:51000"
	see(t, tab, lh, behind, says(1, 1, "a"), peers.VerdictNew)
	if list := tab.Addrs(id(1), "a"); len(list) != 2 || list[0].Host != "203.0.113.7:9000" {
		t.Errorf("addresses: got %v", list)
	}
	o := tab.Nodes()[0].Origins[0]
	if o.Addr.String() != "203.0.113.7:40123" || o.Port != 51000 {
		t.Errorf("origin: got %v before port %d", o.Addr, o.Port)
	}
	for i, origin := range []string{"203.0.113.7:40123 nat:", "203.0.113.7:40123 nat:70000", "203.0.113.7:40123 for people"} {
		see(t, tab, lh, origin, says(1, uint64(2+i), "a"), peers.VerdictRefreshed)
		if o := tab.Nodes()[0].Origins[0]; o.Port != 0 {
			t.Errorf("%q: port %d", origin, o.Port)
		}
	}
	tab.Gone(lh, behind, id(1))
	if s := tab.Nodes()[0].State; s != peers.StateGone {
		t.Errorf("after it is gone from there: %s", s)
	}
}

// Every node has a cell golgi, also one that serves nothing.
func TestTheKernelOfANodeIsAtAllListeners(t *testing.T) {
	tab := newTable()
	see(t, tab, mc, home, says(1, 1), peers.VerdictNew)
	if list := tab.Addrs(id(1), sdk.GolgiName); len(list) != 2 || list[0].String() != "quic://10.0.0.7:9000" {
		t.Errorf("got %v", list)
	}
	bye := says(1, 2)
	bye.Goodbye = true
	see(t, tab, mc, home, bye, peers.VerdictLeft)
	if list := tab.Addrs(id(1), sdk.GolgiName); list != nil {
		t.Errorf("after a goodbye: got %v", list)
	}
}

// A node with live links that is seen at a further address is named, once,
// with that address alone: not one without links, not for an echo of its beat,
// which anybody can replay, and not for an address that is known.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		var got []string
		go tab.Watch(t.Context(), func([]sdk.CellName) {}, func(node sdk.NodeID, addrs []sdk.Addr) {
			got = append(got, fmt.Sprint(node == id(1), addrs))
		})
		seq := uint64(0)
		want := func(list string, origins ...string) {
			t.Helper()
			seq++
			for _, o := range origins {
				tab.See(mc, o, says(1, seq, "a"))
			}
			synctest.Wait()
			if fmt.Sprint(got) != list {
				t.Fatalf("seen at %v: moves %v, want %s", origins, got, list)
			}
			got = nil
			time.Sleep(beat)
		}
		want("[]", "10.0.0.7:9099")
		want("[]", "10.0.0.8:9099")
		tab.Pin(id(1))
		want("[]", "10.0.0.8:9099", "10.0.0.66:9099")
		want("[true [quic://10.0.0.9:9000 tcp://10.0.0.9:9001]]", "10.0.0.9:9099", "10.0.0.67:9099")
		want("[]", "10.0.0.7:9099")
	})
}
