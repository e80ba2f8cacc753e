package synapse

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/flynn/noise"
)

// Limits of transport messages, in bytes.
const (
	MaxMessage = 65535               // with its tag, without its length
	MaxPlain   = MaxMessage - tagLen // of plaintext
	Overhead   = lenLen + tagLen     // that a message costs besides its plaintext
)

// When a direction replaces its key.
const (
	rekeyMessages = 1 << 16
	rekeyBytes    = 1 << 30 // of plaintext; passed by less than a message
)

// ErrStream is every flaw of a received stream: it was changed, repeated,
// shortened in the middle, or goes on after its end. It stays.
var ErrStream = errors.New("secure link: stream is not authentic")

// A Session encrypts one direction of a link and decrypts the other. One
// goroutine may use Seal and SealEnd while another one uses Open.
type Session struct {
	out, in half
	hash    [32]byte
}

// Hash returns the handshake hash, the same on both sides and on no other link.
func (s *Session) Hash() [32]byte { return s.hash }

// A half is one direction.
type half struct {
	state    *noise.CipherState
	messages uint64 // since the key was replaced
	bytes    uint64 // of plaintext since then
	ended    bool
	err      error
}

// count notes a message of n bytes and replaces the key when it is time.
// Both sides do this after the same message. With it the nonce, of 64 bits
// and never reset, is no limit.
func (h *half) count(n int) {
	h.messages++
	h.bytes += uint64(n)
	if h.messages >= rekeyMessages || h.bytes >= rekeyBytes {
		h.state.Rekey()
		h.messages, h.bytes = 0, 0
	}
}

// SealedLen returns how many bytes [Session.Seal] appends for n bytes of
// plaintext.
func SealedLen(n int) int { return n + (n+MaxPlain-1)/MaxPlain*Overhead }

// Seal appends plain as transport messages, as few as there can be, and
// returns the extended slice. It allocates only if dst lacks room, for which
// see [SealedLen]; dst and plain must not overlap. It appends nothing for
// nothing, and panics after [Session.SealEnd].
func (s *Session) Seal(dst, plain []byte) []byte {
	dst = slices.Grow(dst, SealedLen(len(plain)))
	for len(plain) > 0 {
		n := min(len(plain), MaxPlain)
		dst = s.out.seal(dst, plain[:n])
		plain = plain[n:]
	}
	return dst
}

// SealEnd appends the end of the stream, after which nothing is sealed.
func (s *Session) SealEnd(dst []byte) []byte {
	dst = s.out.seal(dst, nil)
	s.out.ended = true
	return dst
}

func (h *half) seal(dst, plain []byte) []byte {
	if h.ended {
		panic("synapse: seal after the end")
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(plain)+tagLen))
	dst, err := h.state.Encrypt(dst, nil, plain)
	if err != nil {
		panic(err) // after 2^64-1 messages
	}
	h.count(len(plain))
	return dst
}

// Open decrypts all complete transport messages at the beginning of sealed,
// appends their plaintext to dst, and returns the extended slice and how many
// bytes of sealed it has used; n of 0 means that the first message is not
// complete. dst's free room and sealed must not overlap. It allocates only if
// dst lacks room.
//
// The error is io.EOF at the end of the stream, which comes with all plaintext
// before it, and [ErrStream] otherwise; plaintext that comes with an error is
// authentic. Both stay.
func (s *Session) Open(dst, sealed []byte) (plain []byte, n int, err error) {
	for {
		size, err := s.in.next(sealed[n:])
		if err != nil || size == 0 {
			return dst, n, err
		}
		msg, err := s.in.open(dst, sealed[n+lenLen:n+size])
		if err == nil || err == io.EOF {
			dst, n = msg, n+size
		}
		if err != nil {
			return dst, n, err
		}
	}
}

// next returns the length of the message at the beginning of b with its
// prefix, 0 if it is not complete.
func (h *half) next(b []byte) (int, error) {
	switch {
	case h.err != nil:
		return 0, h.err
	case h.ended && len(b) > 0:
		h.err = ErrStream
		return 0, h.err
	case h.ended:
		return 0, io.EOF
	case len(b) < lenLen:
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(b))
	if n < tagLen {
		h.err = ErrStream
		return 0, h.err
	}
	if n += lenLen; len(b) < n {
		return 0, nil
	}
	return n, nil
}

// open appends the plaintext of one message; dst's free room may begin
// exactly where msg does.
func (h *half) open(dst, msg []byte) ([]byte, error) {
	plain, err := h.state.Decrypt(dst, nil, msg)
	if err != nil {
		h.err = ErrStream
		return dst, h.err
	}
	n := len(msg) - tagLen
	h.count(n)
	if n == 0 {
		h.ended = true
		return plain, io.EOF
	}
	return plain, nil
}
