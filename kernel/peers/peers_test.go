package peers_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	beat  = 3 * time.Second
	mc    = "multicast"
	lh    = "lighthouse"
	home  = "10.0.0.7:9099"
	other = "10.0.0.8:9099"
)

// id makes the id of the i-th node.
func id(i int) sdk.NodeID {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], uint64(i))
	return sdk.FormatNodeID(key[:])
}

// boot makes the boot of a counter and a random rest.
func boot(counter uint64, rest byte) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], counter)
	b[15] = rest
	return b
}

// says makes an announcement of one part, of a node that listens with quic on
// port 9000, its first listener, and with tcp on 9001.
func says(node int, seq uint64, cells ...sdk.CellName) peers.Announcement {
	a := peers.Announcement{
		Node: id(node), Boot: boot(1, 0), Seq: seq, TTL: 10 * time.Second, Wire: 1, Parts: 1, Name: sdk.CellName(fmt.Sprintf("n%d", node)),
		Listeners: []peers.Listener{{Scheme: "quic", Port: 9000, Hint: []byte("hash")}, {Scheme: "tcp", Port: 9001}},
	}
	for _, c := range cells {
		a.Cells = append(a.Cells, peers.Cell{Name: c, Replicas: 1, Listeners: 3})
	}
	return a
}

func newTable() *peers.Table {
	return peers.New(peers.Options{Self: id(0), Wire: 1, Transports: []string{"quic", "tcp"}})
}

func see(t *testing.T, tab *peers.Table, source, origin string, a peers.Announcement, want peers.Verdict) {
	t.Helper()
	if got := tab.See(source, origin, a); got != want {
		t.Fatalf("seq %d of %s from %s by %s: %s, want %s", a.Seq, a.Name, origin, source, got, want)
	}
}

// serving returns the names of the nodes that serve a cell.
func serving(tab *peers.Table, cell sdk.CellName) string {
	var names []sdk.CellName
	for _, e := range tab.Lookup(cell) {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

func wantServing(t *testing.T, tab *peers.Table, cell sdk.CellName, want string) {
	t.Helper()
	if got := serving(tab, cell); got != want {
		t.Fatalf("%s is served by %s, want %s", cell, got, want)
	}
}

func state(tab *peers.Table, node int) peers.State {
	for _, r := range tab.Nodes() {
		if r.Node == id(node) {
			return r.State
		}
	}
	return "absent"
}

func wantState(t *testing.T, tab *peers.Table, node int, want peers.State) {
	t.Helper()
	if got := state(tab, node); got != want {
		t.Fatalf("node %d is %s, want %s", node, got, want)
	}
}

func TestSilenceTakesANodeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		see(t, tab, mc, home, says(1, 1, "a"), peers.VerdictNew)
		time.Sleep(beat)
		see(t, tab, mc, home, says(1, 2, "a"), peers.VerdictRefreshed)
		time.Sleep(peers.MaxFresh - 1)
		wantServing(t, tab, "a", "[n1]")
		wantState(t, tab, 1, peers.StateVerified)
		time.Sleep(1)
		wantServing(t, tab, "a", "[]")
		wantState(t, tab, 1, peers.StateStale)
		time.Sleep(peers.Keep - peers.MaxFresh - 1)
		wantState(t, tab, 1, peers.StateStale)
		time.Sleep(1)
		wantState(t, tab, 1, "absent")
		see(t, tab, mc, home, says(1, 2, "a"), peers.VerdictOld)
		see(t, tab, mc, home, says(1, 3, "a"), peers.VerdictNew)
	})
}
