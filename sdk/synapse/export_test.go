package synapse

import (
	"context"
	"io"
)

// SecureFrom is Secure with ephemeral keys from random.
func SecureFrom(ctx context.Context, s Stream, c Config, random io.Reader) (*Session, error) {
	return secure(ctx, s, c, random)
}

// MeetFrom is Meet with ephemeral keys from random.
func MeetFrom(ctx context.Context, s Stream, m Meeting, random io.Reader) (*Session, error) {
	return meet(ctx, s, m, random)
}

// KeyFrom is GenerateKey from random.
func KeyFrom(random io.Reader) (*Key, error) { return newKey(random) }

// Prologue returns the prologue of c.
func Prologue(c Config) []byte { return c.prologue() }

// Age makes both sides of a direction as if n bytes had passed.
func Age(from, to *Session, n uint64) { from.out.bytes, to.in.bytes = n, n }
