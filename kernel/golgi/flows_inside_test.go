package golgi

import (
	"fmt"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// What is answered is counted, whoever asked.
func TestFlowsThatAreTooManyAreCountedTogether(t *testing.T) {
	const more = 10
	g := New(Options{})
	defer g.Close()
	to := &seat{id: Replica{Cell: "store"}}
	g.mu.Lock()
	for i := range maxPairs + more {
		to.served++
		g.drop(&link{id: uint64(i), from: sdk.CellName(fmt.Sprintf("caller-%d", i)), to: to, stats: channel.LinkStats{Calls: 2, BytesIn: 3}})
	}
	g.mu.Unlock()
	flows, calls, others := g.Flows(), uint64(0), Flow{}
	for _, f := range flows {
		if calls += f.Stats.Calls; f.From == OtherCells {
			others = f
		}
	}
	if len(flows) != maxPairs+1 || calls != 2*(maxPairs+more) {
		t.Errorf("got %d flows with %d calls, want %d with %d", len(flows), calls, maxPairs+1, 2*(maxPairs+more))
	}
	if others.To != OtherCells || others.Stats.Calls != 2*more || others.Stats.BytesIn != 3*more {
		t.Errorf("the others are %+v", others)
	}
}
