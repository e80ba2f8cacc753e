package flat

import (
	"encoding/binary"
	"math"
	"time"
	"unsafe"
)

// Encoding goes forward: a table first, then what it refers to. Positions are
// indexes of b, whose buffer begins at a multiple of 8. Every table is an
// image, its vtable followed by the table itself with all fields zero, which
// begins 4 bytes after a multiple of 8.

// Refer aligns b for a table image, in which the table begins at byte table,
// and makes the offset at b[field:] refer to it.
func Refer(b []byte, field, table int) []byte {
	b = append(b, "\x00\x00\x00\x00\x00\x00\x00"[:(4-len(b))&7]...)
	binary.LittleEndian.PutUint32(b[field:], uint32(len(b)+table-field))
	return b
}

// Absent clears the vtable entry at b[entry:], so that its field is not there.
func Absent(b []byte, entry int) {
	b[entry], b[entry+1] = 0, 0
}

// AppendString appends s and makes the offset at b[field:] refer to it. An
// empty s is left out: the vtable entry at b[entry:] is cleared.
func AppendString(b []byte, entry, field int, s string) []byte {
	if s == "" {
		Absent(b, entry)
		return b
	}
	return appendString(b, field, s)
}

func appendString(b []byte, field int, s string) []byte {
	b = appendLength(b, field, len(s), 4)
	b = append(b, s...)
	return append(b, 0)
}

// AppendBytes appends the vector p as AppendString does.
func AppendBytes(b []byte, entry, field int, p []byte) []byte {
	if len(p) == 0 {
		Absent(b, entry)
		return b
	}
	return append(appendLength(b, field, len(p), 4), p...)
}

// AppendStrings appends the vector s as AppendString does.
func AppendStrings(b []byte, entry, field int, s []string) []byte {
	b, at := AppendVector(b, entry, field, len(s))
	for i, e := range s {
		b = appendString(b, at+4*i, e)
	}
	return b
}

// AppendVector appends room for n offsets and makes the offset at b[field:]
// refer to it. It returns the position of the first, which the caller fills
// by [Refer]. With n = 0 the vtable entry at b[entry:] is cleared.
func AppendVector(b []byte, entry, field, n int) (_ []byte, first int) {
	if n == 0 {
		Absent(b, entry)
		return b, len(b)
	}
	b = appendLength(b, field, n, 4)
	first = len(b)
	return append(b, make([]byte, 4*n)...), first
}

// AppendScalars appends the vector s as AppendString does.
func AppendScalars[T Fixed | ~bool](b []byte, entry, field int, s []T) []byte {
	if len(s) == 0 {
		Absent(b, entry)
		return b
	}
	size := int(unsafe.Sizeof(s[0]))
	b = appendLength(b, field, len(s), size)
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*size)
	if nativeLittle {
		return append(b, raw...)
	}
	for i := 0; i < len(raw); i += size {
		for j := size - 1; j >= 0; j-- {
			b = append(b, raw[i+j])
		}
	}
	return b
}

// AppendInts appends the vector s, 64 bits each, as AppendString does.
func AppendInts[T ~int | ~uint](b []byte, entry, field int, s []T) []byte {
	if len(s) == 0 {
		Absent(b, entry)
		return b
	}
	b = appendLength(b, field, len(s), 8)
	for _, v := range s {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return b
}

// appendLength appends a length such that what follows it is aligned to
// align, 1 to 8, and makes the offset at b[field:] refer to it.
func appendLength(b []byte, field, n, align int) []byte {
	align = max(align, 4)
	b = append(b, "\x00\x00\x00\x00\x00\x00\x00"[:-(len(b)+4)&(align-1)]...)
	binary.LittleEndian.PutUint32(b[field:], uint32(len(b)-field))
	return binary.LittleEndian.AppendUint32(b, uint32(n))
}

// nativeLittle reports whether this machine stores numbers as the wire does.
var nativeLittle = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// FromTime returns t in nanoseconds since the Unix epoch: 0 for the zero
// Time, the nearest value for years outside 1678 to 2262.
func FromTime(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// ToTime is the inverse of FromTime, in UTC.
func ToTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
