package genome

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cellkernel/cellkernel/sdk"
)

// Doubts lists axons of these cells that may be slips of the hand: they lead
// to no cell of this genome, where another one is called nearly so. They are no
// mistakes, because a cell may be found elsewhere.
func (g *Genome) Doubts(cells []sdk.CellName) []string {
	var names, list []string
	for name := range g.Cells {
		names = append(names, string(name))
	}
	for _, cell := range cells {
		for _, name := range slices.Sorted(maps.Keys(g.Cells[cell].Axons)) {
			for _, t := range g.Cells[cell].Axons[name].To {
				near := Nearest(string(t.Cell), names)
				if t.Host == "" && g.Cells[t.Cell] == nil && near != "" {
					list = append(list, fmt.Sprintf("axon %q of %q leads to %q, which is not in this genome and is looked for on the network (did you mean %q?)", name, cell, t.Cell, near))
				}
			}
		}
	}
	return list
}
