package flat

import (
	"encoding/binary"
	"iter"
	"strings"
	"unsafe"
)

// Fixed are the Go types whose size is the same everywhere and on the wire.
type Fixed interface {
	~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~uint32 | ~int64 | ~uint64 | ~float32 | ~float64
}

// Scalars is a vector of numbers inside a buffer. The zero value is empty.
type Scalars[T Fixed] struct{ b []byte }

// ScalarsOf returns the vector of numbers in a slot of t.
func ScalarsOf[T Fixed](t Table, slot int) Scalars[T] {
	var zero T
	return Scalars[T]{elements(t, slot, int(unsafe.Sizeof(zero)))}
}

// Len returns the number of elements.
func (s Scalars[T]) Len() int {
	var zero T
	return len(s.b) / int(unsafe.Sizeof(zero))
}

// At returns element i. It panics if there is none.
func (s Scalars[T]) At(i int) T {
	var v T
	switch unsafe.Sizeof(v) {
	case 1:
		*(*uint8)(unsafe.Pointer(&v)) = s.b[i]
	case 2:
		*(*uint16)(unsafe.Pointer(&v)) = binary.LittleEndian.Uint16(s.b[2*i:])
	case 4:
		*(*uint32)(unsafe.Pointer(&v)) = binary.LittleEndian.Uint32(s.b[4*i:])
	case 8:
		*(*uint64)(unsafe.Pointer(&v)) = binary.LittleEndian.Uint64(s.b[8*i:])
	}
	return v
}

// All iterates over the elements with their indexes.
func (s Scalars[T]) All() iter.Seq2[int, T] { return all(s.Len(), s.At) }

// Unpack copies the elements, into the memory of into if it is large enough.
func (s Scalars[T]) Unpack(into []T) []T {
	into = Resize(into, s.Len())
	if !nativeLittle {
		return unpack(into, s.Len(), s.At)
	}
	if len(into) > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&into[0])), len(s.b)), s.b)
	}
	return into
}

// Ints is a vector of 64-bit numbers that Go programs hold as int or uint.
// The zero value is empty.
type Ints[T ~int | ~uint] struct{ b []byte }

// IntsOf returns the vector of numbers in a slot of t.
func IntsOf[T ~int | ~uint](t Table, slot int) Ints[T] { return Ints[T]{elements(t, slot, 8)} }

// Len returns the number of elements.
func (s Ints[T]) Len() int { return len(s.b) / 8 }

// At returns element i. It panics if there is none.
func (s Ints[T]) At(i int) T { return T(binary.LittleEndian.Uint64(s.b[8*i:])) }

// All iterates over the elements with their indexes.
func (s Ints[T]) All() iter.Seq2[int, T] { return all(s.Len(), s.At) }

// Unpack copies the elements, into the memory of into if it is large enough.
func (s Ints[T]) Unpack(into []T) []T { return unpack(into, s.Len(), s.At) }

// Bools is a vector of bools inside a buffer. The zero value is empty.
type Bools[T ~bool] struct{ b []byte }

// BoolsOf returns the vector of bools in a slot of t.
func BoolsOf[T ~bool](t Table, slot int) Bools[T] { return Bools[T]{elements(t, slot, 1)} }

// Len returns the number of elements.
func (s Bools[T]) Len() int { return len(s.b) }

// At returns element i. It panics if there is none.
func (s Bools[T]) At(i int) T { return T(s.b[i] != 0) }

// All iterates over the elements with their indexes.
func (s Bools[T]) All() iter.Seq2[int, T] { return all(s.Len(), s.At) }

// Unpack copies the elements, into the memory of into if it is large enough.
func (s Bools[T]) Unpack(into []T) []T { return unpack(into, s.Len(), s.At) }

// Strings is a vector of strings inside a buffer. The zero value is empty.
type Strings struct {
	buf []byte
	at  uint32 // of the first offset
	n   uint32
}

// StringsOf returns the vector of strings in a slot of t.
func StringsOf(t Table, slot int) Strings { return Strings(offsetsOf(t, slot)) }

// Len returns the number of elements.
func (s Strings) Len() int { return int(s.n) }

// At returns element i, which aliases the buffer. It panics if there is none.
func (s Strings) At(i int) string {
	return alias(lengthAt(s.buf, offsets(s).target(i), 1))
}

// All iterates over the elements with their indexes.
func (s Strings) All() iter.Seq2[int, string] { return all(s.Len(), s.At) }

// Unpack copies the elements, into the memory of into if it is large enough.
func (s Strings) Unpack(into []string) []string {
	into = Resize(into, s.Len())
	for i := range into {
		into[i] = CopyString(into[i], s.At(i))
	}
	return into
}

// Tables is a vector of tables inside a buffer. The zero value is empty.
type Tables[V View] struct{ offsets }

// TablesOf returns the vector of tables in a slot of t.
func TablesOf[V View](t Table, slot int) Tables[V] { return Tables[V]{offsetsOf(t, slot)} }

// Len returns the number of elements.
func (s Tables[V]) Len() int { return int(s.n) }

// At returns element i. It panics if there is none.
func (s Tables[V]) At(i int) V { return V(tableAt(s.buf, s.target(i))) }

// All iterates over the elements with their indexes.
func (s Tables[V]) All() iter.Seq2[int, V] { return all(s.Len(), s.At) }

// offsets is a vector of offsets.
type offsets struct {
	buf []byte
	at  uint32 // of the first
	n   uint32
}

func offsetsOf(t Table, slot int) offsets {
	p := t.target(slot)
	if p == 0 {
		return offsets{}
	}
	return offsets{t.buf, p + 4, binary.LittleEndian.Uint32(t.buf[p:])}
}

// target returns the position that element i refers to.
func (o offsets) target(i int) uint32 {
	if uint(i) >= uint(o.n) {
		panic("flat: index out of range")
	}
	p := o.at + 4*uint32(i)
	return p + binary.LittleEndian.Uint32(o.buf[p:])
}

func elements(t Table, slot, width int) []byte {
	p := t.target(slot)
	if p == 0 {
		return nil
	}
	return lengthAt(t.buf, p, width)
}

func all[T any](n int, at func(int) T) iter.Seq2[int, T] {
	return func(yield func(int, T) bool) {
		for i := range n {
			if !yield(i, at(i)) {
				return
			}
		}
	}
}

func unpack[T any](into []T, n int, at func(int) T) []T {
	into = Resize(into, n)
	for i := range into {
		into[i] = at(i)
	}
	return into
}

// Resize returns s with length n, in the same memory if its capacity allows.
// The elements are those that were there; new ones are zero.
func Resize[T any](s []T, n int) []T {
	if n <= cap(s) {
		return s[:n]
	}
	return append(s[:cap(s)], make([]T, n-cap(s))...)
}

// CopyBytes returns a copy of b in the memory of into if its capacity allows.
func CopyBytes(into, b []byte) []byte { return append(into[:0], b...) }

// CopyString returns a copy of s: old, if that is equal.
func CopyString(old, s string) string {
	if old == s {
		return old
	}
	return strings.Clone(s)
}
