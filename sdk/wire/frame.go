package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Major is the version of this format. Sides with different majors refuse
// each other at link open.
const Major = 1

// Limits of one frame.
const (
	HeaderSize  = 16
	MaxPayload  = 64<<10 + 1<<10       // bytes of message in one frame: 64 KiB and the tables around them
	MaxMeta     = 4 << 10              // bytes of metadata of one request
	MaxBody     = MaxPayload + MaxMeta // bytes of body
	FragmentLen = 32 << 10             // bytes of message in each frame of a larger message
	MaxFrame    = HeaderSize + MaxBody // bytes of the longest frame; MaxBody is a multiple of 8
)

// A Kind says what a frame is.
type Kind uint8

// The kinds of frames. C is the side that opened the link, S the other.
const (
	KindSettings Kind = 1  // both, first: limits and, from S, the method table
	KindRequest  Kind = 2  // C: begins a call
	KindReply    Kind = 3  // S: ends a call, done
	KindError    Kind = 4  // S: ends a call, failed; body is the text
	KindCancel   Kind = 5  // C: gives a call up; S still ends it
	KindMessage  Kind = 6  // both: one message of a stream, or just its end
	KindFragment Kind = 7  // both: more of the message begun on this call
	KindCredit   Kind = 8  // both: value more bytes of stream messages may be sent
	KindPing     Kind = 9  // both: answer with the same value
	KindPong     Kind = 10 // both
	KindGoAway   Kind = 11 // S: new calls will be refused; body is the reason
	kindEnd      Kind = 12
)

var kindNames = [...]string{"", "settings", "request", "reply", "error", "cancel", "message", "fragment", "credit", "ping", "pong", "go-away"}

// String returns the kind's name, as in "request".
func (k Kind) String() string {
	if k >= 1 && k < kindEnd {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Flags refine a frame.
type Flags uint8

// The flags.
const (
	FlagMore Flags = 1 << 0 // the message goes on in fragments
	FlagMeta Flags = 1 << 1 // request: the body begins with metadata
	FlagJSON Flags = 1 << 2 // the message is JSON, not FlatBuffers
	FlagEnd  Flags = 1 << 3 // message: the sender's last one
	FlagNone Flags = 1 << 4 // request, reply or message: carries no message at all
)

// A rule says which frames of a kind are well formed.
type rule struct {
	flags Flags // that may be set
	body  bool  // there may be one
}

var rules = [kindEnd]rule{
	KindSettings: {FlagMore | FlagJSON, true},
	KindRequest:  {FlagMore | FlagMeta | FlagJSON | FlagNone, true},
	KindReply:    {FlagMore | FlagJSON | FlagNone, true},
	KindError:    {0, true},
	KindMessage:  {FlagMore | FlagJSON | FlagEnd | FlagNone, true},
	KindFragment: {FlagMore, true},
	KindGoAway:   {0, true},
}

// A Header is the first 16 bytes of a frame.
type Header struct {
	Size  uint32
	Kind  Kind
	Flags Flags
	Aux   uint16
	Call  uint32
	Value uint32
}

// Errors of the parsers. Any of them ends the link: after one the stream has
// no meaning.
var (
	ErrShort = errors.New("frame is incomplete")
	errPad   = errors.New("parse frame: padding is not zero")
)

// ParseHeader parses and checks the first 16 bytes of b. It returns
// [ErrShort] if there are fewer.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, ErrShort
	}
	h := Header{
		Size:  binary.LittleEndian.Uint32(b),
		Kind:  Kind(b[4]),
		Flags: Flags(b[5]),
		Aux:   binary.LittleEndian.Uint16(b[6:]),
		Call:  binary.LittleEndian.Uint32(b[8:]),
		Value: binary.LittleEndian.Uint32(b[12:]),
	}
	return h, h.check()
}

func (h Header) check() error {
	if h.Kind == 0 || h.Kind >= kindEnd {
		return fmt.Errorf("parse frame: unknown kind %d", h.Kind)
	}
	r := &rules[h.Kind]
	switch {
	case h.Flags&^r.flags != 0:
		return fmt.Errorf("parse frame: %s: unknown flags %#x", h.Kind, uint8(h.Flags))
	case h.Size > MaxPayload && (h.Size > MaxBody || h.Flags&FlagMeta == 0):
		return fmt.Errorf("parse frame: %s: body of %d bytes: at most %d", h.Kind, h.Size, MaxPayload)
	case h.Size > 0 && !r.body:
		return fmt.Errorf("parse frame: %s: body of %d bytes: at most 0", h.Kind, h.Size)
	case h.Flags&(FlagMore|FlagEnd|FlagNone) != 0:
		return h.checkParts()
	}
	return nil
}

// checkParts refuses combinations of flags that have no meaning: no message
// goes on, the last one of a stream fits into its frame, and a stream without
// a message says at least that it ends.
func (h Header) checkParts() error {
	none, more, end := h.Flags&FlagNone != 0, h.Flags&FlagMore != 0, h.Flags&FlagEnd != 0
	if more && (none || end) || none && h.Kind == KindMessage && !end || none && h.Size > 0 && h.Flags&FlagMeta == 0 {
		return fmt.Errorf("parse frame: %s: flags %#x with a body of %d bytes", h.Kind, uint8(h.Flags), h.Size)
	}
	return nil
}

// Len returns the length of the whole frame with its padding, in bytes.
func (h Header) Len() int { return HeaderSize + pad8(int(h.Size)) }

func pad8(n int) int { return (n + 7) &^ 7 }

// AppendHeader appends h as it is.
func AppendHeader(b []byte, h Header) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.Size)
	b = append(b, byte(h.Kind), byte(h.Flags))
	b = binary.LittleEndian.AppendUint16(b, h.Aux)
	b = binary.LittleEndian.AppendUint32(b, h.Call)
	return binary.LittleEndian.AppendUint32(b, h.Value)
}

// PutHeader writes h over the first 16 bytes of b. It is for writers that
// learn the size of a body only after they have appended it.
func PutHeader(b []byte, h Header) { AppendHeader(b[:0:HeaderSize], h) }

// AppendPad appends the zero bytes that follow a body of size bytes.
func AppendPad(b []byte, size int) []byte {
	var zero [8]byte
	return append(b, zero[:pad8(size)-size]...)
}

// AppendFrame appends a whole frame; h.Size is set from body. It panics if
// body is longer than [MaxBody]: callers fragment before.
func AppendFrame(b []byte, h Header, body []byte) []byte {
	if len(body) > MaxBody {
		panic(fmt.Sprintf("wire: body of %d bytes", len(body)))
	}
	h.Size = uint32(len(body))
	b = AppendHeader(b, h)
	b = append(b, body...)
	return AppendPad(b, len(body))
}

// ParseFrame parses the frame at the beginning of b. body is part of b; n is
// the length of the frame with its padding. It returns [ErrShort] if b ends
// before the frame does, other errors only for bytes that can never be right.
func ParseFrame(b []byte) (h Header, body []byte, n int, err error) {
	h, err = ParseHeader(b)
	if err != nil {
		return h, nil, 0, err
	}
	n = h.Len()
	if len(b) < n {
		return h, nil, 0, ErrShort
	}
	end := HeaderSize + int(h.Size)
	for _, c := range b[end:n] {
		if c != 0 {
			return h, nil, 0, errPad
		}
	}
	return h, b[HeaderSize:end:end], n, nil
}

// timeUnit is the unit of a request's time left.
const timeUnit = 100 * time.Microsecond

// PutTime encodes how much time a call has left, rounded up to 100 µs. Zero
// and less become the smallest unit; what is too long (119 hours) becomes 0,
// no deadline.
func PutTime(left time.Duration) uint32 {
	if left <= 0 {
		return 1
	}
	units := (left-1)/timeUnit + 1 // does not overflow
	if units > math.MaxUint32 {
		return 0
	}
	return uint32(units)
}

// Time decodes [PutTime]: 0 means no deadline.
func Time(v uint32) time.Duration { return time.Duration(v) * timeUnit }
