package synapse

import (
	"context"
	"errors"
	"io"

	"github.com/flynn/noise"
)

// A Meeting is one side of [Meet].
type Meeting struct {
	Initiator bool
	// Secret is the one-time key. Its owner wipes it; a zero one is refused.
	Secret [32]byte
	// Prologue is what both sides know beforehand, and must agree on.
	Prologue []byte
}

// Meet runs Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s on s between two that share
// a secret: the responder answers nobody who does not know it, and what is
// said afterwards stays secret even if it becomes known later. Both sides are
// authenticated by the secret alone; who they are is for them to prove to each
// other over [Session.Hash]. Errors and limits are those of [Secure].
func Meet(ctx context.Context, s Stream, m Meeting) (*Session, error) {
	return meet(ctx, s, m, nil)
}

func meet(ctx context.Context, s Stream, m Meeting, random io.Reader) (*Session, error) {
	if m.Secret == [32]byte{} {
		return nil, errors.New("secure link: no secret")
	}
	h, err := newHandshake(s, noise.Config{
		CipherSuite: suite(), Random: random, Pattern: noise.HandshakeNN, Initiator: m.Initiator,
		Prologue: m.Prologue, PresharedKey: m.Secret[:], PresharedKeyPlacement: 0,
	})
	if err != nil {
		return nil, err
	}
	err = within(ctx, s, func(context.Context) error {
		if m.Initiator {
			if err := h.send(nil); err != nil {
				return err
			}
		}
		if payload, err := h.receive(); err != nil || len(payload) != 0 {
			return ErrHandshake
		}
		if !m.Initiator {
			return h.send(nil)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h.session(m.Initiator), nil
}
