package gentest_test

import (
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen/gentest"
	"github.com/cellkernel/cellkernel/sdk/flat"
)

// Other implementations cast: whatever they load must be aligned to its size.
func TestAlignment(t *testing.T) {
	s := gentest.Schema()
	index := map[string]int{}
	for i := range s {
		index[s[i].Name] = i
	}
	rapid.Check(t, func(t *rapid.T) {
		for name, m := range map[string]flat.Message{
			"Everything": drawMessage[gentest.Everything](t), "Tree": drawMessage[gentest.Tree](t), "Dish": drawMessage[gentest.Dish](t),
		} {
			checkTable(t, s, index[name], rootOf(m.AppendFlat(nil)))
		}
	})
}

func checkAt(t *rapid.T, name string, at flatbuffers.UOffsetT, width int) {
	if int(at)%width != 0 {
		t.Fatalf("%s is at byte %d: not aligned to %d", name, at, width)
	}
}

func checkTable(t *rapid.T, s flat.Schema, record int, tab flatbuffers.Table) {
	checkAt(t, s[record].Name, tab.Pos, 4)
	checkAt(t, s[record].Name+"'s vtable", flatbuffers.UOffsetT(int(tab.Pos)-int(tab.GetSOffsetT(tab.Pos))), 2)
	for i := range s[record].Fields {
		f := &s[record].Fields[i]
		name := s[record].Name + "." + f.Name
		o := flatbuffers.UOffsetT(tab.Offset(flatbuffers.VOffsetT(4 + 2*i)))
		switch {
		case o == 0:
		case f.Vector:
			checkAt(t, name, tab.Pos+o, 4)
			checkAt(t, name+"'s length", tab.Vector(o)-4, 4)
			checkAt(t, name+"'s elements", tab.Vector(o), f.Type.Width())
			for j := range tab.VectorLen(o) {
				at := tab.Vector(o) + 4*flatbuffers.UOffsetT(j)
				if f.Type == flat.String {
					checkAt(t, name, tab.Indirect(at), 4)
				} else if f.Type == flat.Sub {
					checkTable(t, s, f.Sub, flatbuffers.Table{Bytes: tab.Bytes, Pos: tab.Indirect(at)})
				}
			}
		case f.Type == flat.Sub:
			checkTable(t, s, f.Sub, flatbuffers.Table{Bytes: tab.Bytes, Pos: tab.Indirect(tab.Pos + o)})
		case f.Type == flat.String:
			checkAt(t, name, tab.Indirect(tab.Pos+o), 4)
		default:
			checkAt(t, name, tab.Pos+o, f.Type.Width())
		}
	}
}
