package jsonledger_test

import (
	"math/rand/v2"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk"
)

// However many segments a book gets, the ids of few are in memory, also when old
// records come again; and these are found.
func TestIdsOfFewSegmentsAreInMemory(t *testing.T) {
	w := &writer{r: rand.New(rand.NewPCG(1, 1))}
	l := jsonledger.NewOn(small(), newDisk())
	if _, err := l.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	few := func() int {
		t.Helper()
		loaded, of := l.Loaded()
		if loaded > jsonledger.MaxLoaded {
			t.Fatalf("the ids of %d segments of %d are in memory, want %d at most", loaded, of, jsonledger.MaxLoaded)
		}
		return of
	}
	for few() < 4*jsonledger.MaxLoaded {
		if err := w.append(t, l); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range w.r.Perm(w.acked)[:100] {
		again := []sdk.Record{w.submitted[i]}
		if head, err := l.Append(t.Context(), sdk.Head{}, again); err != nil || head != w.head {
			t.Fatalf("record %d of %d again: %v, %v", i+1, w.acked, head, err)
		}
		few()
		if err := w.append(t, l); err != nil { // also while those of the last were forgotten
			t.Fatal(err)
		}
	}
	few()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
