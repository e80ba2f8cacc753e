package flat

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// A Table is a verified table inside a buffer, for reading without copying.
// Accessors take the field's slot; an absent field reads as zero. The zero
// Table is one in which all fields are absent.
//
// Strings and slices from a Table alias the buffer: they are valid for as
// long as the buffer is, and change with it.
type Table struct {
	// Four words, so that the compiler keeps tables in registers.
	buf []byte // nil for the zero Table
	at  uint32 // of the table
	vt  uint32 // of its vtable
}

// A View is a generated type with accessors, defined as a Table.
type View interface {
	~struct {
		buf []byte
		at  uint32
		vt  uint32
	}
}

// field returns the position of a slot's value, 0 if it is absent.
func (t Table) field(slot int) uint32 {
	if t.buf == nil {
		return 0
	}
	vt := t.buf[t.vt:]
	entry := uint(4 + 2*slot)
	if entry >= uint(binary.LittleEndian.Uint16(vt)) {
		return 0
	}
	o := uint32(binary.LittleEndian.Uint16(vt[entry:]))
	if o == 0 {
		return 0
	}
	return t.at + o
}

// target returns the position a slot's offset refers to, 0 if it is absent.
func (t Table) target(slot int) uint32 {
	p := t.field(slot)
	if p == 0 {
		return 0
	}
	return p + binary.LittleEndian.Uint32(t.buf[p:])
}

// tableAt returns the table at a verified position.
func tableAt(buf []byte, at uint32) Table {
	return Table{buf: buf, at: at, vt: at - binary.LittleEndian.Uint32(buf[at:])}
}

// Bool returns the bool in a slot: false only if its byte is 0.
func (t Table) Bool(slot int) bool { return t.Uint8(slot) != 0 }

// Int8 returns the byte in a slot.
func (t Table) Int8(slot int) int8 { return int8(t.Uint8(slot)) }

// Uint8 returns the ubyte in a slot.
func (t Table) Uint8(slot int) uint8 {
	if p := t.field(slot); p != 0 {
		return t.buf[p]
	}
	return 0
}

// Int16 returns the short in a slot.
func (t Table) Int16(slot int) int16 { return int16(t.Uint16(slot)) }

// Uint16 returns the ushort in a slot.
func (t Table) Uint16(slot int) uint16 {
	if p := t.field(slot); p != 0 {
		return binary.LittleEndian.Uint16(t.buf[p:])
	}
	return 0
}

// Int32 returns the int in a slot.
func (t Table) Int32(slot int) int32 { return int32(t.Uint32(slot)) }

// Uint32 returns the uint in a slot.
func (t Table) Uint32(slot int) uint32 {
	if p := t.field(slot); p != 0 {
		return binary.LittleEndian.Uint32(t.buf[p:])
	}
	return 0
}

// Int64 returns the long in a slot.
func (t Table) Int64(slot int) int64 { return int64(t.Uint64(slot)) }

// Uint64 returns the ulong in a slot.
func (t Table) Uint64(slot int) uint64 {
	if p := t.field(slot); p != 0 {
		return binary.LittleEndian.Uint64(t.buf[p:])
	}
	return 0
}

// Float32 returns the float in a slot.
func (t Table) Float32(slot int) float32 { return math.Float32frombits(t.Uint32(slot)) }

// Float64 returns the double in a slot.
func (t Table) Float64(slot int) float64 { return math.Float64frombits(t.Uint64(slot)) }

// String returns the string in a slot. It aliases the buffer.
func (t Table) String(slot int) string { return alias(t.Bytes(slot)) }

// Bytes returns the vector of bytes in a slot, nil if it is absent. It
// aliases the buffer; appending to it copies.
func (t Table) Bytes(slot int) []byte {
	p := t.target(slot)
	if p == 0 {
		return nil
	}
	return lengthAt(t.buf, p, 1)
}

// Table returns the table in a slot and whether it is present.
func (t Table) Table(slot int) (Table, bool) {
	p := t.target(slot)
	if p == 0 {
		return Table{}, false
	}
	return tableAt(t.buf, p), true
}

// lengthAt returns the elements of the vector at a verified position.
func lengthAt(buf []byte, at uint32, width int) []byte {
	n := int(binary.LittleEndian.Uint32(buf[at:])) * width
	lo := int(at) + 4
	return buf[lo : lo+n : lo+n]
}

// alias returns b as a string that changes when b does.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
