package peers_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

// full returns a table of 1 000 nodes, each with 20 cells.
func full(b *testing.B) (*peers.Table, []peers.Announcement) {
	tab := newTable()
	list := make([]peers.Announcement, 1000)
	for i := range list {
		list[i] = says(i+1, 1)
		for c := range 20 {
			list[i].Cells = append(list[i].Cells, peers.Cell{Name: sdk.CellName(fmt.Sprintf("c%d", (i+c)%200)), Replicas: 1, Listeners: 3})
		}
		if v := tab.See(mc, forged(i), list[i]); v != peers.VerdictNew {
			b.Fatal(v)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	return tab, list
}

func BenchmarkSeeBeat(b *testing.B) {
	tab, list := full(b)
	origin := forged(0)
	for i := range b.N {
		a := list[i%len(list)]
		a.Seq = uint64(i) + 2
		tab.See(mc, origin, a)
	}
}

func BenchmarkSeeReplay(b *testing.B) {
	tab, list := full(b)
	origin := forged(0)
	for i := range b.N {
		a := list[i%len(list)]
		a.Seq = 0
		tab.See(mc, origin, a)
	}
}

func BenchmarkForeign(b *testing.B) {
	tab, _ := full(b)
	origins := make([]string, 1024)
	for i := range origins {
		origins[i] = forged(i)
	}
	b.ResetTimer()
	for i := range b.N {
		tab.Foreign(mc, origins[i%len(origins)], [8]byte{byte(i), byte(i >> 8)})
	}
}

func BenchmarkLookup(b *testing.B) {
	tab, _ := full(b)
	for range b.N {
		if len(tab.Lookup("c7")) != 100 {
			b.Fatal("not all")
		}
	}
}

func BenchmarkAddrs(b *testing.B) {
	tab, _ := full(b)
	for range b.N {
		if len(tab.Addrs(id(1), "c7")) != 2 {
			b.Fatal("not all")
		}
	}
}

// All methods together, for the race detector.
func TestConcurrentUse(t *testing.T) {
	tab := newTable()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 500 {
				n := i%7 + 1
				a := says(n, uint64(i), "a")
				a.Goodbye = i%11 == 0
				if a.Goodbye {
					a.Cells = nil
				}
				tab.See(mc, forged(i*4+w), a)
				tab.Foreign(lh, forged(i), [8]byte{byte(w)})
				tab.Pin(id(n))
				for _, addr := range tab.Addrs(id(n), "a") {
					tab.Used(id(n), addr)
					tab.Failed(id(n), addr)
				}
				tab.Gone(mc, forged(i*4+w), id(n))
				tab.Unpin(id(n))
				tab.SourceDown(mc)
				tab.Deny([]sdk.NodeID{id(i % 9)})
				tab.SourceUp(mc)
				tab.Nodes()
				tab.Sources()
				tab.Counts()
				tab.Lookup("a")
			}
		})
	}
	wg.Wait()
	tab.Deny([]sdk.NodeID{id(1), id(2), id(3), id(4), id(5), id(6), id(7)})
	if list := tab.Lookup("a"); list != nil {
		t.Errorf("all are denied, %v serve", list)
	}
}
