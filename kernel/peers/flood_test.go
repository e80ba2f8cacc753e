package peers_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

// origins makes addresses that are all different.
func forged(i int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(i)|1).String()
}

func TestAMillionForgedSightings(t *testing.T) {
	tab := newTable()
	for i := 1; i <= 100; i++ {
		see(t, tab, mc, fmt.Sprintf("10.0.0.%d:9099", i), says(i, 1, "a"), peers.VerdictNew)
	}
	before := tab.Lookup("a")
	var m0, m1 runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m0)
	for i := range 1_000_000 {
		var tag [8]byte
		binary.BigEndian.PutUint64(tag[:], uint64(i))
		tab.Foreign(mc, forged(i), tag)
		if i%50_000 == 0 { // beats go on
			for n := 1; n <= 100; n++ {
				see(t, tab, mc, fmt.Sprintf("10.0.0.%d:9099", n), says(n, uint64(i)+2, "a"), peers.VerdictRefreshed)
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&m1)
	if grown := int64(m1.HeapAlloc) - int64(m0.HeapAlloc); grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if n := len(tab.Nodes()); n != 100+peers.MaxForeign {
		t.Errorf("%d rows, want %d", n, 100+peers.MaxForeign)
	}
	if after := tab.Lookup("a"); !reflect.DeepEqual(after, before) {
		t.Errorf("%d nodes serve a, want the %d of before", len(after), len(before))
	}
	if c := tab.Counts(); c.Foreign != 1_000_000 {
		t.Errorf("%d were counted", c.Foreign)
	}
}

func TestOneAddressHasFewForeignRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		tab.Foreign(mc, other, [8]byte{99})
		for i := range 100 {
			tab.Foreign(mc, home, [8]byte{byte(i)})
			time.Sleep(time.Millisecond)
		}
		tab.Foreign(mc, home, [8]byte{99}) // again: no further row
		tab.Foreign(mc, "nowhere", [8]byte{1})
		if n := len(tab.Nodes()); n != 1+peers.MaxForeignPerIP {
			t.Errorf("%d rows, want %d", n, 1+peers.MaxForeignPerIP)
		}
		time.Sleep(peers.Keep)
		if n := len(tab.Nodes()); n != 0 {
			t.Errorf("%d rows after a minute of silence", n)
		}
	})
}

func TestReplaysChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		var heard []peers.Announcement
		for counter := uint64(1); counter <= 3; counter++ {
			for seq := uint64(1); seq <= 20; seq++ {
				for n := 1; n <= 10; n++ {
					a := says(n, seq, "a", sdk.CellName(fmt.Sprintf("old%d", seq)))
					a.Boot = boot(counter, byte(counter))
					heard = append(heard, a)
					tab.See(mc, home, a)
				}
			}
		}
		time.Sleep(2 * time.Second) // no address may be added any more
		state := func() []any {
			all := []any{tab.Lookup("a"), tab.Nodes()[0].Origins}
			for seq := 1; seq <= 20; seq++ {
				all = append(all, tab.Lookup(sdk.CellName(fmt.Sprintf("old%d", seq))))
			}
			return append(all, tab.Addrs(id(1), "a"))
		}
		before := state()
		for i := range 100_000 {
			if v := tab.See(mc, forged(i), heard[i%len(heard)]); v.Taken() {
				t.Fatalf("replay %d: %s", i, v)
			}
		}
		if after := state(); !reflect.DeepEqual(after, before) {
			t.Errorf("replays have made\n%v of\n%v", after, before)
		}
		time.Sleep(peers.Keep)
		for i := range 100_000 {
			if v := tab.See(mc, forged(i), heard[i%len(heard)]); v.Taken() {
				t.Fatalf("replay %d after the nodes were forgotten: %s", i, v)
			}
		}
		if n := len(tab.Nodes()); n != 0 {
			t.Errorf("replays have brought back %d nodes", n)
		}
	})
}

func TestTheTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		for i := 1; i <= peers.MaxPerIP; i++ {
			see(t, tab, mc, home, says(i, 1, "a"), peers.VerdictNew)
		}
		see(t, tab, mc, home, says(9999, 1, "a"), peers.VerdictFull)
		see(t, tab, mc, other, says(9999, 1, "a"), peers.VerdictNew)
		see(t, tab, mc, home, says(9999, 2, "a"), peers.VerdictRefreshed) // it is known
		for i := peers.MaxPerIP + 1; i < peers.MaxNodes; i++ {
			see(t, tab, mc, forged(i), says(i, 1, "a"), peers.VerdictNew)
		}
		see(t, tab, mc, other, says(10_000, 1, "a"), peers.VerdictFull)
		see(t, tab, mc, home, says(1, 2, "a"), peers.VerdictRefreshed)
		if n := len(tab.Lookup("a")); n != peers.MaxNodes {
			t.Errorf("%d nodes, want %d", n, peers.MaxNodes)
		}
		time.Sleep(peers.Keep)
		if n := len(tab.Nodes()); n != 0 {
			t.Errorf("%d nodes after a minute of silence", n)
		}
		see(t, tab, mc, home, says(9999, 3, "a"), peers.VerdictNew) // and no cap has leaked
		for i := 1; i < peers.MaxPerIP; i++ {
			see(t, tab, mc, home, says(i, 3, "a"), peers.VerdictNew)
		}
		see(t, tab, mc, home, says(peers.MaxPerIP, 3, "a"), peers.VerdictFull)
	})
}

func TestCellsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable()
		cells := says(0, 0).Cells
		for i := range peers.MaxNodeCells {
			cells = append(cells, peers.Cell{Name: sdk.CellName(fmt.Sprintf("c%d", i)), Listeners: 1})
		}
		tell := func(node int, seq uint64, part uint8, cells []peers.Cell, want peers.Verdict) {
			t.Helper()
			a := says(node, seq)
			a.Part, a.Parts, a.Cells = part, 2, cells
			see(t, tab, mc, forged(node), a, want)
		}
		half := peers.MaxNodeCells / 2
		tell(1, 1, 0, cells[:half], peers.VerdictNew)
		tell(1, 1, 1, cells[:half+1], peers.VerdictInvalid)
		tell(1, 1, 1, cells[half:], peers.VerdictRefreshed)
		for i := 2; i <= peers.MaxCells/peers.MaxNodeCells; i++ {
			tell(i, 1, 0, cells, peers.VerdictNew)
		}
		tell(500, 1, 0, cells[:1], peers.VerdictFull)
		tell(1, 2, 0, cells[:half], peers.VerdictRefreshed) // as many as before
		tell(2, 2, 0, cells[1:], peers.VerdictRefreshed)    // one less
		tell(500, 1, 0, cells[:1], peers.VerdictNew)
		tell(3, 2, 1, cells[:1], peers.VerdictInvalid)
		time.Sleep(peers.Keep)
		if n := len(tab.Nodes()); n != 0 {
			t.Fatalf("%d nodes are left", n)
		}
		for i := 1; i <= peers.MaxCells/peers.MaxNodeCells; i++ {
			tell(i, 3, 0, cells, peers.VerdictNew) // and none has leaked
		}
	})
}

func TestRefusingAllocatesNothing(t *testing.T) {
	tab := newTable()
	a := says(1, 5, "a")
	see(t, tab, mc, home, a, peers.VerdictNew)
	old, replay, self := says(1, 4, "a"), says(1, 9, "a"), says(0, 1)
	replay.Boot = boot(0, 1)
	for i := range peers.MaxForeign {
		tab.Foreign(mc, forged(i), [8]byte{})
	}
	if n := testing.AllocsPerRun(1000, func() {
		tab.See(mc, home, a)
		tab.See(mc, home, old)
		tab.See(mc, home, replay)
		tab.See(mc, home, self)
		tab.Foreign(mc, other, [8]byte{1})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
