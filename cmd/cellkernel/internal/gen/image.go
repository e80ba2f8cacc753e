package gen

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// An image is a table as the encoder appends it, before values are put in:
// the vtable, padding, then the table. It begins 4 bytes after a multiple of
// 8, so a table with 8-byte fields does too, and its first field is aligned.
type image struct {
	bytes  []byte
	table  int   // where the table begins
	fields []int // where each slot's value is, 0 for deprecated slots
}

// layOut places the fields of m: widest first, so that no padding is needed.
func layOut(m *message) image {
	img := image{fields: make([]int, len(m.slots))}
	var order []int
	widest := 4
	for i, s := range m.slots {
		if s.field != nil {
			order = append(order, i)
			widest = max(widest, s.field.width())
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return m.slots[b].field.width() - m.slots[a].field.width() })

	entries := 4 + 2*len(m.slots)
	img.table = (entries + widest - 1) / widest * widest
	end := img.table + 4
	for _, i := range order {
		img.fields[i] = end
		end += m.slots[i].field.width()
	}
	img.bytes = make([]byte, end)
	le := binary.LittleEndian
	le.PutUint16(img.bytes, uint16(entries))
	le.PutUint16(img.bytes[2:], uint16(end-img.table))
	for _, i := range order {
		le.PutUint16(img.bytes[4+2*i:], uint16(img.fields[i]-img.table))
	}
	le.PutUint32(img.bytes[img.table:], uint32(img.table))
	return img
}

// width is what the field takes in its table, in bytes.
func (f *field) width() int {
	if f.vector {
		return 4
	}
	return f.typ.Width()
}

// literal writes the image as a Go string, 16 bytes a line.
func (img image) literal() string {
	var b strings.Builder
	for i := 0; i < len(img.bytes); i += 16 {
		if i > 0 {
			b.WriteString(" +\n\t")
		}
		b.WriteByte('"')
		for _, c := range img.bytes[i:min(i+16, len(img.bytes))] {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
		b.WriteByte('"')
	}
	return b.String()
}
