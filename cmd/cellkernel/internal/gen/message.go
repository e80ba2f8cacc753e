package gen

import (
	"fmt"
	"go/token"
	"go/types"
	"reflect"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

// scalarTypes are the wire types of Go's basic kinds.
var scalarTypes = map[types.BasicKind]flat.Type{
	types.Bool: flat.Bool, types.String: flat.String,
	types.Int8: flat.Int8, types.Int16: flat.Int16, types.Int32: flat.Int32, types.Int64: flat.Int64, types.Int: flat.Int64,
	types.Uint8: flat.Uint8, types.Uint16: flat.Uint16, types.Uint32: flat.Uint32, types.Uint64: flat.Uint64, types.Uint: flat.Uint64,
	types.Float32: flat.Float32, types.Float64: flat.Float64,
}

// rootMessage reads the message behind a pointer in a method. It returns nil
// after reporting what is wrong.
func (u *unit) rootMessage(t types.Type, what string, at token.Pos) *message {
	p, ok := types.Unalias(t).(*types.Pointer)
	if !ok {
		u.problem(at, "%s is %s: want a pointer to a struct of this package", what, u.typeText(t))
		return nil
	}
	m := u.message(p.Elem(), what, at)
	if m != nil {
		m.root = true
	}
	return m
}

// message returns the message for a struct type of this package, reading it
// at first use.
func (u *unit) message(t types.Type, what string, at token.Pos) *message {
	n, ok := types.Unalias(t).(*types.Named)
	if !ok {
		u.problem(at, "%s is %s: want a struct of this package", what, u.typeText(t))
		return nil
	}
	obj := n.Obj()
	st, isStruct := n.Underlying().(*types.Struct)
	switch {
	case obj.Pkg() == nil || obj.Pkg().Path() != u.path:
		u.problem(at, "%s is %s: want a struct of this package: methods can not be added to those of another", what, u.typeText(t))
		return nil
	case !isStruct:
		u.problem(at, "%s is %s: want a struct", what, u.typeText(t))
		return nil
	case n.TypeParams().Len() > 0:
		u.problem(at, "%s is %s: type parameters are not supported", what, u.typeText(t))
		return nil
	case obj.Parent() != obj.Pkg().Scope():
		u.problem(at, "%s is %s: want a type declared at package level", what, u.typeText(t))
		return nil
	}
	for _, m := range u.messages {
		if m.name == obj.Name() {
			return m
		}
	}
	m := &message{name: obj.Name(), index: len(u.messages), pos: obj.Pos(), size: int(types.SizesFor("gc", "amd64").Sizeof(st))}
	u.messages = append(u.messages, m)
	u.checkMessage(n)
	for i := range st.NumFields() {
		if f := u.field(m, st.Field(i), reflect.StructTag(st.Tag(i))); f != nil {
			m.fields = append(m.fields, f)
		}
	}
	return m
}

// checkMessage reports names and methods that would clash.
func (u *unit) checkMessage(n *types.Named) {
	obj := n.Obj()
	if !ascii(obj.Name()) || slices.ContainsFunc(layoutWords(), func(w string) bool { return w == obj.Name() }) {
		u.problem(obj.Pos(), "message %s: the name can not be used in a .fbs file", obj.Name())
	}
	if slices.Contains(localNames(), obj.Name()) {
		u.problem(obj.Pos(), "message %s: generated code has variables of this name", obj.Name())
	}
	for i := range n.NumMethods() {
		if m := n.Method(i); m.Name() == "AppendFlat" || m.Name() == "ParseFlat" {
			u.problem(m.Pos(), "method %s of message %s: the generator writes it", m.Name(), obj.Name())
		}
	}
}

// field reads one struct field, nil if it does not travel.
func (u *unit) field(m *message, v *types.Var, tag reflect.StructTag) *field {
	what := fmt.Sprintf("field %s of %s", v.Name(), m.name)
	switch {
	case v.Name() == "_" || tag.Get("cell") == "-":
		return nil
	case v.Embedded():
		u.problem(v.Pos(), "%s is embedded: give it a name, or tag it `cell:\"-\"`", what)
		return nil
	case !v.Exported():
		u.problem(v.Pos(), "%s is not exported and would not travel: export it, or tag it `cell:\"-\"`", what)
		return nil
	case v.Name() == "Unpack":
		u.problem(v.Pos(), "%s: views have a method of this name", what)
		return nil
	}
	f := &field{name: v.Name(), wire: wireName(v.Name(), tag), pos: v.Pos()}
	if !ascii(f.wire) {
		u.problem(v.Pos(), "%s: the name %q can not be used in a .fbs file: give it a json tag in ASCII", what, f.wire)
		return nil
	}
	for _, o := range m.fields {
		if o.wire == f.wire {
			u.problem(v.Pos(), "%s: field %s is called %q in the layout, too", what, o.name, f.wire)
			return nil
		}
	}
	if !u.fieldType(f, v.Type(), what) {
		return nil
	}
	return f
}

// fieldType sets the types of f.
func (u *unit) fieldType(f *field, t types.Type, what string) bool {
	if s, ok := t.Underlying().(*types.Slice); ok {
		f.vector = true
		e := s.Elem()
		if isNamed(e, "time", "Time") || isNamedString(e) {
			u.problem(f.pos, "%s is %s: slices of this type are not supported", what, u.typeText(t))
			return false
		}
		return u.valueType(f, e, t, what)
	}
	return u.valueType(f, t, t, what)
}

// valueType sets the types of f, whose values or elements are of type t and
// which is declared as whole.
func (u *unit) valueType(f *field, t, whole types.Type, what string) bool {
	f.goType = u.typeText(t)
	switch x := t.Underlying().(type) {
	case *types.Basic:
		wire, ok := scalarTypes[x.Kind()]
		if !ok && x.Kind() == types.Invalid {
			u.problem(f.pos, "%s: its type does not resolve", what)
			return false
		}
		if !ok {
			break
		}
		_, basic := types.Unalias(t).(*types.Basic)
		f.typ, f.named, f.wide = wire, !basic, x.Kind() == types.Int || x.Kind() == types.Uint
		return true
	case *types.Struct:
		if isNamed(t, "time", "Time") {
			f.typ, f.time = flat.Int64, true
			return true
		}
		f.typ = flat.Sub
		f.sub = u.message(t, what, f.pos)
		return f.sub != nil
	case *types.Pointer:
		if _, ok := x.Elem().Underlying().(*types.Struct); !ok || isNamed(x.Elem(), "time", "Time") {
			break
		}
		f.typ, f.ptr, f.goType = flat.Sub, true, u.typeText(x.Elem())
		f.sub = u.message(x.Elem(), what, f.pos)
		return f.sub != nil
	}
	u.problem(f.pos, "%s is %s: not supported: want a bool, number, string, time.Time, struct of this package, pointer to one, or a slice of these", what, u.typeText(whole))
	return false
}

// typeText writes t as generated code does and notes the imports it needs.
func (u *unit) typeText(t types.Type) string {
	return types.TypeString(t, func(p *types.Package) string {
		if p.Path() == u.path {
			return ""
		}
		return u.importName(p)
	})
}

// importName returns the name under which generated code imports p.
func (u *unit) importName(p *types.Package) string {
	alias := p.Name()
	taken := append(knownImports(), u.imports...)
	for _, i := range taken {
		if i.path == p.Path() {
			return i.alias
		}
	}
	for slices.ContainsFunc(taken, func(i imported) bool { return i.alias == alias }) {
		alias += "x"
	}
	u.imports = append(u.imports, imported{alias, p.Path()})
	return alias
}

// wireName is the field's name in layouts: that of its json tag if there is
// one, else the Go name in snake case.
func wireName(name string, tag reflect.StructTag) string {
	text := tag.Get("json")
	for i := range len(text) {
		if text[i] == ',' {
			text = text[:i]
			break
		}
	}
	if text != "" && text != "-" && ascii(text) {
		return text
	}
	return snake(name)
}

// ascii reports whether s is an identifier of Go and FlatBuffers.
func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return token.IsIdentifier(s) || token.IsKeyword(s)
}

func isNamedString(t types.Type) bool {
	n, ok := types.Unalias(t).(*types.Named)
	if !ok {
		return false
	}
	b, ok := n.Underlying().(*types.Basic)
	return ok && b.Info()&types.IsString != 0
}

// localNames are the variables of generated functions, which would hide a
// type of the same name.
func localNames() []string {
	return strings.Fields("at b base c client ctx depth e err i impl in into l lease m ok out pool s stream t v vesicle view")
}

// layoutWords are the names of types in layouts and .fbs files.
func layoutWords() []string {
	words := []string{"table"}
	for t := flat.Bool; t < flat.Sub; t++ {
		words = append(words, t.String())
	}
	return words
}
