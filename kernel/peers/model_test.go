package peers_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"pgregory.net/rapid"
)

// model is what the table promises, said again in the plainest way: whole
// seconds, no index, everything judged anew after each step and each second.
type model struct {
	now    int
	nodes  map[int]*modelNode
	past   map[int]modelFloor
	down   map[string]bool
	pins   map[int]int
	denied map[int]bool
}

type modelFloor struct {
	counter, rest, seq, left int
}

type modelNode struct {
	modelFloor
	parts  map[int]modelPart
	count  int // parts of a beat
	seen   map[[2]string]int
	heard  int
	forget int
	gone   bool
}

type modelPart struct {
	seq, arrived, until int
	cell                string
}

const modelTTL, modelKeep, modelHour = 10, 60, 3600

func (m *model) unheard(n *modelNode) bool {
	known := false
	for k, seen := range n.seen {
		if k[0] == "" || n.heard-seen >= modelTTL {
			continue
		}
		if !m.down[k[0]] {
			return false
		}
		known = true
	}
	return known
}

func (m *model) fresh(n *modelNode) bool {
	for _, p := range n.parts {
		if p.until > m.now {
			return true
		}
	}
	return false
}

func (m *model) judge() {
	for id, n := range m.nodes {
		if !n.gone && (m.pins[id] > 0 || m.unheard(n)) {
			continue
		}
		if m.now >= n.forget {
			delete(m.nodes, id)
			n.left = m.now
			m.past[id] = n.modelFloor
			continue
		}
		sees := false
		for k := range n.seen {
			sees = sees || k[0] != ""
		}
		if !sees {
			n.gone, n.parts = true, map[int]modelPart{}
		}
		for i, p := range n.parts {
			if m.now >= p.until {
				delete(n.parts, i)
			}
		}
	}
}

// see tells the model, and returns whether the table must take it.
func (m *model) see(source, ip string, node, counter, rest, seq, part, count int, cell string, bye bool) bool {
	if m.denied[node] {
		return false
	}
	n, f := m.nodes[node], modelFloor{counter: -1}
	if n != nil {
		f = n.modelFloor
	} else if p, ok := m.past[node]; ok && m.now-p.left < modelHour {
		f = p
	}
	if counter < f.counter || counter == f.counter && rest != f.rest && n != nil && m.fresh(n) {
		return false
	}
	reborn := counter != f.counter || rest != f.rest
	if !reborn && (seq < f.seq || seq == f.seq && (n == nil || n.gone || bye || count != n.count)) {
		return false
	}
	if n == nil || reborn {
		if n == nil && bye {
			m.past[node] = modelFloor{counter, rest, seq, m.now}
			return true
		}
		seen := map[[2]string]int{}
		if n != nil {
			seen = n.seen
		}
		n = &modelNode{parts: map[int]modelPart{}, seen: seen, modelFloor: modelFloor{counter: counter, rest: rest, seq: -1}}
		m.nodes[node] = n
	}
	if p, ok := n.parts[part]; ok && p.seq == seq && n.seq == seq { // an echo
		if at, ok := n.seen[[2]string{source, ip}]; m.now-p.arrived > 1 || ok && at >= n.heard {
			if m.now-p.arrived <= 1 {
				n.seen[[2]string{source, ip}] = m.now
			}
			return false
		}
		n.seen[[2]string{source, ip}] = m.now
		return true
	}
	n.seq = seq
	if bye {
		n.gone, n.parts, n.count, n.forget = true, map[int]modelPart{}, 0, m.now+modelKeep
		return true
	}
	n.gone, n.count, n.heard, n.forget = false, count, m.now, m.now+modelKeep
	for i := range n.parts {
		if i >= count {
			delete(n.parts, i)
		}
	}
	n.parts[part] = modelPart{seq, m.now, m.now + modelTTL, cell}
	n.seen[[2]string{source, ip}] = m.now
	return true
}

func (m *model) up(source string) {
	for _, n := range m.nodes {
		held := false
		for k := range n.seen {
			held = held || k[0] == source
		}
		held = held && m.unheard(n)
		m.down[source] = false
		if held && !m.unheard(n) {
			for i, p := range n.parts {
				p.until = max(p.until, m.now+modelTTL)
				n.parts[i] = p
			}
			n.forget = m.now + modelKeep
		}
		m.down[source] = true
	}
	m.down[source] = false
}

func (m *model) gone(source, ip string, node int) {
	if n := m.nodes[node]; n != nil {
		delete(n.seen, [2]string{source, ip})
	}
}

func (m *model) deny(set []int) {
	m.denied = map[int]bool{}
	for _, id := range set {
		m.denied[id] = true
		if n := m.nodes[id]; n != nil {
			n.left = m.now
			m.past[id] = n.modelFloor
			delete(m.nodes, id)
		}
	}
}

func (m *model) lookup(cell string) string {
	var names []sdk.CellName
	for id, n := range m.nodes {
		for _, p := range n.parts {
			if p.cell == cell && !n.gone {
				names = append(names, sdk.CellName(fmt.Sprintf("n%d", id)))
			}
		}
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

func (m *model) verified() int {
	sum := 0
	for _, n := range m.nodes {
		if !n.gone && m.fresh(n) && !m.unheard(n) {
			sum++
		}
	}
	return sum
}

// A move is one thing that happens to a table. It is drawn before the bubble
// of fake time is entered: rapid ends a run by a panic.
type move struct {
	do                      string
	source, ip              string
	node                    int
	boot, rest, seq         int // relative to what the model knows
	part, count, cell, secs int
	bye, deny, sameRest     bool
}

var moves = rapid.Custom(func(t *rapid.T) move {
	m := move{
		do:     rapid.SampledFrom([]string{"see", "see", "see", "see", "see", "wait", "wait", "up", "down", "pin", "unpin", "gone", "deny"}).Draw(t, "do"),
		source: rapid.SampledFrom([]string{mc, lh}).Draw(t, "source"), ip: rapid.SampledFrom([]string{home, other}).Draw(t, "origin"),
		node: rapid.IntRange(1, 3).Draw(t, "node"), boot: rapid.SampledFrom([]int{0, 0, 0, 0, -1, 1}).Draw(t, "boot"),
		rest: rapid.IntRange(0, 1).Draw(t, "rest"), sameRest: rapid.IntRange(0, 3).Draw(t, "same rest") > 0,
		seq: rapid.SampledFrom([]int{1, 1, 1, 0, 0, -1, 2}).Draw(t, "seq"), count: rapid.IntRange(1, 2).Draw(t, "parts"),
		cell: rapid.IntRange(0, 1).Draw(t, "cell"), secs: rapid.SampledFrom([]int{1, 1, 3, 3, 9, 50}).Draw(t, "seconds"),
		bye: rapid.IntRange(0, 15).Draw(t, "goodbye") == 15, deny: rapid.IntRange(0, 3).Draw(t, "deny") == 3,
	}
	m.part = rapid.IntRange(0, m.count-1).Draw(t, "part")
	return m
})

// run is a table, its model, and what a watcher of the table believes.
type run struct {
	tab     *peers.Table
	m       *model
	mu      sync.Mutex // guards believe
	believe map[sdk.CellName]string
}

func (r *run) see(v move) error {
	counter, rest, base := 2+v.boot, v.rest, 1
	if n := r.m.nodes[v.node]; n != nil {
		counter, base = n.counter+v.boot, n.seq
		if v.sameRest {
			rest = n.rest
		}
	}
	seq, cell := max(base+v.seq, 0), fmt.Sprintf("c%d%d", v.part, v.cell)
	a := says(v.node, uint64(seq), sdk.CellName(cell))
	a.Boot, a.Part, a.Parts, a.Goodbye = boot(uint64(counter+100), byte(rest)), uint8(v.part), uint8(v.count), v.bye
	if v.bye {
		a.Cells = nil
	}
	got := r.tab.See(v.source, v.ip, a)
	if want := r.m.see(v.source, v.ip, v.node, counter, rest, seq, v.part, v.count, cell, v.bye); got.Taken() != want {
		return fmt.Errorf("verdict %s, want taken: %t", got, want)
	}
	return nil
}

func (r *run) step(v move) (err error) {
	switch v.do {
	case "see":
		err = r.see(v)
	case "wait":
		for range v.secs {
			time.Sleep(time.Second)
			r.m.now++
			r.m.judge()
		}
	case "up":
		if r.m.down[v.source] {
			r.tab.SourceUp(v.source)
			r.m.up(v.source)
		}
	case "down":
		r.tab.SourceDown(v.source)
		r.m.down[v.source] = true
	case "pin":
		r.tab.Pin(id(v.node))
		r.m.pins[v.node]++
	case "unpin":
		r.tab.Unpin(id(v.node))
		r.m.pins[v.node] = max(r.m.pins[v.node]-1, 0)
	case "gone":
		r.tab.Gone(v.source, v.ip, id(v.node))
		r.m.gone(v.source, v.ip, v.node)
	case "deny":
		var set []int
		var ids []sdk.NodeID
		if v.deny {
			set, ids = []int{v.node}, []sdk.NodeID{id(v.node)}
		}
		r.tab.Deny(ids)
		r.m.deny(set)
	}
	r.m.judge()
	return err
}

func (r *run) compare() error {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, cell := range []sdk.CellName{"c00", "c01", "c10", "c11"} {
		want := r.m.lookup(string(cell))
		if got := serving(r.tab, cell); got != want {
			return fmt.Errorf("%s is served by %s, want %s", cell, got, want)
		}
		if got := r.believe[cell]; got != want && (got != "" || want != "[]") {
			return fmt.Errorf("the watcher believes that %s is served by %s, want %s", cell, got, want)
		}
	}
	if got, want := r.tab.Verified(), r.m.verified(); got != want {
		return fmt.Errorf("%d are verified, want %d", got, want)
	}
	rows := r.tab.Nodes()
	for _, row := range rows {
		var cell sdk.CellName
		if len(row.Cells) > 0 {
			cell = row.Cells[0].Name
		}
		if row.Routable != (len(r.tab.Addrs(row.Node, cell)) > 0) {
			return fmt.Errorf("node %s: routable %t and its addresses do not agree", row.Name, row.Routable)
		}
	}
	if len(rows) != len(r.m.nodes) {
		return fmt.Errorf("there are %d members, want %d", len(rows), len(r.m.nodes))
	}
	return nil
}

func TestTheTableIsItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(moves, 1, 80).Draw(rt, "script")
		var err error
		synctest.Test(t, func(t *testing.T) {
			r := &run{tab: newTable(), m: &model{nodes: map[int]*modelNode{}, past: map[int]modelFloor{}, down: map[string]bool{}, pins: map[int]int{}}, believe: map[sdk.CellName]string{}}
			go r.tab.Watch(t.Context(), func(cells []sdk.CellName) {
				r.mu.Lock()
				defer r.mu.Unlock()
				for _, c := range cells {
					r.believe[c] = serving(r.tab, c)
				}
			}, func(sdk.NodeID, []sdk.Addr) {})
			for i, v := range script {
				if err = r.step(v); err == nil {
					err = r.compare()
				}
				if err != nil {
					err = fmt.Errorf("after move %d, %s, at %d s: %w", i, v.do, r.m.now, err)
					return
				}
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}
