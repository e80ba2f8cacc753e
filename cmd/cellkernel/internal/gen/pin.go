package gen

import (
	"maps"
	"slices"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

// pin gives every field of every message its slot: that of its name in the
// pinned layouts, else the next free one. Slots without a field are kept.
func (u *unit) pin(files map[string][]*pinnedTable) {
	pins := u.mergePins(files)
	for _, m := range u.messages {
		byName := map[string]*field{}
		for _, f := range m.fields {
			byName[f.wire] = f
		}
		used := map[string]bool{}
		for _, p := range pins[m.name] {
			if used[p.name] {
				u.problems.add(p.at, "pinned layout: field %q of %s is there twice", p.name, m.name)
				continue
			}
			used[p.name] = true
			f := byName[p.name]
			if f != nil && f.wireType() != p.typ {
				u.problem(f.pos, "field %s of %s is %s, %s in the schema, but %s pins it as %s: a changed type needs a new name",
					f.name, m.name, f.declared(), f.wireType(), place(u.dir, p.at), p.typ)
			}
			p.deprecated = f == nil
			m.slots = append(m.slots, slot{f, p})
		}
		for _, f := range m.fields {
			if !used[f.wire] {
				m.slots = append(m.slots, slot{field: f})
			}
		}
		if len(m.slots) > flat.MaxSlots {
			u.problem(m.pos, "message %s has %d slots: at most %d", m.name, len(m.slots), flat.MaxSlots)
		}
	}
}

// mergePins joins the files: services of a package share their messages, so
// a table that two files have is the same in both, or longer in one.
func (u *unit) mergePins(files map[string][]*pinnedTable) map[string][]pinned {
	pins, at := map[string][]pinned{}, map[string]*pinnedTable{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		for _, t := range files[file] {
			old := pins[t.name]
			for i := range min(len(old), len(t.fields)) {
				if a, b := old[i], t.fields[i]; a.name != b.name || a.typ != b.typ {
					u.problems.add(b.at, "pinned layout: table %s has %s:%s here, but %s:%s at %s",
						t.name, b.name, b.typ, a.name, a.typ, place(u.dir, a.at))
				}
			}
			if len(t.fields) > len(old) || at[t.name] == nil {
				pins[t.name], at[t.name] = t.fields, t
			}
		}
	}
	return pins
}

// schemaOf turns slots into the data that is verified against.
func (u *unit) schemaOf() flat.Schema {
	var s flat.Schema
	for _, m := range u.messages {
		r := flat.Record{Name: m.name, Size: m.size}
		for _, slot := range m.slots {
			r.Fields = append(r.Fields, slot.wireField())
		}
		s = append(s, r)
	}
	return s
}

func (s slot) wireField() flat.Field {
	if f := s.field; f != nil {
		w := flat.Field{Name: f.wire, Type: f.typ, Vector: f.vector}
		if f.sub != nil {
			w.Sub = f.sub.index
		}
		return w
	}
	w := flat.Field{Name: s.old.name, Type: flat.Sub, Deprecated: true}
	typ := s.old.typ
	if typ[0] == '[' {
		w.Vector, typ = true, typ[1:len(typ)-1]
	}
	for t := flat.Bool; t < flat.Sub; t++ {
		if t.String() == typ {
			w.Type = t
		}
	}
	return w
}

// checkLayouts reports layouts that are too long and types nested too deeply
// for any value, and finds the messages whose values may nest without end.
func (u *unit) checkLayouts() {
	for _, m := range u.messages {
		m.cyclic = m.reachesCycle(map[*message]int{})
	}
	for _, m := range u.messages {
		if m.cyclic {
			m.markWalked()
		} else if m.height(0) > flat.MaxDepth {
			u.problem(m.pos, "message %s nests tables deeper than %d", m.name, flat.MaxDepth)
		}
		if n := len(u.schema.Layout(m.index)); m.root && n > flat.MaxLayout {
			u.problem(m.pos, "message %s: its layout is %d bytes of text: at most %d", m.name, n, flat.MaxLayout)
		}
	}
}

// reachesCycle walks depth first; state is 1 while a message is on the path.
func (m *message) reachesCycle(state map[*message]int) bool {
	if state[m] != 0 {
		return state[m] == 1
	}
	state[m] = 1
	for _, f := range m.fields {
		if f.sub != nil && f.sub.reachesCycle(state) {
			return true
		}
	}
	state[m] = 2
	return false
}

func (m *message) markWalked() {
	if m.walked {
		return
	}
	m.walked = true
	for _, f := range m.fields {
		if f.sub != nil {
			f.sub.markWalked()
		}
	}
}

// height returns how deep a message without cycles nests, at most a little
// more than the limit.
func (m *message) height(above int) int {
	if above > flat.MaxDepth {
		return 1
	}
	h := 0
	for _, f := range m.fields {
		if f.sub != nil {
			h = max(h, f.sub.height(above+1))
		}
	}
	return h + 1
}
