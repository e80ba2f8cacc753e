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
//	64   the proof, if there is one
//	32   HMAC-SHA-256 under the mesh's link key over all bytes before it,
//	     then the 32 bytes of the transport's channel binding (zero without)
//
// The answer is one byte 0, or one byte code and u8 length, bytes: the text.
type LinkHeader struct {
	ID                 uint64
	Node, Cell, Wanted string
	// Proof says that the header is of the node it names, to those who know how
	// it was made from [LinkHeader.Statement]: it is of kernels, and of
	// [ProofLen] bytes or none.
	Proof   []byte
	Binding [32]byte // not sent: both sides know it
}

// ProofLen is the length of the proof in a link header, in bytes.
const ProofLen = 64

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
	b, err := h.appendFields(append(b, 0, 0))
	if err != nil {
		return b[:start], err
	}
	if len(h.Proof) != 0 && len(h.Proof) != ProofLen {
		return b[:start], fmt.Errorf("encode link header: proof of %d bytes: want %d", len(h.Proof), ProofLen)
	}
	b = append(b, h.Proof...)
	binary.LittleEndian.PutUint16(b[start:], uint16(len(b)-start-2+sha256.Size))
	return append(b, linkMAC(b[start:], h.Binding, key)...), nil
}

// appendFields appends what is between the length and the proof.
func (h *LinkHeader) appendFields(b []byte) ([]byte, error) {
	b = binary.LittleEndian.AppendUint64(append(b, Major, 0), h.ID)
	for _, s := range [...]string{h.Node, h.Cell, h.Wanted} {
		if len(s) > maxName {
			return b, fmt.Errorf("encode link header: name of %d bytes: at most %d", len(s), maxName)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	return b, nil
}

// Statement is what a proof is about: the fields of h as they are sent, without
// the length before them, and the channel binding.
func (h LinkHeader) Statement() ([]byte, error) {
	b, err := h.appendFields(nil)
	if err != nil {
		return nil, err
	}
	return append(b, h.Binding[:]...), nil
}

func linkMAC(msg []byte, binding [32]byte, key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(msg)
	m.Write(binding[:])
	return m.Sum(nil)
}

// errLinkHeader is every flaw: before the seal fits nobody can tell which.
var errLinkHeader = errors.New("parse link header: malformed, or sealed with another mesh's secret or for another connection")

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
	switch len(rest) {
	case 0:
	case ProofLen:
		h.Proof = append([]byte(nil), rest...)
	default:
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
