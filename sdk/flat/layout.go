package flat

import (
	"errors"
	"fmt"
	"strings"
)

// A Layout is the canonical text of a message's layout: every table that can
// be reached, the message first, the others in the order of first mention,
// each slot by slot with name and type. Deprecated slots end with "!".
//
//	Job{id:ulong,tags:[string],old:int!,next:Job}
//
// Layouts travel when links open; the empty one means "JSON only".
type Layout string

// Limits of a layout.
const (
	MaxLayout = 16 << 10 // bytes of text
	MaxSlots  = 4096     // slots of one table: what a vtable can hold is more
	maxPairs  = 4096     // tables compared with tables
)

// Layout returns the layout of the message that is the given record of s.
func (s Schema) Layout(root int) Layout {
	var b strings.Builder
	order, seen := []int{root}, map[int]bool{root: true}
	for next := 0; next < len(order); next++ {
		r := &s[order[next]]
		b.WriteString(r.Name)
		b.WriteByte('{')
		for i := range r.Fields {
			f := &r.Fields[i]
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(f.Name + ":" + s.TypeText(f))
			if f.Deprecated {
				b.WriteByte('!')
			} else if f.Type == Sub && !seen[f.Sub] {
				seen[f.Sub] = true
				order = append(order, f.Sub)
			}
		}
		b.WriteByte('}')
	}
	return Layout(b.String())
}

// TypeText returns the type of f, a field of s, as .fbs files and layouts
// write it: "ulong", "[string]", "Job".
func (s Schema) TypeText(f *Field) string {
	text := f.Type.String()
	if f.Type == Sub && f.Deprecated {
		text = "table" // it may not exist any more
	} else if f.Type == Sub {
		text = s[f.Sub].Name
	}
	if f.Vector {
		return "[" + text + "]"
	}
	return text
}

// Compatible reports whether a caller and a server that declare a message
// differently understand each other: nil if every slot both have has the same
// name and type, in the tables that the message refers to, too. Either side
// may have more slots at the end; the names of tables do not matter. A slot
// that is deprecated on either side keeps its name; its table is not compared.
// Otherwise the error names the field and both declarations. The layouts may
// come from strangers; the empty one is compatible with everything.
func Compatible(caller, server Layout) error {
	if caller == server || caller == "" || server == "" {
		return nil
	}
	c, err := parseLayout(caller)
	if err != nil {
		return fmt.Errorf("caller's layout: %w", err)
	}
	s, err := parseLayout(server)
	if err != nil {
		return fmt.Errorf("server's layout: %w", err)
	}
	type pair struct{ c, s int }
	todo, seen := []pair{{0, 0}}, map[pair]bool{{0, 0}: true}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		a, b := c[p.c], s[p.s]
		for i := range min(len(a.slots), len(b.slots)) {
			x, y := &a.slots[i], &b.slots[i]
			if !x.same(y) {
				return fmt.Errorf("field %s.%s, slot %d: caller has %q, server has %q", a.name, x.name, i, x, y)
			}
			if next := (pair{x.sub, y.sub}); x.sub >= 0 && y.sub >= 0 && !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
		if len(seen) > maxPairs {
			return errors.New("compare layouts: too many tables")
		}
	}
	return nil
}

// A table is one of a parsed layout.
type table struct {
	name  string
	slots []slot
}

// A slot is a field of a parsed layout.
type slot struct {
	name, typ       string
	vector, retired bool
	sub             int // index of its table, -1 if it is no table
}

func (s *slot) String() string {
	text := s.typ
	if s.vector {
		text = "[" + text + "]"
	}
	return s.name + ":" + text
}

func (s *slot) same(o *slot) bool {
	if s.name != o.name || s.vector != o.vector {
		return false
	}
	isTable := func(s *slot) bool { return s.sub >= 0 || s.typ == "table" }
	return s.typ == o.typ || isTable(s) && isTable(o)
}

var errLayout = errors.New("malformed")

// parseLayout parses the text of a layout and resolves its references.
func parseLayout(l Layout) ([]table, error) {
	if len(l) > MaxLayout {
		return nil, fmt.Errorf("%d bytes: at most %d", len(l), MaxLayout)
	}
	var tables []table
	index := map[string]int{}
	for rest := string(l); rest != ""; {
		head, after, ok := strings.Cut(rest, "{")
		body, tail, closed := strings.Cut(after, "}")
		if _, twice := index[head]; !ok || !closed || twice || !isName(head) {
			return nil, errLayout
		}
		slots, err := parseSlots(body)
		if err != nil {
			return nil, err
		}
		index[head] = len(tables)
		tables = append(tables, table{head, slots})
		rest = tail
	}
	return tables, resolve(tables, index)
}

func parseSlots(body string) ([]slot, error) {
	var slots []slot
	for body != "" {
		var text string
		text, body, _ = strings.Cut(body, ",")
		name, typ, _ := strings.Cut(text, ":")
		s := slot{name: name, sub: -1}
		typ, s.retired = strings.CutSuffix(typ, "!")
		if inner, ok := strings.CutPrefix(typ, "["); ok {
			typ, s.vector = strings.CutSuffix(inner, "]")
			if !s.vector {
				return nil, errLayout
			}
		}
		if s.typ = typ; !isName(name) || !isName(typ) || len(slots) == MaxSlots {
			return nil, errLayout
		}
		slots = append(slots, s)
	}
	return slots, nil
}

// resolve finds the tables that slots refer to. Scalars are known by name, so
// no table can be called like one.
func resolve(tables []table, index map[string]int) error {
	scalar := map[string]bool{}
	for _, n := range typeNames[1:] {
		scalar[n] = true
	}
	for i := range tables {
		for j := range tables[i].slots {
			s := &tables[i].slots[j]
			if scalar[s.typ] || s.retired {
				continue
			}
			sub, ok := index[s.typ]
			if !ok {
				return errLayout
			}
			s.sub = sub
		}
	}
	return nil
}

// isName reports whether s is an identifier of Go and FlatBuffers, in ASCII.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}
