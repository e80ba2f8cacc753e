package gen

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

// The Go code around one field. Encoders know at, where the image of the
// table began, and t, the image; entry and value are relative to at.

// isScalar reports whether the value itself is in the table.
func (f *field) isScalar() bool { return !f.vector && f.typ < flat.String }

// declared returns the type of the field as its declaration has it.
func (f *field) declared() string {
	text := f.goType
	if f.ptr {
		text = "*" + text
	}
	if f.vector {
		text = "[]" + text
	}
	return text
}

// isBytes reports whether the field is a vector of plain bytes.
func (f *field) isBytes() bool { return f.vector && f.typ == flat.Uint8 && !f.named }

// put returns the code that stores a scalar.
func (f *field) put(value int) string {
	from := "m." + f.name
	switch f.typ {
	case flat.Bool:
		return fmt.Sprintf("if %s {\nt[%d] = 1\n}", from, value)
	case flat.Int8, flat.Uint8:
		return fmt.Sprintf("t[%d] = %s", value, f.as("byte", from, "byte", "uint8"))
	case flat.Float32:
		return fmt.Sprintf("binary.LittleEndian.PutUint32(t[%d:], math.Float32bits(%s))", value, f.as("float32", from))
	case flat.Float64:
		return fmt.Sprintf("binary.LittleEndian.PutUint64(t[%d:], math.Float64bits(%s))", value, f.as("float64", from))
	}
	if f.time {
		from = "flat.FromTime(" + from + ")"
	}
	bits := 8 * f.typ.Width()
	return fmt.Sprintf("binary.LittleEndian.PutUint%d(t[%d:], %s)", bits, value, f.as(fmt.Sprintf("uint%d", bits), from))
}

// as converts the expression to typ, unless the field has that type or one
// of the others already.
func (f *field) as(typ, expr string, same ...string) string {
	if !f.time && !f.named && (f.goType == typ || slices.Contains(same, f.goType)) {
		return expr
	}
	return typ + "(" + expr + ")"
}

// appendCode returns the code that appends what a field refers to.
func (f *field) appendCode(entry, value int) string {
	from := "m." + f.name
	call := func(name, from string) string {
		return fmt.Sprintf("b = flat.%s(b, at+%d, at+%d, %s)", name, entry, value, from)
	}
	switch {
	case f.sub != nil:
		return f.appendSub(entry, value)
	case !f.vector:
		return call("AppendString", f.as("string", from))
	case f.isBytes():
		return call("AppendBytes", from)
	case f.typ == flat.String:
		return call("AppendStrings", from)
	case f.wide:
		return call("AppendInts", from)
	}
	return call("AppendScalars", from)
}

func (f *field) appendSub(entry, value int) string {
	from, s := "m."+f.name, f.sub
	refer := func(field, from string) string {
		return fmt.Sprintf("b = flat.Refer(b, %s, %s)\nb = %s(b, %s)\n", field, s.table(), s.append(), from)
	}
	one := fmt.Sprintf("at+%d", value)
	if !f.vector && !f.ptr {
		return refer(one, "&"+from)
	}
	if !f.vector {
		return fmt.Sprintf("if %s == nil {\nflat.Absent(b, at+%d)\n} else {\n%s}", from, entry, refer(one, from))
	}
	first := lower(f.name) + "At"
	code := fmt.Sprintf("b, %s := flat.AppendVector(b, at+%d, at+%d, len(%s))\n", first, entry, value, from)
	if !f.ptr {
		return code + fmt.Sprintf("for i := range %s {\n%s}", from, refer(first+"+4*i", "&"+from+"[i]"))
	}
	return code + fmt.Sprintf("for i, e := range %s {\nif e == nil {\ne = new(%s)\n}\n%s}", from, s.name, refer(first+"+4*i", "e"))
}

// An accessor is a method of a view.
type accessor struct{ Name, Doc, Results, Body string }

const aliases = " It aliases the message."

// accessor returns the method of the view that reads the field in a slot.
func (f *field) accessor(n int) accessor {
	a := accessor{Name: f.name, Doc: "returns the field " + f.wire + "."}
	t := "flat.Table(v)"
	switch {
	case f.sub != nil && f.vector:
		a.Results = "flat.Tables[" + f.sub.view() + "]"
		a.Body = fmt.Sprintf("return flat.TablesOf[%s](%s, %d)", f.sub.view(), t, n)
	case f.sub != nil && f.ptr:
		a.Doc = "returns the field " + f.wire + " and whether it is present."
		a.Results = "(" + f.sub.view() + ", bool)"
		a.Body = fmt.Sprintf("t, ok := %s.Table(%d)\nreturn %s(t), ok", t, n, f.sub.view())
	case f.sub != nil:
		a.Results = f.sub.view()
		a.Body = fmt.Sprintf("t, _ := %s.Table(%d)\nreturn %s(t)", t, n, f.sub.view())
	case f.vector:
		f.vectorAccessor(&a, t, n)
	default:
		f.scalarAccessor(&a, t, n)
	}
	return a
}

func (f *field) vectorAccessor(a *accessor, t string, n int) {
	of := func(name string) {
		a.Results = "flat." + name + "[" + f.goType + "]"
		a.Body = fmt.Sprintf("return flat.%sOf[%s](%s, %d)", name, f.goType, t, n)
	}
	switch {
	case f.isBytes():
		a.Doc += aliases
		a.Results, a.Body = "[]byte", fmt.Sprintf("return %s.Bytes(%d)", t, n)
	case f.typ == flat.String:
		a.Doc += " Its elements alias the message."
		a.Results, a.Body = "flat.Strings", fmt.Sprintf("return flat.StringsOf(%s, %d)", t, n)
	case f.typ == flat.Bool:
		of("Bools")
	case f.wide:
		of("Ints")
	default:
		of("Scalars")
	}
}

// getters are the methods of flat.Table, and what they return.
var getters = [...]struct{ method, result string }{
	flat.Bool: {"Bool", "bool"}, flat.Int8: {"Int8", "int8"}, flat.Uint8: {"Uint8", "uint8"}, flat.Int16: {"Int16", "int16"},
	flat.Uint16: {"Uint16", "uint16"}, flat.Int32: {"Int32", "int32"}, flat.Uint32: {"Uint32", "uint32"}, flat.Int64: {"Int64", "int64"},
	flat.Uint64: {"Uint64", "uint64"}, flat.Float32: {"Float32", "float32"}, flat.Float64: {"Float64", "float64"}, flat.String: {"String", "string"},
}

func (f *field) scalarAccessor(a *accessor, t string, n int) {
	if f.typ == flat.String {
		a.Doc += aliases
	}
	g := getters[f.typ]
	get := fmt.Sprintf("%s.%s(%d)", t, g.method, n)
	switch {
	case f.time:
		get = "flat.ToTime(" + get + ")"
	case f.named || f.wide:
		get = f.goType + "(" + get + ")"
	}
	a.Results, a.Body = f.goType, "return "+get
}

// unpack returns the code that copies the field of v to into.
func (f *field) unpack() string {
	to, from := "into."+f.name, "v."+f.name+"()"
	switch {
	case f.sub != nil:
		return f.unpackSub(to, from)
	case f.isBytes():
		return fmt.Sprintf("%s = flat.CopyBytes(%s, %s)", to, to, from)
	case f.vector:
		return fmt.Sprintf("%s = %s.Unpack(%s)", to, from, to)
	case f.typ == flat.String && f.named:
		return fmt.Sprintf("%s = %s(flat.CopyString(string(%s), string(%s)))", to, f.goType, to, from)
	case f.typ == flat.String:
		return fmt.Sprintf("%s = flat.CopyString(%s, %s)", to, to, from)
	}
	return to + " = " + from
}

func (f *field) unpackSub(to, from string) string {
	local := lower(f.name) + "View"
	switch {
	case f.vector:
		code := fmt.Sprintf("%s := %s\n%s = flat.Resize(%s, %s.Len())\nfor i := range %s {\n", local, from, to, to, local, to)
		if f.ptr {
			return code + fmt.Sprintf("if %s[i] == nil {\n%s[i] = new(%s)\n}\n%s.At(i).Unpack(%s[i])\n}", to, to, f.sub.name, local, to)
		}
		return code + fmt.Sprintf("%s.At(i).Unpack(&%s[i])\n}", local, to)
	case f.ptr:
		return fmt.Sprintf("if e, ok := %s; !ok {\n%s = nil\n} else {\nif %s == nil {\n%s = new(%s)\n}\ne.Unpack(%s)\n}", from, to, to, to, f.sub.name, to)
	}
	return fmt.Sprintf("%s.Unpack(&%s)", from, to)
}

// fits returns the code that checks the depth of what the field refers to.
func (f *field) fits() string {
	from, s := "m."+f.name, f.sub
	no := func(cond string) string { return "if " + cond + " {\nreturn false\n}" }
	check := func(e string) string { return fmt.Sprintf("!%s(%s, depth-1)", s.fits(), e) }
	switch {
	case f.vector && f.ptr:
		return fmt.Sprintf("for _, e := range %s {\n%s\n}", from, no("e != nil && "+check("e")))
	case f.vector:
		return fmt.Sprintf("for i := range %s {\n%s\n}", from, no(check("&"+from+"[i]")))
	case f.ptr:
		return no(from + " != nil && " + check(from))
	}
	return no(check("&" + from))
}

// encode returns the lines of the encoder of m.
func (m *message) encode() []string {
	img := layOut(m)
	var scalars, refs []string
	for i, s := range m.slots {
		switch {
		case s.field == nil:
		case s.field.isScalar():
			scalars = append(scalars, s.field.put(img.fields[i]))
		default:
			refs = append(refs, strings.TrimSpace(s.field.appendCode(4+2*i, img.fields[i])))
		}
	}
	if len(scalars)+len(refs) == 0 {
		return []string{"return append(b, " + m.image() + "...)"}
	}
	lines := []string{"at := len(b)", "b = append(b, " + m.image() + "...)"}
	if len(scalars) > 0 {
		lines = append(lines, "t := b[at : at+len("+m.image()+")]")
	}
	lines = append(append(lines, scalars...), refs...)
	return append(lines, "return b")
}
