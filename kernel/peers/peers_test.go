package peers_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
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
		time.Sleep(peers.MaxFresh - time.Nanosecond)
		wantServing(t, tab, "a", "[n1]")
		wantState(t, tab, 1, peers.StateVerified)
		time.Sleep(time.Nanosecond)
		wantServing(t, tab, "a", "[]")
		wantState(t, tab, 1, peers.StateStale)
		time.Sleep(peers.Keep - peers.MaxFresh - time.Nanosecond)
		wantState(t, tab, 1, peers.StateStale)
		time.Sleep(time.Nanosecond)
		wantState(t, tab, 1, "absent")
		see(t, tab, mc, home, says(1, 2, "a"), peers.VerdictOld)
		see(t, tab, mc, home, says(1, 3, "a"), peers.VerdictNew)
	})
}

// Each row is told to a table that knows boot 5, seq 10, of node 1, fresh.
func TestWhatIsNotNewer(t *testing.T) {
	base := says(1, 10, "a")
	base.Boot = boot(5, 1)
	with := func(edit func(*peers.Announcement)) peers.Announcement {
		a := base
		a.Cells = says(1, 0, "b").Cells
		edit(&a)
		return a
	}
	for name, row := range map[string]struct {
		after  time.Duration
		source string
		origin string
		a      peers.Announcement
		want   peers.Verdict
		serves string // who serves b then
	}{
		"later seq":            {0, mc, home, with(func(a *peers.Announcement) { a.Seq = 11 }), peers.VerdictRefreshed, "[n1]"},
		"same again":           {0, mc, home, with(func(*peers.Announcement) {}), peers.VerdictOld, "[]"},
		"same, other address":  {time.Second, mc, other, with(func(*peers.Announcement) {}), peers.VerdictAdded, "[]"},
		"same, other source":   {0, lh, home, with(func(*peers.Announcement) {}), peers.VerdictAdded, "[]"},
		"same, too late":       {time.Second + 1, mc, other, with(func(*peers.Announcement) {}), peers.VerdictOld, "[]"},
		"same, more parts":     {0, mc, home, with(func(a *peers.Announcement) { a.Part, a.Parts = 1, 2 }), peers.VerdictInvalid, "[]"},
		"earlier seq":          {0, mc, home, with(func(a *peers.Announcement) { a.Seq = 9 }), peers.VerdictOld, "[]"},
		"earlier part":         {0, mc, home, with(func(a *peers.Announcement) { a.Seq, a.Part, a.Parts = 9, 1, 2 }), peers.VerdictOld, "[]"},
		"earlier boot":         {time.Hour, mc, home, with(func(a *peers.Announcement) { a.Boot, a.Seq = boot(4, 9), 99 }), peers.VerdictReplayed, "[]"},
		"later boot":           {0, mc, home, with(func(a *peers.Announcement) { a.Boot, a.Seq = boot(6, 0), 1 }), peers.VerdictNew, "[n1]"},
		"rival of a fresh one": {peers.MaxFresh - 1, mc, home, with(func(a *peers.Announcement) { a.Boot = boot(5, 2) }), peers.VerdictReplayed, "[]"},
		"rival of a stale one": {peers.MaxFresh, mc, home, with(func(a *peers.Announcement) { a.Boot = boot(5, 2) }), peers.VerdictNew, "[n1]"},
		"same, node forgotten": {peers.Keep, mc, home, with(func(*peers.Announcement) {}), peers.VerdictOld, "[]"},
		"next, node forgotten": {peers.Keep, mc, home, with(func(a *peers.Announcement) { a.Seq = 11 }), peers.VerdictNew, "[n1]"},
		"replay after an hour": {peers.Keep + peers.Remember, mc, home, with(func(a *peers.Announcement) { a.Seq = 3 }), peers.VerdictNew, "[n1]"},
		"replay before":        {peers.Keep + peers.Remember - 1, mc, home, with(func(a *peers.Announcement) { a.Seq = 3 }), peers.VerdictOld, "[]"},
		"goodbye":              {0, mc, home, with(func(a *peers.Announcement) { a.Seq, a.Goodbye, a.Cells = 11, true, nil }), peers.VerdictLeft, "[]"},
		"goodbye, replayed":    {0, mc, home, with(func(a *peers.Announcement) { a.Goodbye, a.Cells = true, nil }), peers.VerdictOld, "[]"},
		"ourselves":            {0, mc, home, says(0, 1, "b"), peers.VerdictSelf, "[]"},
		"no address":           {0, mc, "localhost:1", says(2, 1, "b"), peers.VerdictInvalid, "[]"},
		"multicast address":    {0, mc, "239.255.0.1:9099", says(2, 1, "b"), peers.VerdictInvalid, "[]"},
		"any address":          {0, mc, "[::]:9099", says(2, 1, "b"), peers.VerdictInvalid, "[]"},
		"no such part":         {0, mc, home, with(func(a *peers.Announcement) { a.Seq, a.Part = 11, 1 }), peers.VerdictInvalid, "[]"},
		"no time to live":      {0, mc, home, with(func(a *peers.Announcement) { a.Seq, a.TTL = 11, 0 }), peers.VerdictInvalid, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tab := newTable()
				see(t, tab, mc, home, base, peers.VerdictNew)
				// Time passes as it does in a kernel: something looks at the
				// table when it expires.
				for left := row.after; left > 0; left -= time.Second {
					time.Sleep(min(left, time.Second))
					tab.Verified()
				}
				see(t, tab, row.source, row.origin, row.a, row.want)
				wantServing(t, tab, "b", row.serves)
				if got := tab.Counts().Verdicts[row.want]; got == 0 {
					t.Errorf("%s was not counted", row.want)
				}
			})
		})
	}
}

func TestPartsStandForThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		tell := func(seq uint64, part, parts uint8, cell sdk.CellName, want peers.Verdict) {
			t.Helper()
			a := says(1, seq, cell)
			a.Part, a.Parts = part, parts
			see(t, tab, mc, home, a, want)
		}
		tell(1, 1, 3, "b", peers.VerdictNew) // in any order
		tell(1, 0, 3, "a", peers.VerdictRefreshed)
		tell(1, 2, 3, "c", peers.VerdictRefreshed)
		for seq := uint64(2); seq <= 4; seq++ { // parts 0 and 2 arrive, part 1 is lost for 9 s
			time.Sleep(beat)
			tell(seq, 0, 3, "a", peers.VerdictRefreshed)
			tell(seq, 2, 3, "c", peers.VerdictRefreshed)
			wantServing(t, tab, "b", "[n1]")
		}
		time.Sleep(time.Second)
		wantServing(t, tab, "b", "[]")
		wantServing(t, tab, "a", "[n1]")
		tell(4, 1, 3, "b", peers.VerdictRefreshed)
		wantServing(t, tab, "b", "[n1]")

		time.Sleep(beat)
		tell(5, 0, 2, "a", peers.VerdictRefreshed) // of two parts now
		wantServing(t, tab, "c", "[]")
		tell(5, 1, 2, "d", peers.VerdictRefreshed)
		wantServing(t, tab, "b", "[]")
		wantServing(t, tab, "d", "[n1]")
	})
}

func TestGoodbyeAndDenyEndALiveLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		for i := 1; i <= 3; i++ {
			see(t, tab, mc, home, says(i, 1, "a"), peers.VerdictNew)
			tab.Pin(id(i))
		}
		tab.Pin(id(3))
		time.Sleep(time.Hour)
		wantServing(t, tab, "a", "[n1 n2 n3]")
		wantState(t, tab, 1, peers.StateStale)

		bye := says(1, 2)
		bye.Goodbye = true
		see(t, tab, mc, home, bye, peers.VerdictLeft)
		wantServing(t, tab, "a", "[n2 n3]")
		wantState(t, tab, 1, peers.StateGone)
		if tab.Addrs(id(1), "a") != nil {
			t.Error("a node that left has addresses")
		}

		tab.Deny([]sdk.NodeID{id(2)})
		wantServing(t, tab, "a", "[n3]")
		wantState(t, tab, 2, "absent")
		see(t, tab, mc, home, says(2, 2, "a"), peers.VerdictDenied)
		tab.Deny([]sdk.NodeID{id(2), id(9)})
		if out := tab.Denied(); len(out) != 2 || out[id(2)] != "n2" || out[id(9)] != "" {
			t.Errorf("who is denied: got %q", out)
		}
		tab.Deny(nil)
		see(t, tab, mc, home, says(2, 1, "a"), peers.VerdictOld) // the replay of one that was denied
		see(t, tab, mc, home, says(2, 2, "a"), peers.VerdictNew)

		tab.Unpin(id(3))
		wantServing(t, tab, "a", "[n2 n3]")
		tab.Unpin(id(3))
		wantServing(t, tab, "a", "[n2]")

		see(t, tab, mc, home, says(1, 3, "a"), peers.VerdictRefreshed) // it changed its mind
		wantServing(t, tab, "a", "[n1 n2]")
	})
}

func TestAnOutageOfDiscoveryIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		tab.SourceUp(mc)
		tab.SourceUp(lh)
		see(t, tab, mc, home, says(1, 1, "a"), peers.VerdictNew)
		see(t, tab, mc, home, says(2, 1, "a"), peers.VerdictNew)
		see(t, tab, lh, home, says(2, 1, "a"), peers.VerdictAdded)
		see(t, tab, mc, home, says(3, 1, "a"), peers.VerdictNew)
		time.Sleep(beat)
		tab.SourceDown(mc)
		wantState(t, tab, 1, peers.StateStale)
		wantState(t, tab, 2, peers.StateVerified)
		time.Sleep(time.Hour)
		wantServing(t, tab, "a", "[n1 n3]") // node 2 is silent by the lighthouse, which works
		wantState(t, tab, 1, peers.StateStale)

		tab.SourceUp(mc)
		wantState(t, tab, 1, peers.StateVerified)
		time.Sleep(peers.MaxFresh - time.Nanosecond)
		see(t, tab, mc, home, says(3, 999, "a"), peers.VerdictRefreshed)
		time.Sleep(time.Nanosecond)
		wantServing(t, tab, "a", "[n3]")

		tab.SourceDown(mc)
		time.Sleep(time.Hour)
		wantServing(t, tab, "a", "[n3]") // what was silent before the outage does not come back
		tab.SourceRemoved(mc)
		time.Sleep(peers.MaxFresh)
		wantServing(t, tab, "a", "[]")
	})
}

// A discovery that was exchanged is named no more, though where it saw a node
// is dialled until its news is old.
func TestExchangedSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		want := func(sources, addrs string) {
			t.Helper()
			row := tab.Nodes()[0]
			var by []string
			for _, o := range row.Origins {
				by = append(by, o.Source)
			}
			if got := strings.Join(by, " "); got != sources || fmt.Sprint(row.Addrs) != addrs {
				t.Errorf("seen by %q at %v, want %q at %s", got, row.Addrs, sources, addrs)
			}
		}
		const dialled = "[quic://10.0.0.7:9000 tcp://10.0.0.7:9001]"
		see(t, tab, mc, home, says(1, 1, "a"), peers.VerdictNew)
		want(mc, dialled)
		tab.SourceUp(lh)
		tab.SourceRemoved(mc)
		want("", dialled)
		wantServing(t, tab, "a", "[n1]")
		see(t, tab, lh, home, says(1, 2, "a"), peers.VerdictRefreshed)
		want(lh, dialled)
		time.Sleep(peers.MaxFresh)
		want(lh, "[]") // it is not heard any more
		wantServing(t, tab, "a", "[]")
	})
}

func TestLeasesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		see(t, tab, lh, home, says(1, 1, "a"), peers.VerdictNew)
		see(t, tab, mc, home, says(1, 1, "a"), peers.VerdictAdded)
		see(t, tab, lh, "10.0.0.7:1", says(2, 1, "a"), peers.VerdictNew)
		see(t, tab, lh, "10.0.0.7:2", says(3, 1, "a"), peers.VerdictNew)
		tab.Gone(lh, home, id(1))
		wantServing(t, tab, "a", "[n1 n2 n3]") // multicast still sees node 1
		tab.Gone(mc, home, id(1))
		wantServing(t, tab, "a", "[n2 n3]")
		wantState(t, tab, 1, peers.StateGone)
		tab.Gone(lh, "10.0.0.7:2", "") // of whom, is not known
		wantServing(t, tab, "a", "[n2]")
		tab.Pin(id(2))
		tab.Gone(lh, "10.0.0.7:1", id(2))
		wantServing(t, tab, "a", "[n2]")
		if len(tab.Addrs(id(2), "a")) == 0 {
			t.Error("a node with a live link has lost its addresses")
		}
		tab.Unpin(id(2))
		wantServing(t, tab, "a", "[]")
		see(t, tab, lh, home, says(1, 2, "a"), peers.VerdictRefreshed)
		wantServing(t, tab, "a", "[n1]")
	})
}

func TestIncompatibleAndUndialable(t *testing.T) {
	tab := newTable()
	a := says(1, 1, "a")
	a.Wire = 2
	see(t, tab, mc, home, a, peers.VerdictNew)
	wantState(t, tab, 1, peers.StateIncompatible)
	tab.Pin(id(1))
	b := says(2, 1, "a", "b")
	b.Listeners = []peers.Listener{{Scheme: "pigeon", Port: 1}, {Scheme: "tcp", Port: 2}}
	b.Cells[0].Listeners, b.Cells[1].Listeners = 1, 2
	see(t, tab, mc, home, b, peers.VerdictNew)
	wantState(t, tab, 2, peers.StateVerified)
	wantServing(t, tab, "a", "[]")
	wantServing(t, tab, "b", "[n2]")
	if v := tab.Verified(); v != 1 {
		t.Errorf("%d are verified, want 1", v)
	}
	a.Wire, a.Seq = 1, 2
	see(t, tab, mc, home, a, peers.VerdictRefreshed)
	wantServing(t, tab, "a", "[n1]")
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		var mu sync.Mutex // of got
		var got []string
		began := time.Now()
		go tab.Watch(t.Context(), func(cells []sdk.CellName) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprint(time.Since(began), cells, serving(tab, "a")))
		}, nobodyMoves(t))
		want := func(list ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, list) {
				t.Fatalf("changes %q, want %q", got, list)
			}
			got = nil
		}
		want()
		see(t, tab, mc, home, says(1, 1, "a", "b"), peers.VerdictNew)
		want("0s [a b][n1]")
		time.Sleep(beat)
		see(t, tab, mc, home, says(1, 2, "a", "b"), peers.VerdictRefreshed)
		want() // nothing has changed
		a := says(1, 3, "a", "b")
		a.Cells[1].Replicas = 7
		see(t, tab, mc, home, a, peers.VerdictRefreshed)
		want("3s [b][n1]")
		time.Sleep(time.Minute)
		want("13s [a b][]")
		see(t, tab, mc, home, says(1, 4, "a"), peers.VerdictNew)
		want("1m3s [a][n1]")
	})
}

func nobodyMoves(t *testing.T) func(sdk.NodeID, []sdk.Addr) {
	return func(id sdk.NodeID, addrs []sdk.Addr) { t.Errorf("node %s has moved to %v", id, addrs) }
}

func TestWatchNamesNotTooManyCells(t *testing.T) {
	tab := newTable()
	for i := 1; i <= 3; i++ {
		a := says(i, 1)
		for j := range peers.MaxNodeCells {
			a.Cells = append(a.Cells, peers.Cell{Name: sdk.CellName(fmt.Sprintf("c%d-%d", i, j)), Replicas: 1, Listeners: 1})
		}
		see(t, tab, mc, home, a, peers.VerdictNew)
	}
	var got [][]sdk.CellName
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 { // the second ends at once
		tab.Watch(ctx, func(cells []sdk.CellName) {
			if got = append(got, cells); len(got) == 1 {
				tab.See(mc, home, says(4, 1, "a")) // it may call the table
				return
			}
			cancel()
		}, nobodyMoves(t))
	}
	if len(got) != 2 || got[0] != nil || !slices.Equal(got[1], []sdk.CellName{"a"}) {
		t.Errorf("changes %v, want all, then a", got)
	}
}

func TestSourcesAndRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		tab.SourceUp(mc)
		time.Sleep(time.Second)
		tab.SourceSynced(mc)
		tab.SourceDown(lh)
		a := says(1, 4, "b", "a")
		a.Donor = true
		see(t, tab, mc, home, a, peers.VerdictNew)
		see(t, tab, mc, "[fe80::1%eth0]:9099", a, peers.VerdictAdded)
		tab.Foreign(mc, other, [8]byte{1})
		tab.Pin(id(1))
		time.Sleep(2 * time.Second)
		want := "[{lighthouse false false 2s -1ns 0} {multicast true true 3s 2s 1}]"
		if got := fmt.Sprint(tab.Sources()); got != want {
			t.Errorf("sources %s, want %s", got, want)
		}
		rows := tab.Nodes()
		if len(rows) != 2 {
			t.Fatalf("%d rows, want 2", len(rows))
		}
		want = fmt.Sprint("{", id(1), " [0 0 0 0 0 0 0 0] n1 verified true true 1 ", boot(1, 0), " 4 1 2s 8s 0 [{a 1 3} {b 1 3}] ",
			"[{multicast 10.0.0.7:9099 2s 0} {multicast [fe80::1%eth0]:9099 2s 0}] ",
			"[quic://10.0.0.7:9000 quic://[fe80::1%eth0]:9000 tcp://10.0.0.7:9001 tcp://[fe80::1%eth0]:9001]}")
		if got := fmt.Sprint(rows[0]); got != want {
			t.Errorf("row\n%s, want\n%s", got, want)
		}
		if r := rows[1]; r.State != peers.StateForeign || r.Tag != [8]byte{1} || r.Origins[0].Addr.String() != other || r.Routable {
			t.Errorf("foreign row %+v", r)
		}
		for i := range 20 {
			tab.SourceUp(fmt.Sprint(i))
		}
		if n := len(tab.Sources()); n != peers.MaxSources {
			t.Errorf("%d sources, want %d", n, peers.MaxSources)
		}
		see(t, tab, "one more", home, says(2, 1, "a"), peers.VerdictInvalid)
	})
}
