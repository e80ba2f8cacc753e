package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of one entry of metadata.
const (
	maxMetaKey   = 64
	maxMetaValue = 2 << 10
)

// A Meta is one entry of a request's metadata. Keys are 1 to 64 bytes of
// lower-case letters, digits, '-' and '.'; values are at most 2 KiB of any
// bytes. The keys "traceparent" and "tracestate" carry W3C trace context.
type Meta struct{ Key, Value string }

// AppendMeta appends the metadata section of a request's body: its length
// (u32), the entries, padding to 8. An entry is a key (u8 length, bytes) and a
// value (u16 length, bytes).
func AppendMeta(b []byte, meta []Meta) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, m := range meta {
		if !validKey(m.Key) || len(m.Value) > maxMetaValue {
			return b[:start], fmt.Errorf("encode metadata %.70q: want a key of 1 to %d letters, digits, '-' or '.' and a value of at most %d bytes, got %d", m.Key, maxMetaKey, maxMetaValue, len(m.Value))
		}
		b = append(b, byte(len(m.Key)))
		b = append(b, m.Key...)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(m.Value)))
		b = append(b, m.Value...)
	}
	n := len(b) - start
	if pad8(n) > MaxMeta {
		return b[:start], fmt.Errorf("encode metadata: %d bytes: at most %d", n, MaxMeta)
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(n-4))
	return AppendPad(b, n), nil
}

var errMeta = errors.New("parse metadata: malformed")

// SplitMeta splits the body of a request with [FlagMeta] into its metadata,
// still encoded, and the message behind it. Both are part of body.
func SplitMeta(body []byte) (meta, message []byte, err error) {
	if len(body) < 4 {
		return nil, nil, errMeta
	}
	n := binary.LittleEndian.Uint32(body)
	if n > MaxMeta-4 || pad8(int(n)+4) > len(body) {
		return nil, nil, errMeta
	}
	for _, c := range body[4+n : pad8(int(n)+4)] {
		if c != 0 {
			return nil, nil, errMeta
		}
	}
	return body[4 : 4+n], body[pad8(int(n)+4):], nil
}

// ParseMeta decodes what [SplitMeta] returned.
func ParseMeta(b []byte) ([]Meta, error) {
	var out []Meta
	for len(b) > 0 {
		k := int(b[0])
		if len(b) < 1+k+2 || !validKey(string(b[1:1+k])) {
			return nil, errMeta
		}
		v := int(binary.LittleEndian.Uint16(b[1+k:]))
		if v > maxMetaValue || len(b) < 1+k+2+v {
			return nil, errMeta
		}
		out = append(out, Meta{string(b[1 : 1+k]), string(b[3+k : 3+k+v])})
		b = b[3+k+v:]
	}
	return out, nil
}

func validKey(k string) bool {
	if len(k) == 0 || len(k) > maxMetaKey {
		return false
	}
	for i := range len(k) {
		c := k[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}
