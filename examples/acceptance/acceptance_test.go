package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/examples/acceptance/lab"
	"github.com/cellkernel/cellkernel/examples/acceptance/probe"
)

func TestEveryRowHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups() {
		for _, r := range g.rows {
			if r.ID == "" || r.What == "" || r.Bound == "" || seen[r.ID] {
				t.Errorf("%s: row %+v: want a name of its own, a sentence and a bound", g.name, r)
			}
			seen[r.ID] = true
		}
		if g.within <= 0 || g.try == nil {
			t.Errorf("%s: no bound in time or nothing to try", g.name)
		}
	}
}

func TestOnly(t *testing.T) {
	for _, id := range []string{"bench", "bench-64", "crash-left"} {
		if !known(id) {
			t.Errorf("%q is not known", id)
		}
	}
	if _, err := parse([]string{"-only", "bench,nothing"}); err == nil {
		t.Error("an unknown row is no error")
	}
	var b strings.Builder
	list(&b)
	if !strings.Contains(b.String(), "mesh-p99") {
		t.Errorf("list: %s", b.String())
	}
}

func TestWhatWasNotMeasuredDoesNotHold(t *testing.T) {
	g := group{name: "g", within: 1 << 40, rows: []row{{ID: "a"}, {ID: "b"}, {ID: "c"}}}
	g.try = func(_ context.Context, _ *lab.Lab, f findings) error {
		f.add("a", true, "%d", 1)
		f.add("b", false, "%d", 2)
		return errors.New("it broke\nfor a reason")
	}
	rows := g.run(t.Context(), nil)
	if !rows[0].OK || rows[0].Value != "1" || rows[1].OK || rows[2].OK || rows[2].Value != "not measured: it broke" {
		t.Errorf("got %+v", rows)
	}
}

func TestRatioOfAStandstill(t *testing.T) {
	const second = int64(1e9)
	r := &probe.Report{Begin: 0}
	for i := range 300 { // 10 s at 100, 10 s at 50, 10 s at 100
		n := uint32(100)
		if i >= 100 && i < 200 {
			n = 50
		}
		r.Answered = append(r.Answered, n)
	}
	if got := ratioOf(r, 10*second, 20*second); got < 0.49 || got > 0.51 {
		t.Errorf("got %v, want 0.5", got)
	}
	r.Answered = r.Answered[:100] // nothing was answered any more
	if got := ratioOf(r, 10*second, 20*second); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}

func TestChanged(t *testing.T) {
	before := []lab.Process{{Kind: "cell", Name: "a", Replica: 1, PID: 1}, {Kind: "cell", Name: "a", Replica: 2, PID: 2}, {Kind: "plugin", Name: "p", PID: 3}}
	after := []lab.Process{{Kind: "cell", Name: "a", Replica: 1, PID: 1}, {Kind: "cell", Name: "a", Replica: 2, PID: 9, State: "ready"}, {Kind: "plugin", Name: "p", PID: 3, Restarts: 1}}
	if got := changed(before, after); got != 2 {
		t.Errorf("got %d, want 2", got)
	}
	if !again(before[1])(after) || again(before[0])(after) {
		t.Error("again: want a#2 alone")
	}
}
