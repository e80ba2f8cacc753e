package flat

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Bounds of what a message may unpack to: maxExpansion times its length and
// freeExpansion bytes. Our own encoder stays below 8 times.
const (
	maxExpansion  = 16
	freeExpansion = 4 << 10
	tableCost     = 16 // bytes charged for a table besides the size of its struct
)

// Verify checks that b is one finished buffer whose root is the given record
// of s and returns the root table. All that can be reached through accessors
// is then inside b: tables nest at most [MaxDepth] deep, vectors end before b
// does, strings are UTF-8 and terminated. Fields the schema does not have are
// not looked at. The error is a [*VerifyError].
func Verify(b []byte, s Schema, root int) (Table, error) {
	v := verifier{buf: b, schema: s, left: int64(len(b))*maxExpansion + freeExpansion}
	r := &s[root]
	if len(b) < 8 || len(b) > MaxBuffer {
		return Table{}, &VerifyError{r.Name, 0, fmt.Sprintf("a buffer of %d bytes", len(b))}
	}
	at, bad := v.follow(0)
	if bad == nil {
		bad = v.table(at, r, 1)
	}
	if bad != nil {
		if bad.Field == "" {
			bad.Field = r.Name
		}
		return Table{}, bad
	}
	return tableAt(b, at), nil
}

// A verifier walks one buffer. Every visit costs some of left, also of what
// was visited before: shared offsets can not multiply work or memory.
type verifier struct {
	buf    []byte
	schema Schema
	left   int64
}

// fault makes the error; whoever knows the field adds its name.
func fault(at uint32, text string) *VerifyError { return &VerifyError{Offset: int(at), Text: text} }

func (v *verifier) charge(at uint32, n int) *VerifyError {
	if int64(n) > v.left {
		return fault(at, "the message unpacks to too much")
	}
	v.left -= int64(n)
	return nil
}

// room returns how many bytes there are from at, which is inside the buffer.
func (v *verifier) room(at uint32) uint32 { return uint32(len(v.buf)) - at }

// follow returns the target of the offset at at, whose 4 bytes are inside.
// The target has room for 4 bytes, too.
func (v *verifier) follow(at uint32) (uint32, *VerifyError) {
	o := binary.LittleEndian.Uint32(v.buf[at:])
	if o < 4 || o > v.room(at)-4 {
		return 0, fault(at, "an offset points outside")
	}
	return at + o, nil
}

// table checks the table at at, whose first 4 bytes are inside.
func (v *verifier) table(at uint32, r *Record, depth int) *VerifyError {
	if depth > MaxDepth {
		return fault(at, "tables are nested too deeply")
	}
	if bad := v.charge(at, r.Size+tableCost); bad != nil {
		return bad
	}
	vt, size, bad := v.vtable(at)
	if bad != nil {
		return bad
	}
	for i := range r.Fields {
		if 2*i+2 > len(vt) {
			break
		}
		o := uint32(binary.LittleEndian.Uint16(vt[2*i:]))
		f := &r.Fields[i]
		if o == 0 || f.Deprecated {
			continue
		}
		// Most fields are scalars: they cost no call.
		width := uint32(4)
		if !f.Vector {
			width = uint32(f.Type.Width())
		}
		if o < 4 || o+width > size {
			bad = fault(at, "a field is outside of its table")
		} else if f.Vector || f.Type >= String {
			bad = v.refers(at+o, f, depth)
		}
		if bad != nil {
			if bad.Field == "" {
				bad.Field = r.Name + "." + f.Name
			}
			return bad
		}
	}
	return nil
}

// vtable returns the entries of the vtable of the table at at, and the
// table's size, all of which is inside.
func (v *verifier) vtable(at uint32) (entries []byte, size uint32, bad *VerifyError) {
	// The offset is signed and subtracted; both ends are below 2³¹.
	vt := int64(at) - int64(int32(binary.LittleEndian.Uint32(v.buf[at:])))
	if vt < 0 || vt > int64(len(v.buf)-4) {
		return nil, 0, fault(at, "the vtable is outside")
	}
	n := uint32(binary.LittleEndian.Uint16(v.buf[vt:]))
	size = uint32(binary.LittleEndian.Uint16(v.buf[vt+2:]))
	if n < 4 || n%2 != 0 || n > v.room(uint32(vt)) {
		return nil, 0, fault(uint32(vt), "the vtable's length is wrong")
	}
	if size < 4 || size > v.room(at) {
		return nil, 0, fault(uint32(vt), "the table's length is wrong")
	}
	return v.buf[uint32(vt)+4 : uint32(vt)+n], size, nil
}

// refers checks what the offset at at, the value of f, refers to.
func (v *verifier) refers(at uint32, f *Field, depth int) *VerifyError {
	to, bad := v.follow(at)
	switch {
	case bad != nil:
		return bad
	case f.Vector:
		return v.vector(to, f, depth)
	case f.Type == String:
		return v.str(to)
	}
	return v.table(to, &v.schema[f.Sub], depth+1)
}

// vector checks the vector at at and its elements.
func (v *verifier) vector(at uint32, f *Field, depth int) *VerifyError {
	n, width := binary.LittleEndian.Uint32(v.buf[at:]), uint32(f.Type.Width())
	if uint64(n)*uint64(width) > uint64(v.room(at)-4) {
		return fault(at, "a vector ends outside")
	}
	if bad := v.charge(at, int(n*width)); bad != nil || f.Type < String {
		return bad
	}
	for p := at + 4; n > 0; n, p = n-1, p+4 {
		to, bad := v.follow(p)
		switch {
		case bad != nil:
		case f.Type == String:
			if bad = v.charge(p, tableCost); bad == nil {
				bad = v.str(to)
			}
		default:
			bad = v.table(to, &v.schema[f.Sub], depth+1)
		}
		if bad != nil {
			return bad
		}
	}
	return nil
}

// str checks the string at at.
func (v *verifier) str(at uint32) *VerifyError {
	n := binary.LittleEndian.Uint32(v.buf[at:])
	if n >= v.room(at)-4 {
		return fault(at, "a string ends outside")
	}
	s := v.buf[at+4 : at+4+n]
	switch {
	case v.buf[at+4+n] != 0:
		return fault(at, "a string is not terminated")
	case !utf8.Valid(s):
		return fault(at, "a string is not UTF-8")
	}
	return v.charge(at, int(n))
}
