package synapse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/flynn/noise"
)

// Limits of a handshake.
const (
	MaxCertificate = 1024            // bytes of a certificate
	MaxHeader      = 512             // bytes of a link header
	Budget         = 5 * time.Second // for a whole handshake, verdicts included
)

const (
	keyLen   = 32
	tagLen   = 16
	lenLen   = 2
	maxHello = keyLen + keyLen + tagLen + MaxCertificate + tagLen // the second message, the longest
	domain   = "cellkernel/synapse/v1\x00"
)

// ErrHandshake is every failure of a handshake that the other side, or
// whoever is between, can cause. It has no detail on purpose.
var ErrHandshake = errors.New("secure link: handshake refused")

// A Stream is what a handshake runs on: reliable, ordered, and of this
// package alone until it returns. A [net.Conn] is one.
type Stream interface {
	io.ReadWriter
	SetDeadline(t time.Time) error
}

// A Peer is the other side of a handshake: its certificate, not yet checked
// by anybody, and the key it has proved, or is about to prove, to hold.
type Peer struct {
	Certificate []byte // 1 to [MaxCertificate] bytes, of the callee to keep
	Key         [32]byte
	// Hash is the handshake hash, 32 bytes that both sides have in common and
	// no other link has. It is nil while the handshake is not finished.
	Hash []byte
}

// A Config is one side of a handshake. All fields are needed.
type Config struct {
	Initiator   bool // of the side that opened the link
	Key         *Key
	Certificate []byte // for Key; not read here

	// What both sides know of the link beforehand.
	MeshID  [32]byte
	Header  []byte   // the link header as it was sent, at most [MaxHeader] bytes
	Binding [32]byte // of the channel below; zero where there is none

	// Admit says whether the other side may be talked to. It must check that
	// p.Certificate is valid and certifies p.Key. It is called once with
	// p.Hash when the handshake is finished. Initiators call it before that
	// without a hash, and show their certificate only if it returns nil.
	// ctx ends with the budget.
	Admit func(ctx context.Context, p Peer) error
}

func (c *Config) check() error {
	switch {
	case c.Key == nil || len(c.Key.pair().Private) != keyLen:
		return errors.New("secure link: no key")
	case len(c.Certificate) == 0 || len(c.Certificate) > MaxCertificate:
		return fmt.Errorf("secure link: certificate of %d bytes: want 1 to %d", len(c.Certificate), MaxCertificate)
	case len(c.Header) > MaxHeader:
		return fmt.Errorf("secure link: header of %d bytes: at most %d", len(c.Header), MaxHeader)
	case c.Admit == nil:
		return errors.New("secure link: nobody admits")
	}
	return nil
}

func (c *Config) prologue() []byte {
	b := append([]byte(domain), c.MeshID[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Header)))
	b = append(b, c.Header...)
	return append(b, c.Binding[:]...)
}

// Secure runs a handshake on s and returns the session for what follows. It
// reads not one byte more than the handshake has, and blocks at most [Budget]
// or until ctx is done. After an error the caller closes s without a word:
// the error is [ErrHandshake], what Admit returned, or the end of ctx.
func Secure(ctx context.Context, s Stream, c Config) (*Session, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return secure(ctx, s, c, nil)
}

// secure takes ephemeral keys from random; nil is the system's source.
func secure(ctx context.Context, s Stream, c Config, random io.Reader) (*Session, error) {
	h, err := newHandshake(s, noise.Config{
		CipherSuite: suite(), Random: random, Pattern: noise.HandshakeXX, Initiator: c.Initiator,
		Prologue: c.prologue(), StaticKeypair: *c.Key.pair(),
	})
	if err != nil {
		return nil, err
	}
	err = within(ctx, s, func(ctx context.Context) error {
		if c.Initiator {
			return h.initiate(ctx, &c)
		}
		return h.respond(ctx, &c)
	})
	if err != nil {
		return nil, err
	}
	return h.session(c.Initiator), nil
}

// A verdict is an error of this side's own, which is reported as it is.
type verdict struct{ error }

// Unwrap returns what Admit returned.
func (v verdict) Unwrap() error { return v.error }

// within runs a handshake inside the budget. The deadline of s is cleared
// when it succeeded.
func within(ctx context.Context, s Stream, run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = s.SetDeadline(time.Unix(1, 0)) // a stream that has none is closed by its owner
	})
	err := run(ctx)
	if !stop() {
		<-expired
		return fmt.Errorf("secure link: %w", context.Cause(ctx))
	}
	var own verdict
	switch {
	case errors.As(err, &own):
		return fmt.Errorf("secure link: %w", own.error)
	case err != nil:
		return ErrHandshake
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		return ErrHandshake
	}
	return nil
}

// A handshake is the state between two messages. After an error it must not
// be used again: the library does not take all of a message's effects back.
type handshake struct {
	s      Stream
	state  *noise.HandshakeState
	c1, c2 *noise.CipherState // set by the last message
	buf    [lenLen + maxHello]byte
}

func newHandshake(s Stream, c noise.Config) (*handshake, error) {
	state, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, fmt.Errorf("secure link: %w", err)
	}
	return &handshake{s: s, state: state}, nil
}

// initiate is the side of Noise that begins, section 7.5.
func (h *handshake) initiate(ctx context.Context, c *Config) error {
	if err := h.send(nil); err != nil {
		return err
	}
	p, err := h.receivePeer(c)
	if err != nil {
		return err
	}
	// Nobody is told who calls before it is known who answers.
	if err := c.Admit(ctx, p); err != nil {
		return verdict{err}
	}
	if err := h.send(c.Certificate); err != nil {
		return err
	}
	return h.admit(ctx, c, p)
}

func (h *handshake) respond(ctx context.Context, c *Config) error {
	if payload, err := h.receive(); err != nil || len(payload) != 0 {
		return ErrHandshake
	}
	if err := h.send(c.Certificate); err != nil {
		return err
	}
	p, err := h.receivePeer(c)
	if err != nil {
		return err
	}
	return h.admit(ctx, c, p)
}

func (h *handshake) admit(ctx context.Context, c *Config, p Peer) error {
	p.Hash = bytes.Clone(h.state.ChannelBinding())
	if err := c.Admit(ctx, p); err != nil {
		return verdict{err}
	}
	return nil
}

// receivePeer receives the message with the other side's key and certificate.
func (h *handshake) receivePeer(c *Config) (Peer, error) {
	cert, err := h.receive()
	if err != nil {
		return Peer{}, err
	}
	p := Peer{Certificate: cert, Key: [32]byte(h.state.PeerStatic())}
	if len(cert) == 0 || len(cert) > MaxCertificate || p.Key == c.Key.Public() {
		return Peer{}, ErrHandshake // nobody talks to itself: it is a reflection
	}
	return p, nil
}

// send writes the next message of the pattern.
func (h *handshake) send(payload []byte) error {
	msg, c1, c2, err := h.state.WriteMessage(h.buf[:lenLen], payload)
	if err != nil {
		return err
	}
	h.c1, h.c2 = c1, c2
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-lenLen))
	_, err = h.s.Write(msg)
	return err
}

// receive reads the next message of the pattern and returns a copy of its
// payload. The length is checked here: the library takes any.
func (h *handshake) receive() ([]byte, error) {
	if _, err := io.ReadFull(h.s, h.buf[:lenLen]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(h.buf[:]))
	if n < keyLen || n > maxHello {
		return nil, ErrHandshake
	}
	msg := h.buf[lenLen : lenLen+n]
	if _, err := io.ReadFull(h.s, msg); err != nil {
		return nil, err
	}
	payload, c1, c2, err := h.state.ReadMessage(nil, msg)
	if err != nil {
		return nil, err
	}
	h.c1, h.c2 = c1, c2
	return payload, nil
}

// session makes the session of a finished handshake. The responder sends with
// the second key (Noise section 5.3, Split).
func (h *handshake) session(initiator bool) *Session {
	out, in := h.c1, h.c2
	if !initiator {
		out, in = in, out
	}
	return &Session{out: half{state: out}, in: half{state: in}, hash: [32]byte(h.state.ChannelBinding())}
}
