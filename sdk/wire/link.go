package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// A LinkHeader is what the kernel that opens a link writes before any frame,
// and the other kernel reads: who calls whom. Encoded it is
//
//	u16  length of all that follows
//	u8   wire major
//	u8   0
//	u64  link id
//	u8   length, bytes: dialling node
//	u8   length, bytes: dialling cell
//	u8   length, bytes: wanted cell
//	32   HMAC-SHA-256 under the mesh's link key over all bytes before it,
//	     then the 32 bytes of the transport's channel binding (zero without)
//
// The answer is one byte 0, or one byte code and u8 length, bytes: the text.
type LinkHeader struct {
	ID                 uint64
	Node, Cell, Wanted string
	Binding            [32]byte // not sent: both sides know it
}

// MaxLinkHeader is the length of the longest link header, in bytes.
const MaxLinkHeader = 512

const (
	linkFixed  = 2 + 1 + 1 + 8
	maxName    = 128
	maxRefusal = 200
)

// AppendLinkHeader appends h, sealed under key.
func AppendLinkHeader(b []byte, h LinkHeader, key []byte) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, Major, 0)
	b = binary.LittleEndian.AppendUint64(b, h.ID)
	for _, s := range [...]string{h.Node, h.Cell, h.Wanted} {
		if len(s) > maxName {
			return b[:start], fmt.Errorf("encode link header: name of %d bytes: at most %d", len(s), maxName)
		}
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	binary.LittleEndian.PutUint16(b[start:], uint16(len(b)-start-2+sha256.Size))
	return append(b, linkMAC(b[start:], h.Binding, key)...), nil
}

func linkMAC(msg []byte, binding [32]byte, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(msg)
	m.Write(binding[:])
	return m.Sum(nil)
}

var errLinkHeader = errors.New("parse link header: malformed")

// LinkHeaderLen returns how many bytes follow the first two of a link header.
func LinkHeaderLen(first [2]byte) (int, error) {
	n := int(binary.LittleEndian.Uint16(first[:]))
	if n < linkFixed-2+3+sha256.Size || n > MaxLinkHeader-2 {
		return 0, errLinkHeader
	}
	return n, nil
}

// ParseLinkHeader decodes a whole link header. The seal is checked before
// anything else is looked at; a wrong one is the same error as any other flaw.
func ParseLinkHeader(b []byte, binding [32]byte, key []byte) (LinkHeader, error) {
	var h LinkHeader
	if len(b) < linkFixed+3+sha256.Size || len(b) > MaxLinkHeader {
		return h, errLinkHeader
	}
	msg, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, linkMAC(msg, binding, key)) {
		return h, errLinkHeader
	}
	if int(binary.LittleEndian.Uint16(b)) != len(b)-2 || msg[3] != 0 {
		return h, errLinkHeader
	}
	if msg[2] != Major {
		return h, fmt.Errorf("parse link header: other side speaks version %d, this side %d", msg[2], Major)
	}
	h.ID, h.Binding = binary.LittleEndian.Uint64(msg[4:]), binding
	rest := msg[linkFixed:]
	for _, s := range [...]*string{&h.Node, &h.Cell, &h.Wanted} {
		if len(rest) < 1 || rest[0] > maxName || len(rest) < 1+int(rest[0]) {
			return LinkHeader{}, errLinkHeader
		}
		*s, rest = string(rest[1:1+rest[0]]), rest[1+rest[0]:]
	}
	if len(rest) != 0 {
		return LinkHeader{}, errLinkHeader
	}
	return h, nil
}

// AppendRefusal appends the answer that refuses a link; code must not be 0.
// The text is cut at 200 bytes.
func AppendRefusal(b []byte, code uint8, text string) []byte {
	text = text[:min(len(text), maxRefusal)]
	b = append(b, code, byte(len(text)))
	return append(b, text...)
}
