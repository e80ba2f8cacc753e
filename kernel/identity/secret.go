package identity

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
)

// derive is HKDF-SHA-256 of secret without salt; labels are domain strings.
func derive(secret []byte, label string) [32]byte {
	key, err := hkdf.Key(sha256.New, secret, nil, label, 32)
	if err != nil {
		panic(err) // SHA-256 always has 32 bytes to give
	}
	return [32]byte(key)
}

// A reader cuts an encoding into fields. After the first that is not there,
// all are zero and bad is true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.b, r.bad = nil, true
	}
	if r.bad {
		return make([]byte, n) // n is a constant or a byte
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 { return r.bytes(1)[0] }

func (r *reader) uint(n int) (v uint64) {
	for i, c := range r.bytes(n) {
		v |= uint64(c) << (8 * i)
	}
	return v
}

func (r *reader) text() string { return string(r.bytes(int(r.u8()))) }

// done reports whether all fields were there, and nothing else.
func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }

// appendText appends s, which callers have checked to be at most 255 bytes long.
func appendText(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// write writes s for a fmt.State, whatever was asked for.
func write(f fmt.State, s string) { _, _ = io.WriteString(f, s) }
