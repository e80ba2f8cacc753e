package flat_test

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

// schema has a field of every kind of access.
var schema = flat.Schema{
	{Name: "Root", Size: 200, Fields: []flat.Field{
		{Name: "u64", Type: flat.Uint64},
		{Name: "bool", Type: flat.Bool},
		{Name: "name", Type: flat.String},
		{Name: "data", Type: flat.Uint8, Vector: true},
		{Name: "gone", Type: flat.String, Deprecated: true},
		{Name: "shorts", Type: flat.Int16, Vector: true},
		{Name: "longs", Type: flat.Int64, Vector: true},
		{Name: "bools", Type: flat.Bool, Vector: true},
		{Name: "tags", Type: flat.String, Vector: true},
		{Name: "next", Type: flat.Sub, Sub: 0},
		{Name: "kids", Type: flat.Sub, Vector: true, Sub: 1},
		{Name: "f32", Type: flat.Float32},
		{Name: "f64", Type: flat.Float64},
	}},
	{Name: "Kid", Size: 24, Fields: []flat.Field{
		{Name: "n", Type: flat.Int8},
		{Name: "up", Type: flat.Sub, Sub: 0},
	}},
}

// walk reads all that can be reached from a table, as a copy would, and
// returns how many bytes that is.
func walk(s flat.Schema, record int, t flat.Table) int {
	n := s[record].Size
	for i := range s[record].Fields {
		f := &s[record].Fields[i]
		switch {
		case f.Deprecated:
		case f.Vector && f.Type == flat.Sub:
			for _, e := range flat.TablesOf[view](t, i).All() {
				n += walk(s, f.Sub, flat.Table(e))
			}
		case f.Vector && f.Type == flat.String:
			for _, e := range flat.StringsOf(t, i).All() {
				n += 16 + len(strings.Clone(e))
			}
		case f.Vector && f.Type == flat.Bool:
			n += len(flat.BoolsOf[bool](t, i).Unpack(nil))
		case f.Vector && f.Type == flat.Int16:
			n += 2 * len(flat.ScalarsOf[int16](t, i).Unpack(nil))
		case f.Vector && f.Type == flat.Int64:
			n += 8 * len(flat.IntsOf[int](t, i).Unpack(nil))
		case f.Vector:
			n += len(flat.CopyBytes(nil, t.Bytes(i)))
		case f.Type == flat.String:
			n += len(strings.Clone(t.String(i)))
		case f.Type == flat.Sub:
			if e, ok := t.Table(i); ok {
				n += walk(s, f.Sub, e)
			}
		default:
			readScalar(f, t, i)
		}
	}
	return n
}

type view flat.Table

func readScalar(f *flat.Field, t flat.Table, i int) {
	switch f.Type {
	case flat.Bool:
		t.Bool(i)
	case flat.Int8:
		t.Int8(i)
	case flat.Uint64:
		t.Uint64(i)
	case flat.Float32:
		t.Float32(i)
	case flat.Float64:
		t.Float64(i)
	}
}

// sample is a Root made by the official builder, which shares strings and
// vtables and leaves defaults out.
func sample() []byte {
	b := flatbuffers.NewBuilder(256)
	name, tag := b.CreateSharedString("a name"), b.CreateSharedString("a name")
	offsets := func(list ...flatbuffers.UOffsetT) flatbuffers.UOffsetT {
		b.StartVector(4, len(list), 4)
		for i := len(list) - 1; i >= 0; i-- {
			b.PrependUOffsetT(list[i])
		}
		return b.EndVector(len(list))
	}
	kid := func(n int8) flatbuffers.UOffsetT {
		b.StartObject(2)
		b.PrependInt8Slot(0, n, 0)
		return b.EndObject()
	}
	b.StartVector(8, 2, 8)
	b.PrependInt64(-1)
	b.PrependInt64(2)
	longs := b.EndVector(2)
	b.StartVector(2, 3, 2)
	for range 3 {
		b.PrependInt16(math.MinInt16)
	}
	shorts := b.EndVector(3)
	tags, kids, data := offsets(name, tag, tag), offsets(kid(1), kid(-2), kid(0)), b.CreateByteVector([]byte{0, 1, 2})
	b.StartObject(13)
	b.PrependBoolSlot(1, true, false)
	next := b.EndObject()
	b.StartObject(13)
	b.PrependUint64Slot(0, 7, 0)
	b.PrependUOffsetTSlot(2, name, 0)
	b.PrependUOffsetTSlot(3, data, 0)
	b.PrependUOffsetTSlot(5, shorts, 0)
	b.PrependUOffsetTSlot(6, longs, 0)
	b.PrependUOffsetTSlot(7, data, 0)
	b.PrependUOffsetTSlot(8, tags, 0)
	b.PrependUOffsetTSlot(9, next, 0)
	b.PrependUOffsetTSlot(10, kids, 0)
	b.PrependFloat64Slot(12, math.Inf(1), 0)
	b.Finish(b.EndObject())
	return b.FinishedBytes()
}

func TestReadOfficial(t *testing.T) {
	root, err := flat.Verify(sample(), schema, 0)
	if err != nil {
		t.Fatal(err)
	}
	next, ok := root.Table(9)
	if root.Uint64(0) != 7 || root.Bool(1) || root.String(2) != "a name" || string(root.Bytes(3)) != "\x00\x01\x02" ||
		root.Float32(11) != 0 || !math.IsInf(root.Float64(12), 1) || !ok || !next.Bool(1) {
		t.Error("a field of the root is wrong")
	}
	if s := flat.ScalarsOf[int16](root, 5); s.Len() != 3 || s.At(2) != math.MinInt16 {
		t.Errorf("shorts: %v", s.Unpack(nil))
	}
	if s := flat.IntsOf[int](root, 6); s.Len() != 2 || s.At(0) != 2 || s.At(1) != -1 {
		t.Errorf("longs: %v", s.Unpack(nil))
	}
	if s := flat.BoolsOf[bool](root, 7).Unpack(nil); len(s) != 3 || s[0] || !s[1] || !s[2] {
		t.Errorf("bools: %v: every byte but 0 is true", s)
	}
	if s := flat.StringsOf(root, 8); s.Len() != 3 || s.At(2) != "a name" {
		t.Errorf("tags: %v", s.Unpack(nil))
	}
	kids := flat.TablesOf[view](root, 10)
	if kids.Len() != 3 || flat.Table(kids.At(1)).Int8(0) != -2 {
		t.Error("kids are wrong")
	}
	if _, ok := next.Table(9); ok || next.String(2) != "" || next.Bytes(3) != nil || flat.TablesOf[view](next, 10).Len() != 0 {
		t.Error("absent fields are not empty")
	}
}

func TestZeroTable(t *testing.T) {
	if n := walk(schema, 0, flat.Table{}); n != schema[0].Size {
		t.Errorf("the zero table reads as %d bytes, want the record alone", n)
	}
}

// A Root of 6 slots, by hand: root offset, vtable, table, then a string, a
// vector and a vector of strings.
const (
	vtableAt = 4
	tableAt  = 24
	stringAt = 44
	dataAt   = 52
)

func byHand() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, tableAt)
	for _, v := range []uint16{16, 20, 12, 0, 4, 8, 0, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, tableAt-vtableAt)
	b = le.AppendUint32(b, stringAt-(tableAt+4))
	b = le.AppendUint32(b, dataAt-(tableAt+8))
	b = le.AppendUint64(b, 99)
	b = append(le.AppendUint32(b, 3), "abc\x00"...)
	return append(le.AppendUint32(b, 2), 1, 2)
}

func TestMalformed(t *testing.T) {
	root, err := flat.Verify(byHand(), schema, 0)
	if err != nil || root.Uint64(0) != 99 || root.String(2) != "abc" || len(root.Bytes(3)) != 2 {
		t.Fatalf("the well-formed message: %v", err)
	}
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[at:], v); return b }
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	for _, c := range []struct {
		name string
		with func([]byte) []byte
		want string
	}{
		{"empty", func([]byte) []byte { return nil }, "verify Root: byte 0: a buffer of 0 bytes"},
		{"short", func(b []byte) []byte { return b[:7] }, "a buffer of 7 bytes"},
		{"unfinished", func([]byte) []byte { return make([]byte, 16) }, "an offset points outside"},
		{"root offset 0", put32(0, 0), "an offset points outside"},
		{"root outside", put32(0, 58), "an offset points outside"},
		{"root far outside", put32(0, math.MaxUint32), "an offset points outside"},
		{"vtable before the buffer", put32(tableAt, 25), "the vtable is outside"},
		{"vtable after the buffer", put32(tableAt, 0x80000000), "the vtable is outside"},
		{"vtable at the very end", put32(tableAt, 0xffffffe0), "the vtable is outside"},
		{"vtable length 0", put16(vtableAt, 0), "the vtable's length is wrong"},
		{"vtable length odd", put16(vtableAt, 17), "the vtable's length is wrong"},
		{"vtable longer than the buffer", put16(vtableAt, 60), "the vtable's length is wrong"},
		{"table length 3", put16(vtableAt+2, 3), "the table's length is wrong"},
		{"table longer than the buffer", put16(vtableAt+2, 60), "the table's length is wrong"},
		{"field inside the soffset", put16(vtableAt+4, 3), "verify Root.u64: byte 24: a field is outside"},
		{"field ends outside", put16(vtableAt+4, 13), "verify Root.u64: byte 24: a field is outside"},
		{"field wraps 16 bits", put16(vtableAt+4, 0xfffe), "verify Root.u64: byte 24: a field is outside"},
		{"string offset 0", put32(tableAt+4, 0), "verify Root.name: byte 28: an offset points outside"},
		{"string offset into its last bytes", put32(tableAt+4, 27), "verify Root.name"},
		{"string longer than the buffer", put32(stringAt, 10), "verify Root.name: byte 44: a string ends outside"},
		{"string length wraps", put32(stringAt, math.MaxUint32), "verify Root.name: byte 44: a string ends outside"},
		{"string not terminated", func(b []byte) []byte { b[stringAt+7] = 'd'; return b }, "verify Root.name: byte 44: a string is not terminated"},
		{"string not UTF-8", func(b []byte) []byte { b[stringAt+5] = 0xff; return b }, "verify Root.name: byte 44: a string is not UTF-8"},
		{"vector longer than the buffer", put32(dataAt, 3), "verify Root.data: byte 52: a vector ends outside"},
		{"vector length wraps", put32(dataAt, math.MaxUint32), "verify Root.data: byte 52: a vector ends outside"},
		{"truncated", func(b []byte) []byte { return b[:len(b)-1] }, "verify Root.data: byte 52: a vector ends outside"},
		// The size in bytes is 2³² and more: it must not wrap around.
		{"vector of longs wraps", func(b []byte) []byte {
			b = put16(vtableAt, 18)(b)
			b = put16(vtableAt+16, 8)(b)
			b = put16(vtableAt+10, 0)(b)
			return put32(dataAt, 1<<29)(b)
		}, "verify Root.longs: byte 52: a vector ends outside"},
	} {
		_, err := flat.Verify(c.with(byHand()), schema, 0)
		if ve := new(flat.VerifyError); !errors.As(err, &ve) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// What a deprecated field or an unknown one holds does not matter.
func TestUnreadFields(t *testing.T) {
	b := byHand()
	binary.LittleEndian.PutUint16(b[vtableAt+12:], 4)
	binary.LittleEndian.PutUint16(b[vtableAt+14:], 0xffff) // slot 5 of a schema of 5
	binary.LittleEndian.PutUint32(b[tableAt+4:], math.MaxUint32)
	binary.LittleEndian.PutUint16(b[vtableAt+8:], 0)
	short := flat.Schema{{Name: "Root", Fields: schema[0].Fields[:5]}}
	if _, err := flat.Verify(b, short, 0); err != nil {
		t.Error(err)
	}
}

// chain is tables that refer to the next n times over: 2ⁿ paths from few bytes.
func bomb(levels int) []byte {
	b := flatbuffers.NewBuilder(1024)
	b.StartObject(13)
	at := b.EndObject()
	for range levels {
		b.StartObject(2)
		b.PrependUOffsetTSlot(1, at, 0)
		kid := b.EndObject()
		b.StartVector(4, 2, 4)
		b.PrependUOffsetT(kid)
		b.PrependUOffsetT(kid)
		kids := b.EndVector(2)
		b.StartObject(13)
		b.PrependUOffsetTSlot(10, kids, 0)
		at = b.EndObject()
	}
	b.Finish(at)
	return b.FinishedBytes()
}

func TestAmplification(t *testing.T) {
	if _, err := flat.Verify(bomb(3), schema, 0); err != nil {
		t.Errorf("a few shared tables: %v", err)
	}
	_, err := flat.Verify(bomb(30), schema, 0)
	if err == nil || !strings.Contains(err.Error(), "unpacks to too much") {
		t.Errorf("got %v, want unpacks to too much", err)
	}

	b := flatbuffers.NewBuilder(1 << 17)
	s := b.CreateString(strings.Repeat("x", 1<<16))
	b.StartVector(4, 1000, 4)
	for range 1000 {
		b.PrependUOffsetT(s)
	}
	tags := b.EndVector(1000)
	b.StartObject(13)
	b.PrependUOffsetTSlot(8, tags, 0)
	b.Finish(b.EndObject())
	_, err = flat.Verify(b.FinishedBytes(), schema, 0)
	if err == nil || !strings.Contains(err.Error(), "unpacks to too much") {
		t.Errorf("a string 1000 times: got %v, want unpacks to too much", err)
	}
}

func TestDepth(t *testing.T) {
	nested := func(n int) []byte {
		b := flatbuffers.NewBuilder(1024)
		at := flatbuffers.UOffsetT(0)
		for range n {
			b.StartObject(13)
			if at != 0 {
				b.PrependUOffsetTSlot(9, at, 0)
			}
			at = b.EndObject()
		}
		b.Finish(at)
		return append(b.FinishedBytes(), make([]byte, 4096)...) // room to unpack to
	}
	if _, err := flat.Verify(nested(flat.MaxDepth), schema, 0); err != nil {
		t.Error(err)
	}
	_, err := flat.Verify(nested(flat.MaxDepth+1), schema, 0)
	if err == nil || !strings.Contains(err.Error(), "nested too deeply") {
		t.Errorf("got %v, want nested too deeply", err)
	}
}

// FuzzVerify holds Verify to its promise: what it accepts can be read whole
// and copies to a bounded multiple of its length.
func FuzzVerify(f *testing.F) {
	f.Add(sample())
	f.Add(byHand())
	f.Add(bomb(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		for record := range schema {
			root, err := flat.Verify(b, schema, record)
			if err != nil {
				continue
			}
			if n := walk(schema, record, root); n > 16*len(b)+4096 {
				t.Errorf("%d bytes unpack to %d", len(b), n)
			}
		}
	})
}
