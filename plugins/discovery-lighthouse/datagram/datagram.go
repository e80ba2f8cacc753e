// Package datagram is what nodes and lighthouses say to each other over UDP:
// eight kinds of datagram, as pure functions. The normative tables, and why
// each field is there, are in docs/discovery.md under "Lighthouse".
//
// No datagram is larger than 1232 bytes, what every IPv6 path carries in one
// piece (RFC 8200 section 5: a packet of 1280 bytes, less 40 and 8 of heads).
// Integers are little-endian. A Parse function accepts exactly what its Append
// function writes, of any content; what it returns aliases the datagram.
package datagram

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/cellkernel/cellkernel/sdk"
)

// Sizes.
const (
	MaxSize    = 1232 // of any datagram
	HelloSize  = 64   // of a hello: more than the cookie that answers it
	CookieSize = headSize + cookieLen

	magic     = "ckL\x01"
	headSize  = len(magic) + 1 + sessionLen
	cookieLen = 16
	signature = 64
)

const sessionLen = 8

// A Kind is the fifth byte of a datagram.
type Kind uint8

// The kinds of datagrams: Hello, Register, Give and Sync come from nodes, the
// others from lighthouses.
const (
	KindHello    Kind = 1
	KindCookie   Kind = 2
	KindRegister Kind = 3
	KindGive     Kind = 4
	KindAck      Kind = 5
	KindSync     Kind = 6
	KindRow      Kind = 7
	KindPart     Kind = 8
	KindState    Kind = 9
)

// A Session is chosen at random by the node and is in every datagram of both
// sides: who does not see the traffic can not answer for a lighthouse.
type Session [sessionLen]byte

// A Cookie is what a lighthouse knows an address again by.
type Cookie [cookieLen]byte

// A Hash names an envelope: the first 16 bytes of its SHA-256.
type Hash [16]byte

// An ID names a registration: the first 16 bytes of the SHA-256 of its tag and
// its key.
type ID [16]byte

// A Tag is what all envelopes of a mesh have in common, for all to see.
type Tag [8]byte

// ErrMalformed is why a datagram was not understood.
var ErrMalformed = errors.New("malformed datagram")

// HashOf returns the name of an envelope.
func HashOf(e sdk.Envelope) Hash {
	sum := sha256.Sum256(e)
	return Hash(sum[:])
}

// TagOf returns the tag of an envelope of a kernel, which begins with "ckA", 1
// and the tag; zeros for what is none.
func TagOf(e sdk.Envelope) Tag {
	const announcement = "ckA\x01"
	if len(e) < len(announcement)+8 || string(e[:len(announcement)]) != announcement {
		return Tag{}
	}
	return Tag(e[len(announcement):])
}

func appendHead(b []byte, k Kind, s Session) []byte {
	return append(append(append(b, magic...), byte(k)), s[:]...)
}

// Head returns the kind and the session of a datagram.
func Head(b []byte) (Kind, Session, error) {
	if len(b) < headSize || len(b) > MaxSize || string(b[:len(magic)]) != magic {
		return 0, Session{}, ErrMalformed
	}
	return Kind(b[len(magic)]), Session(b[len(magic)+1:]), nil
}

// CookieIn returns the cookie in a datagram from a node. There is none in a
// hello, and in nothing that a lighthouse sends but the cookie itself.
func CookieIn(b []byte) (Cookie, error) {
	if len(b) < CookieSize {
		return Cookie{}, ErrMalformed
	}
	return Cookie(b[headSize:]), nil
}

// AppendHello appends the first datagram of a node, padded so that the answer
// is smaller.
func AppendHello(b []byte, s Session) []byte {
	return append(appendHead(b, KindHello, s), make([]byte, HelloSize-headSize)...)
}

// CheckHello reports whether b has the size of a hello.
func CheckHello(b []byte) error {
	if len(b) != HelloSize {
		return ErrMalformed
	}
	return nil
}

// AppendCookie appends the answer to a hello, and to any datagram whose cookie
// is not or no longer good. It is smaller than each of them.
func AppendCookie(b []byte, s Session, c Cookie) []byte {
	return append(appendHead(b, KindCookie, s), c[:]...)
}

// ParseCookie returns the cookie that a lighthouse sent.
func ParseCookie(b []byte) (Cookie, error) {
	if len(b) != CookieSize {
		return Cookie{}, ErrMalformed
	}
	return CookieIn(b)
}

// AppendGive appends an envelope that a lighthouse asked for.
func AppendGive(b []byte, s Session, c Cookie, e sdk.Envelope) []byte {
	return append(append(appendHead(b, KindGive, s), c[:]...), e...)
}

// ParseGive returns the envelope.
func ParseGive(b []byte) (sdk.Envelope, error) { return envelope(b, CookieSize) }

// AppendPart appends an envelope of a row.
func AppendPart(b []byte, s Session, e sdk.Envelope) []byte {
	return append(appendHead(b, KindPart, s), e...)
}

// ParsePart returns the envelope.
func ParsePart(b []byte) (sdk.Envelope, error) { return envelope(b, headSize) }

func envelope(b []byte, from int) (sdk.Envelope, error) {
	if len(b) <= from || len(b)-from > sdk.MaxEnvelope {
		return nil, ErrMalformed
	}
	return b[from:], nil
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	return binary.LittleEndian.AppendUint16(append(b, ip[:]...), a.Port())
}

// A reader takes fields from the front of b. After a field that is not there
// all are zero and bad is true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.b, r.bad = nil, true
		return make([]byte, n) // n is a constant of the format
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 { return r.bytes(1)[0] }

// flag reads a byte that is 0 or 1.
func (r *reader) flag() bool {
	v := r.u8()
	r.bad = r.bad || v > 1
	return v == 1
}

func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.bytes(2)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

func (r *reader) addr() netip.AddrPort {
	ip := netip.AddrFrom16([16]byte(r.bytes(16))).Unmap()
	return netip.AddrPortFrom(ip, r.u16())
}

// hashes reads a count and as many hashes.
func (r *reader) hashes() []Hash {
	n := int(r.u8())
	if n > sdk.MaxEnvelopes || n*len(Hash{}) > len(r.b) {
		r.bad = true
		return nil
	}
	list := make([]Hash, n)
	for i := range list {
		list[i] = Hash(r.bytes(len(Hash{})))
	}
	return list
}

func appendFlag(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendHashes(b []byte, list []Hash) []byte {
	b = append(b, uint8(len(list)))
	for _, h := range list {
		b = append(b, h[:]...)
	}
	return b
}

func (r *reader) end() error {
	if r.bad || len(r.b) > 0 {
		return ErrMalformed
	}
	return nil
}
