package genome

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cellkernel/cellkernel/sdk"
)

// Doubts lists axons of these cells that lead to no cell of g and name no
// address. With a discovery they are no mistakes, because the cell may be found
// elsewhere; but a name that is misspelt looks just like that.
func (g *Genome) Doubts(cells []sdk.CellName) []Problem {
	var names []string
	for name := range g.Cells {
		names = append(names, string(name))
	}
	var list []Problem
	for _, cell := range cells {
		c := g.Cells[cell]
		if c == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(c.Axons)) {
			for _, t := range c.Axons[name].To {
				if t.Host != "" || g.Cells[t.Cell] != nil {
					continue
				}
				list = append(list, Problem{
					Key:  []string{"cells", string(cell), "axons", string(name), "to"},
					Text: fmt.Sprintf("axon %q of cell %q: no cell %q here: it must be found on another machine", name, cell, t.Cell),
					Hint: Nearest(string(t.Cell), names),
				})
			}
		}
	}
	return list
}
