package books

import (
	"encoding/binary"
	"errors"

	"github.com/cellkernel/cellkernel/sdk"
)

// All encodings of this package are canonical: fixed-size numbers, big endian,
// texts and lists with their length before them. A decoder accepts only what the
// encoder makes, so that bytes and meaning are the same thing.

var errMalformed = errors.New("malformed")

// A reader takes an encoding apart. After the first mistake it yields zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) hash() (h [32]byte) { copy(h[:], r.bytes(len(h))); return h }

func (r *reader) signature() (s Signature) { copy(s[:], r.bytes(len(s))); return s }

// node reads a public key.
func (r *reader) node() sdk.NodeID {
	if b := r.bytes(32); b != nil {
		return sdk.FormatNodeID(b)
	}
	return ""
}

// amount reads one that is not negative.
func (r *reader) amount() sdk.ATP {
	v := r.u64()
	if v > uint64(MaxAmount) {
		r.bad = true
		return 0
	}
	return sdk.ATP(v)
}

// flag reads 0 or 1.
func (r *reader) flag() bool {
	v := r.u8()
	r.bad = r.bad || v > 1
	return v == 1
}

// text reads printable ASCII without spaces.
func (r *reader) text(most int) string {
	s := string(r.bytes(int(r.u8())))
	r.bad = r.bad || !printable(s, most)
	return s
}

func (r *reader) cell() sdk.CellName {
	s := r.text(sdk.MaxCellName)
	if _, err := sdk.ParseCellName(s); err != nil {
		r.bad = true
	}
	return sdk.CellName(s)
}

// err is nil when all was read and none of it was bad.
func (r *reader) err() error {
	if r.bad || len(r.b) > 0 {
		return errMalformed
	}
	return nil
}

func printable(s string, most int) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= most
}

func appendText(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func appendFlag(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendU64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func appendATP(b []byte, v sdk.ATP) []byte { return appendU64(b, uint64(v)) }

// appendNode appends the public key. Ids are checked before they come here: a
// malformed one is 32 zero bytes, which no decoder takes for it.
func appendNode(b []byte, n sdk.NodeID) []byte {
	key := n.Key()
	if key == nil {
		key = make([]byte, 32)
	}
	return append(b, key...)
}
