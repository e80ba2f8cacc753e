package peers_test

import (
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestAnotherMeshBeginsEmpty(t *testing.T) {
	self, other := sdk.FormatNodeID(make([]byte, 32)), sdk.FormatNodeID([]byte("the key of a node that was seen."))
	table := peers.New(peers.Options{Self: self, Wire: 1, Transports: []string{"quic"}})
	table.SourceUp("mem")
	generation := table.Generation()
	say := func(seq uint64) peers.Verdict {
		return table.See("mem", "192.0.2.1:9099", peers.Announcement{
			Node: other, Seq: seq, Generation: generation, TTL: time.Minute, Wire: 1, Parts: 1, Name: "other",
			Listeners: []peers.Listener{{Scheme: "quic", Port: 9000}}, Cells: []peers.Cell{{Name: "w", Replicas: 1, Listeners: 1}},
		})
	}
	if v := say(1); v != peers.VerdictNew || len(table.Lookup("w")) != 1 {
		t.Fatalf("announcement: %s, %v", v, table.Lookup("w"))
	}
	table.Pin(other) // a live link does not hold it
	table.Clear()
	if rows, ends := table.Nodes(), table.Lookup("w"); len(rows) != 0 || len(ends) != 0 {
		t.Errorf("after another mesh: %v, %v", rows, ends)
	}
	// What was opened as of the mesh before, and comes late, is of no mesh.
	if v := say(2); v != peers.VerdictOld || len(table.Nodes()) != 0 {
		t.Errorf("an announcement of the mesh before: %s, %v", v, table.Nodes())
	}
	generation = table.Generation()
	if v := say(1); v == peers.VerdictNew {
		t.Error("what it has said before counts again")
	}
	if v := say(2); v != peers.VerdictNew || len(table.Lookup("w")) != 1 {
		t.Errorf("it is of the new mesh, too: %s, %v", v, table.Lookup("w"))
	}
}
