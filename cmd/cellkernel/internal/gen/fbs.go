package gen

import (
	"fmt"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

// fbsHeader begins every pinned layout.
const fbsHeader = `// Layout of %s.%s, kept by cellkernel gen. Keep this file under version
// control: a field has its slot by its place here. Do not reorder or remove lines.
`

// A pinned field is a line of a .fbs file.
type pinned struct {
	name, typ  string
	deprecated bool
	at         token.Position
}

// A pinnedTable is a table of a .fbs file.
type pinnedTable struct {
	name   string
	fields []pinned
	at     token.Position
}

// readPins reads the pinned layouts in dir. Files that the generator has not
// written are left alone.
func readPins(dir string, bad *problems) (map[string][]*pinnedTable, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.fbs"))
	if err != nil {
		return nil, fmt.Errorf("list pinned layouts: %w", err)
	}
	files := map[string][]*pinnedTable{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read pinned layout: %w", err)
		}
		if strings.Contains(firstLine(text), "kept by cellkernel gen") {
			files[name] = parsePins(name, string(text), bad)
		}
	}
	return files, nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// parsePins parses the tables of a pinned layout: the part of the language
// that the generator writes, with comments and white space as anyone likes.
func parsePins(name, text string, bad *problems) []*pinnedTable {
	s := &fbsScanner{name: name, text: text, line: 1, col: 1}
	var tables []*pinnedTable
	for {
		at, word := s.next()
		switch word {
		case "":
			return tables
		case "namespace", "root_type":
			s.skipPast(";")
		case "rpc_service":
			s.skipPast("}")
		case "table":
			t, ok := s.table()
			if !ok {
				at, word := s.next()
				bad.add(at, "pinned layout: unexpected %q in a table", word)
				return tables
			}
			tables = append(tables, t)
		default:
			bad.add(at, "pinned layout: unexpected %q: want what cellkernel gen writes: namespace, table, rpc_service, root_type", word)
			return tables
		}
	}
}

// An fbsScanner splits the text of a .fbs file into words and punctuation.
type fbsScanner struct {
	name, text string
	pos        int
	line, col  int
}

func (s *fbsScanner) advance(n int) {
	for _, c := range []byte(s.text[s.pos : s.pos+n]) {
		s.col++
		if c == '\n' {
			s.line, s.col = s.line+1, 1
		}
	}
	s.pos += n
}

// peek returns the next token without taking it, "" at the end.
func (s *fbsScanner) peek() (token.Position, string) {
	for {
		rest := s.text[s.pos:]
		trimmed := strings.TrimLeft(rest, " \t\r\n")
		s.advance(len(rest) - len(trimmed))
		if !strings.HasPrefix(trimmed, "//") {
			break
		}
		if n := strings.IndexByte(trimmed, '\n'); n >= 0 {
			s.advance(n)
		} else {
			s.advance(len(trimmed))
		}
	}
	at := token.Position{Filename: s.name, Offset: s.pos, Line: s.line, Column: s.col}
	rest := s.text[s.pos:]
	n := 0
	for n < len(rest) && (rest[n] == '_' || rest[n] >= '0' && rest[n] <= '9' || rest[n]|0x20 >= 'a' && rest[n]|0x20 <= 'z') {
		n++
	}
	if n == 0 && rest != "" {
		n = 1
	}
	return at, rest[:n]
}

func (s *fbsScanner) next() (token.Position, string) {
	at, word := s.peek()
	s.advance(len(word))
	return at, word
}

// accept takes the next token if it is word.
func (s *fbsScanner) accept(word string) bool {
	_, w := s.peek()
	if w == word && word != "" {
		s.next()
		return true
	}
	return false
}

func (s *fbsScanner) skipPast(word string) {
	for {
		if _, w := s.next(); w == word || w == "" {
			return
		}
	}
}

// table parses "Name { field:type; … }".
func (s *fbsScanner) table() (*pinnedTable, bool) {
	at, name := s.next()
	t := &pinnedTable{name: name, at: at}
	if !ascii(name) || !s.accept("{") {
		return nil, false
	}
	for !s.accept("}") {
		f, ok := s.field()
		if !ok || len(t.fields) == flat.MaxSlots {
			return nil, false
		}
		t.fields = append(t.fields, f)
	}
	return t, true
}

// field parses "name:type;" or "name:[type] (deprecated);".
func (s *fbsScanner) field() (f pinned, ok bool) {
	f.at, f.name = s.peek()
	if !ascii(f.name) {
		return f, false
	}
	s.next()
	if !s.accept(":") {
		return f, false
	}
	vector := s.accept("[")
	_, word := s.peek()
	if !ascii(word) {
		return f, false
	}
	s.next()
	f.typ = word
	if vector {
		f.typ = "[" + word + "]"
		if !s.accept("]") {
			return f, false
		}
	}
	if s.accept("(") {
		f.deprecated = s.accept("deprecated")
		if !f.deprecated || !s.accept(")") {
			return f, false
		}
	}
	return f, s.accept(";")
}

// fbsText writes the pinned layout of a service: its messages in the order of
// first mention, then tables that were pinned before and are no longer used.
func (u *unit) fbsText(s *service, before []*pinnedTable) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, fbsHeader, u.name, s.name)
	fmt.Fprintf(&b, "namespace %s;\n", u.name)
	written := map[string]bool{}
	for _, m := range reachable(s) {
		written[m.name] = true
		fmt.Fprintf(&b, "\ntable %s {\n", m.name)
		for _, slot := range m.slots {
			b.WriteString(fbsField(slot))
		}
		b.WriteString("}\n")
	}
	for _, t := range before {
		if written[t.name] {
			continue
		}
		fmt.Fprintf(&b, "\n// no longer used\ntable %s {\n", t.name)
		for _, f := range t.fields {
			b.WriteString(fbsField(slot{old: f}))
		}
		b.WriteString("}\n")
	}
	fmt.Fprintf(&b, "\nrpc_service %s {\n", s.name)
	for _, m := range s.methods {
		fmt.Fprintf(&b, "  %s(%s):%s%s;\n", m.name, m.in.name, m.out.name, m.fbsAttributes())
	}
	fmt.Fprintf(&b, "}\n\nroot_type %s;\n", s.methods[0].in.name)
	return []byte(b.String())
}

func fbsField(s slot) string {
	name, typ, note := s.old.name, s.old.typ, ""
	switch {
	case s.field != nil:
		name, typ = s.field.wire, s.field.wireType()
		if s.field.time {
			note = " // nanoseconds since 1970"
		}
	case s.old.deprecated:
		note = "deprecated"
	}
	if note == "deprecated" {
		return fmt.Sprintf("  %s:%s (deprecated);\n", name, typ)
	}
	return fmt.Sprintf("  %s:%s;%s\n", name, typ, note)
}

func (m *method) fbsAttributes() string {
	var list []string
	switch m.shape {
	case serverStream:
		list = append(list, `streaming: "server"`)
	case clientStream:
		list = append(list, `streaming: "client"`)
	case bidi:
		list = append(list, `streaming: "bidi"`)
	}
	if m.idempotent {
		list = append(list, "idempotent")
	}
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

// wireType is the field's type as .fbs files write it.
func (f *field) wireType() string {
	text := f.typ.String()
	if f.sub != nil {
		text = f.sub.name
	}
	if f.vector {
		return "[" + text + "]"
	}
	return text
}

// reachable lists the messages of a service in the order of first mention.
func reachable(s *service) []*message {
	var list []*message
	for _, m := range s.methods {
		for _, r := range []*message{m.in, m.out} {
			if !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
	}
	for i := 0; i < len(list); i++ {
		for _, f := range list[i].fields {
			if f.sub != nil && !slices.Contains(list, f.sub) {
				list = append(list, f.sub)
			}
		}
	}
	return list
}
