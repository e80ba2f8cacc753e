package gen

import (
	"errors"
	"fmt"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

// A unit is one Go package with services.
type unit struct {
	name, path, dir string
	fset            *token.FileSet
	services        []*service
	messages        []*message // by index in the schema
	imports         []imported // what named field types need
	schema          flat.Schema
	problems        problems
}

// A service is one marked interface.
type service struct {
	name    string
	doc     []string
	methods []*method
	pos     token.Pos
}

// A shape tells which sides of a method stream; the text is the constant's
// name in sdk/cell.
type shape string

const (
	unary        shape = "Unary"
	serverStream shape = "ServerStream"
	clientStream shape = "ClientStream"
	bidi         shape = "Bidi"
)

// A method is one method of a service.
type method struct {
	name       string
	doc        []string
	shape      shape
	idempotent bool
	in, out    *message
	param      string // what the author calls the request
	pos        token.Pos
}

// A message is a struct that travels, by itself or inside another.
type message struct {
	name   string
	size   int      // of the Go struct on 64-bit machines
	fields []*field // in declaration order
	slots  []slot   // in wire order
	index  int      // in the schema
	root   bool     // it is a request or a reply
	leased bool     // clients or view handlers receive it in place
	stream bool     // the same, in streams
	cyclic bool     // values may nest without end
	walked bool     // it or a message that contains it is cyclic
	pos    token.Pos
}

// A field is one exported field of a message.
type field struct {
	name   string    // in Go
	wire   string    // in the layout
	typ    flat.Type // of the value or of the elements
	vector bool
	sub    *message // of type Sub
	ptr    bool     // of type Sub: *T or []*T
	goType string   // as generated code writes it: of the value or of the elements
	named  bool     // goType is not the predeclared type
	wide   bool     // int or uint
	time   bool     // time.Time
	pos    token.Pos
}

// A slot is a place in a table: a field, or what is left of a removed one.
type slot struct {
	field *field // nil if deprecated
	old   pinned
}

// An imported package is needed by generated messages.
type imported struct{ alias, path string }

// problems collects what is wrong with a unit, for one report.
type problems struct{ list []problem }

type problem struct {
	at   token.Position
	text string
}

func (p *problems) add(at token.Position, format string, args ...any) {
	p.list = append(p.list, problem{at, fmt.Sprintf(format, args...)})
}

// err joins the problems in order of position, one per line; paths are
// relative to dir where that is shorter.
func (p *problems) err(dir string) error {
	slices.SortStableFunc(p.list, func(a, b problem) int {
		if c := strings.Compare(a.at.Filename, b.at.Filename); c != 0 {
			return c
		}
		return a.at.Offset - b.at.Offset
	})
	var errs []error
	for i, q := range p.list {
		if i > 0 && q == p.list[i-1] {
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %s", place(dir, q.at), q.text))
	}
	return errors.Join(errs...)
}

// place formats a position with a path relative to dir if that is shorter.
func place(dir string, at token.Position) string {
	if rel, err := filepath.Rel(dir, at.Filename); err == nil && len(rel) < len(at.Filename) {
		at.Filename = rel
	}
	return at.String()
}

func (u *unit) problem(at token.Pos, format string, args ...any) {
	u.problems.add(u.fset.Position(at), format, args...)
}

// snake turns a Go name into a lower-case one: "HTTPServerID" is
// "http_server_id".
func snake(name string) string {
	r := []rune(name)
	var b strings.Builder
	for i, c := range r {
		if i > 0 && unicode.IsUpper(c) && r[i-1] != '_' &&
			(!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// lower and upper change the first letter.
func lower(name string) string {
	n := 0
	for n < len(name) && unicode.IsUpper(rune(name[n])) {
		n++
	}
	if n > 1 && n < len(name) {
		n-- // the last capital of "HTTPServer" begins a word
	}
	return strings.ToLower(name[:n]) + name[n:]
}

func upper(name string) string { return strings.ToUpper(name[:1]) + name[1:] }

// The names of generated things. Those of an unexported message are, too.

func (m *message) view() string { return m.name + "View" }

func (m *message) parse() string {
	if token.IsExported(m.name) {
		return "Parse" + m.view()
	}
	return "parse" + upper(m.view())
}

func (m *message) lease() string  { return m.name + "Lease" }
func (m *message) leases() string { return m.name + "Leases" }
func (m *message) image() string  { return lower(m.name) + "Image" }
func (m *message) table() string  { return lower(m.name) + "Table" }
func (m *message) append() string { return "append" + upper(m.name) }
func (m *message) fits() string   { return "fits" + upper(m.name) }

func (s *service) file() string {
	name := snake(s.name)
	if name == "messages" {
		name = "messages_service" // messages_cell.go is taken
	}
	return name
}
