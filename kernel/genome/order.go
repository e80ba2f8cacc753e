package genome

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// Needs returns the cells of g that must be ready before name starts, sorted:
// the targets of its axons that are cells of g, except itself and except
// axons with wait = false.
func (g *Genome) Needs(name sdk.CellName) []sdk.CellName {
	c := g.Cells[name]
	if c == nil {
		return nil
	}
	var needs []sdk.CellName
	for _, a := range c.Axons {
		for _, t := range a.To {
			if a.Wait && t.Host == "" && t.Cell != name && g.Cells[t.Cell] != nil {
				needs = append(needs, t.Cell)
			}
		}
	}
	slices.Sort(needs)
	return slices.Compact(needs)
}

// Order returns all cells so that each comes after what it needs, otherwise
// by name. If that is impossible the error is a [*CycleError].
func Order(g *Genome) ([]sdk.CellName, error) {
	w := walk{g: g, state: map[sdk.CellName]mark{}}
	for _, name := range slices.Sorted(maps.Keys(g.Cells)) {
		if ring := w.visit(name); ring != nil {
			return nil, &CycleError{Ring: ring}
		}
	}
	return w.order, nil
}

// Closure returns names and everything they need, directly or not, in the
// order of [Order]. A name that is no cell of g is an error.
func (g *Genome) Closure(names ...sdk.CellName) ([]sdk.CellName, error) {
	w := walk{g: g, state: map[sdk.CellName]mark{}}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if g.Cells[name] == nil {
			return nil, sdk.Errorf(sdk.CodeNotFound, "find cell %q: not in %s", name, g.File)
		}
		if ring := w.visit(name); ring != nil {
			return nil, &CycleError{Ring: ring}
		}
	}
	return w.order, nil
}

// A CycleError is a ring of axons that all wait.
type CycleError struct {
	Ring []sdk.CellName // each needs the next, the last needs the first
}

// Error names the whole ring.
func (e *CycleError) Error() string {
	parts := make([]string, 0, len(e.Ring)+1)
	for _, n := range e.Ring {
		parts = append(parts, string(n))
	}
	ring := strings.Join(append(parts, parts[0]), " -> ")
	return fmt.Sprintf("axons form a cycle: %s: one of them needs wait = false", ring)
}

type mark uint8

const (
	onPath mark = 1
	placed mark = 2
)

// walk is a depth-first search; path is the way down to the current cell.
type walk struct {
	g     *Genome
	state map[sdk.CellName]mark
	path  []sdk.CellName
	order []sdk.CellName
}

// visit places name after its needs. It returns a ring if it meets one. The
// depth is bounded by MaxCells.
func (w *walk) visit(name sdk.CellName) []sdk.CellName {
	switch w.state[name] {
	case placed:
		return nil
	case onPath:
		return canonicalRing(w.path[slices.Index(w.path, name):])
	}
	w.state[name] = onPath
	w.path = append(w.path, name)
	for _, need := range w.g.Needs(name) {
		if ring := w.visit(need); ring != nil {
			return ring
		}
	}
	w.path = w.path[:len(w.path)-1]
	w.state[name] = placed
	w.order = append(w.order, name)
	return nil
}

// canonicalRing turns a ring so that its smallest name comes first.
func canonicalRing(ring []sdk.CellName) []sdk.CellName {
	i := slices.Index(ring, slices.Min(ring))
	return slices.Concat(ring[i:], ring[:i])
}

// rings returns one ring of every set of cells that need each other.
func (g *Genome) rings() [][]sdk.CellName {
	var rings [][]sdk.CellName
	w := walk{g: g, state: map[sdk.CellName]mark{}}
	for _, name := range slices.Sorted(maps.Keys(g.Cells)) {
		if ring := w.visit(name); ring != nil {
			rings = append(rings, ring)
			for _, n := range w.path { // everything above leads into this ring
				w.state[n] = placed
			}
			w.path = w.path[:0]
		}
	}
	return rings
}
