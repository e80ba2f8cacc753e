package gen

import (
	"bytes"
	"embed"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

//go:embed templates
var templates embed.FS

// knownImports are the packages that templates and field code refer to.
func knownImports() []imported {
	return []imported{
		{"binary", "encoding/binary"}, {"context", "context"}, {"math", "math"}, {"sync", "sync"},
		{"sdk", path.Dir(flatPath)}, {"cell", cellPath}, {"flat", flatPath},
	}
}

func importNames() []string {
	var names []string
	for _, i := range knownImports() {
		names = append(names, i.alias)
	}
	return names
}

// A messageData is what the template of a message sees.
type messageData struct {
	Name, View, Parse, Lease, Leases       string
	Image, Literal, Table, Append, Fits    string
	Index, Size, TableAt                   int
	Root, Cyclic, Walked, Leased, Streamed bool
	Fields                                 []fieldData
	Encode, Unpack, Nested                 []string
	Accessors                              []accessor
}

// A fieldData is an entry of the generated schema.
type fieldData struct {
	Name, Type         string
	Vector, Deprecated bool
	Sub                int
}

func (u *unit) messageData(m *message) messageData {
	img := layOut(m)
	d := messageData{
		Name: m.name, View: m.view(), Parse: m.parse(), Lease: m.lease(), Leases: m.leases(),
		Image: m.image(), Literal: img.literal(), Table: m.table(), Append: m.append(), Fits: m.fits(),
		Index: m.index, Size: m.size, TableAt: img.table,
		Root: m.root, Cyclic: m.cyclic, Walked: m.walked, Leased: m.leased, Streamed: m.stream,
		Encode: m.encode(),
	}
	for i, s := range m.slots {
		w := u.schema[m.index].Fields[i]
		d.Fields = append(d.Fields, fieldData{w.Name, typeConstant(w.Type), w.Vector, w.Deprecated, w.Sub})
		if s.field == nil {
			continue
		}
		d.Accessors = append(d.Accessors, s.field.accessor(i))
		d.Unpack = append(d.Unpack, s.field.unpack())
		if s.field.sub != nil && m.walked {
			d.Nested = append(d.Nested, s.field.fits())
		}
	}
	return d
}

// typeConstant is the name of t in package flat.
func typeConstant(t flat.Type) string {
	if t == flat.Sub {
		return "Sub"
	}
	return getters[t].method
}

// A serviceData is what the template of a service sees.
type serviceData struct {
	Name, Desc string
	Methods    []methodData
}

type methodData struct {
	Name, Param                string
	Serve, ServeView           string
	Shape                      shape
	Doc                        []string
	Idempotent                 bool
	StreamsIn, StreamsOut      bool
	In, Out, InParse, OutParse string
	Index, InIndex, OutIndex   int
}

func (s *service) data() serviceData {
	d := serviceData{Name: s.name, Desc: lower(s.name) + "Desc"}
	for i, m := range s.methods {
		d.Methods = append(d.Methods, methodData{
			Name: m.name, Param: m.param, Serve: "serve" + s.name + m.name, ServeView: "serveView" + s.name + m.name, Shape: m.shape, Doc: m.doc,
			Idempotent: m.idempotent, StreamsIn: m.shape == clientStream || m.shape == bidi, StreamsOut: m.shape == serverStream || m.shape == bidi,
			In: m.in.name, Out: m.out.name, InParse: m.in.parse(), OutParse: m.out.parse(),
			Index: i, InIndex: m.in.index, OutIndex: m.out.index,
		})
	}
	return d
}

// checkNames reports declarations of the package that generated ones would
// clash with.
func (u *unit) checkNames(scope *types.Scope) {
	made := map[string]bool{}
	check := func(at token.Pos, names ...string) {
		for _, n := range names {
			if o := scope.Lookup(n); o != nil {
				u.problem(o.Pos(), "%s: generated code needs this name", n)
			} else if made[n] {
				u.problem(at, "%s: generated code would need this name twice", n)
			}
			made[n] = true
		}
	}
	for _, n := range append(importNames(), "cellMessages") {
		check(token.NoPos, n)
	}
	for _, m := range u.messages {
		check(m.pos, m.view(), m.image(), m.table(), m.append(), m.fits())
		if m.root {
			check(m.pos, m.parse())
		}
		if m.leased {
			check(m.pos, m.lease())
		}
		if m.stream {
			check(m.pos, m.leases())
		}
	}
	for _, s := range u.services {
		d := s.data()
		check(s.pos, d.Desc, s.name+"Client", "New"+s.name+"Client", s.name+"Views", "Register"+s.name, "Register"+s.name+"Views")
		for _, m := range d.Methods {
			check(s.pos, m.Serve, m.ServeView)
		}
		s.checkMethods(u)
	}
}

// checkMethods reports methods of which the client would have two.
func (s *service) checkMethods(u *unit) {
	for _, m := range s.methods {
		for _, o := range s.methods {
			if m.name == o.name+"View" && o.shape != clientStream && o.shape != bidi {
				u.problem(m.pos, "method %s.%s: the client has one of this name for %s", s.name, m.name, o.name)
			}
		}
	}
}

// goFile renders a template as a Go file of the unit.
func (u *unit) goFile(from, tmpl, hash string, data any) ([]byte, error) {
	t, err := template.ParseFS(templates, "templates/"+tmpl)
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	if err := t.Execute(&body, data); err != nil {
		return nil, err
	}
	imports, err := u.usedImports(body.String())
	if err != nil {
		return nil, fmt.Errorf("generate %s: %w", tmpl, err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s from %s; DO NOT EDIT.\n%s%s\n\npackage %s\n\nimport (\n", generatedBy, from, inputLine, hash, u.name)
	for i, im := range imports {
		if i > 0 && isStd(imports[i-1].path) && !isStd(im.path) {
			b.WriteByte('\n')
		}
		if im.alias == path.Base(im.path) {
			fmt.Fprintf(&b, "\t%s\n", strconv.Quote(im.path))
		} else {
			fmt.Fprintf(&b, "\t%s %s\n", im.alias, strconv.Quote(im.path))
		}
	}
	b.WriteString(")\n\n")
	b.Write(body.Bytes())
	return format.Source(b.Bytes())
}

// usedImports returns what body refers to, standard packages first.
func (u *unit) usedImports(body string) ([]imported, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+body, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := s.X.(*ast.Ident); ok {
				used[id.Name] = true
			}
		}
		return true
	})
	var list []imported
	for _, i := range append(knownImports(), u.imports...) {
		if used[i.alias] {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b imported) int {
		if s := isStd(a.path); s != isStd(b.path) {
			if s {
				return -1
			}
			return 1
		}
		return strings.Compare(a.path, b.path)
	})
	return list, nil
}

func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
