package gen

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

// Import paths that generated code and declarations know.
const (
	cellPath = "github.com/cellkernel/cellkernel/sdk/cell"
	flatPath = "github.com/cellkernel/cellkernel/sdk/flat"
)

// load type-checks the packages that match patterns. Dependencies come from
// export data. Files written by this generator count as empty: declarations
// are read as if nothing had been generated yet.
func load(ctx context.Context, dir string, patterns []string) ([]*packages.Package, error) {
	pkgs, err := packages.Load(&packages.Config{
		Context: ctx,
		Dir:     dir,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedSyntax | packages.NeedTypes |
			packages.NeedTypesInfo | packages.NeedImports | packages.NeedExportFile,
		ParseFile: func(fset *token.FileSet, name string, src []byte) (*ast.File, error) {
			if isGenerated(src) {
				return parser.ParseFile(fset, name, src, parser.PackageClauseOnly)
			}
			return parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
		},
	}, patterns...)
	if err != nil {
		return nil, fmt.Errorf("load packages: %w", err)
	}
	return pkgs, nil
}

// read finds the services of a package. It returns nil if there are none.
func read(p *packages.Package) *unit {
	u := &unit{name: p.Name, path: p.PkgPath, fset: p.Fset}
	for _, f := range p.Syntax {
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				u.readTypes(p, g)
			}
		}
	}
	if len(u.services) == 0 && len(u.problems.list) == 0 {
		return nil
	}
	if len(p.GoFiles) > 0 {
		u.dir = filepath.Dir(p.GoFiles[0])
	}
	u.syntaxErrors(p)
	u.checkNames(p.Types.Scope())
	return u
}

// syntaxErrors reports files that do not parse. Errors of types are no
// problem as such: what uses generated code can not be right before it exists.
func (u *unit) syntaxErrors(p *packages.Package) {
	for _, e := range p.Errors {
		if e.Kind != packages.ParseError {
			continue
		}
		at := token.Position{Filename: e.Pos}
		if parts := strings.SplitN(e.Pos, ":", 3); len(parts) == 3 {
			at.Filename = parts[0]
			fmt.Sscanf(parts[1]+" "+parts[2], "%d %d", &at.Line, &at.Column)
		}
		u.problems.add(at, "%s", e.Msg)
	}
}

func (u *unit) readTypes(p *packages.Package, g *ast.GenDecl) {
	for _, s := range g.Specs {
		t := s.(*ast.TypeSpec)
		doc := t.Doc
		if doc == nil && len(g.Specs) == 1 {
			doc = g.Doc
		}
		for _, w := range u.directives(doc, "service") {
			if w == "service" {
				u.readService(p, t, doc)
			}
		}
	}
}

// directives returns the words of the //cell: comments of a declaration, of
// which only those in known are right.
func (u *unit) directives(doc *ast.CommentGroup, known ...string) []string {
	if doc == nil {
		return nil
	}
	var words []string
	for _, c := range doc.List {
		text, spaced := strings.CutPrefix(c.Text, "// cell:")
		if !spaced {
			var ok bool
			if text, ok = strings.CutPrefix(c.Text, "//cell:"); !ok {
				continue
			}
		}
		word := strings.TrimSpace(text)
		right := false
		for _, k := range known {
			right = right || k == word
		}
		switch {
		case spaced && right:
			u.problem(c.Pos(), "directive %q: write //cell:%s, without a space", c.Text, word)
		case spaced: // a sentence
		case !right:
			u.problem(c.Pos(), "directive %q: want //cell:%s here", c.Text, strings.Join(known, " or //cell:"))
		default:
			words = append(words, word)
		}
	}
	return words
}

// readService reads a marked interface. Methods keep their order in the source.
func (u *unit) readService(p *packages.Package, t *ast.TypeSpec, doc *ast.CommentGroup) {
	it, ok := t.Type.(*ast.InterfaceType)
	switch {
	case !ok || t.Assign.IsValid():
		u.problem(t.Pos(), "service %s: want an interface", t.Name.Name)
		return
	case t.TypeParams != nil:
		u.problem(t.Pos(), "service %s: type parameters are not supported", t.Name.Name)
		return
	case !t.Name.IsExported():
		u.problem(t.Pos(), "service %s: want an exported name", t.Name.Name)
		return
	case len(it.Methods.List) == 0:
		u.problem(t.Pos(), "service %s: it has no methods", t.Name.Name)
		return
	}
	s := &service{name: t.Name.Name, doc: docLines(doc), pos: t.Pos()}
	for _, f := range it.Methods.List {
		if len(f.Names) == 0 {
			u.problem(f.Pos(), "service %s: embedded interfaces are not supported: list their methods", s.name)
			continue
		}
		if m := u.readMethod(p, s, f); m != nil {
			s.methods = append(s.methods, m)
		}
	}
	u.services = append(u.services, s)
}

func (u *unit) readMethod(p *packages.Package, s *service, f *ast.Field) *method {
	name := f.Names[0]
	fn, ok := p.TypesInfo.Defs[name].(*types.Func)
	if !ok {
		u.problem(f.Pos(), "method %s.%s: the declaration has errors", s.name, name.Name)
		return nil
	}
	if !name.IsExported() {
		u.problem(f.Pos(), "method %s.%s: want an exported name", s.name, name.Name)
		return nil
	}
	m := &method{name: name.Name, doc: docLines(f.Doc), pos: f.Pos(), param: "in"}
	m.idempotent = len(u.directives(f.Doc, "idempotent")) > 0
	if !u.readSignature(p, s, m, fn.Type().(*types.Signature)) {
		return nil
	}
	return m
}

const wantSignature = `method %s.%s: want one of
	%[2]s(ctx context.Context, in *In) (*Out, error)
	%[2]s(ctx context.Context, in *In, out cell.Sender[Out]) error
	%[2]s(ctx context.Context, in cell.Receiver[In]) (*Out, error)
	%[2]s(ctx context.Context, in cell.Receiver[In], out cell.Sender[Out]) error`

// readSignature sets shape and messages of m.
func (u *unit) readSignature(p *packages.Package, s *service, m *method, sig *types.Signature) bool {
	in, out := sig.Params(), sig.Results()
	bad := func() bool {
		u.problem(m.pos, wantSignature, s.name, m.name)
		return false
	}
	if sig.Variadic() || in.Len() < 2 || in.Len() > 3 || !isNamed(in.At(0).Type(), "context", "Context") {
		return bad()
	}
	if out.Len() == 0 || !types.Identical(out.At(out.Len()-1).Type(), types.Universe.Lookup("error").Type()) {
		return bad()
	}
	received, streamsIn := streamed(in.At(1).Type(), "Receiver")
	request, replied := received, types.Type(nil)
	if !streamsIn {
		request = in.At(1).Type()
	}
	streamsOut := in.Len() == 3
	switch {
	case streamsOut && out.Len() == 1:
		var ok bool
		if replied, ok = streamed(in.At(2).Type(), "Sender"); !ok {
			return bad()
		}
	case !streamsOut && out.Len() == 2:
		replied = out.At(0).Type()
	default:
		return bad()
	}
	switch {
	case streamsIn && streamsOut:
		m.shape = bidi
	case streamsIn:
		m.shape = clientStream
	case streamsOut:
		m.shape = serverStream
	default:
		m.shape = unary
	}
	u.nameParam(p, m, in.At(1).Name())
	what := fmt.Sprintf("method %s.%s", s.name, m.name)
	m.in = u.rootMessage(request, what+": request", m.pos)
	m.out = u.rootMessage(replied, what+": reply", m.pos)
	if m.in == nil || m.out == nil {
		return false
	}
	u.markReceived(m)
	return true
}

// markReceived notes which generated types the messages of m need.
func (u *unit) markReceived(m *method) {
	m.out.leased = m.out.leased || m.shape == unary || m.shape == clientStream || m.shape == serverStream
	m.out.stream = m.out.stream || m.shape == serverStream
	streamsIn := m.shape == clientStream || m.shape == bidi
	m.in.leased = m.in.leased || streamsIn
	m.in.stream = m.in.stream || streamsIn
}

// nameParam keeps the author's name of the request unless generated code
// needs that name for something else.
func (u *unit) nameParam(p *packages.Package, m *method, name string) {
	switch name {
	case "", "_", "c", "s", "v", "ctx", "err", "out", "lease", "view", "cell", "context", "flat", "sdk", "sync":
		return
	}
	if p.Types.Scope().Lookup(name) == nil && types.Universe.Lookup(name) == nil {
		m.param = name
	}
}

// streamed returns T if t is cell.Sender[T] or cell.Receiver[T], as a pointer.
func streamed(t types.Type, name string) (types.Type, bool) {
	n, ok := types.Unalias(t).(*types.Named)
	if !ok || !isNamed(t, cellPath, name) || n.TypeArgs().Len() != 1 {
		return nil, false
	}
	return types.NewPointer(n.TypeArgs().At(0)), true
}

// isNamed reports whether t is the type name of the package at path.
func isNamed(t types.Type, path, name string) bool {
	n, ok := types.Unalias(t).(*types.Named)
	return ok && n.Obj().Name() == name && n.Obj().Pkg() != nil && n.Obj().Pkg().Path() == path
}

// docLines returns the comment of a declaration without directives.
func docLines(doc *ast.CommentGroup) []string {
	text := strings.TrimSpace(doc.Text())
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// isGenerated reports whether src was written by this generator.
func isGenerated(src []byte) bool {
	return bytes.HasPrefix(src, []byte(generatedBy))
}
