package synapse

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"

	"github.com/flynn/noise"
)

// A Key is the X25519 key pair of one run of one cell. It is used by this
// package only and never written anywhere; formatted it shows its public half.
type Key struct {
	// pair is a function because nothing that formats by reflection, not even
	// a wrong verb for a struct around a Key, can look behind one.
	pair func() *noise.DHKey
}

// GenerateKey makes a key.
func GenerateKey() (*Key, error) { return newKey(rand.Reader) }

func newKey(random io.Reader) (*Key, error) {
	pair, err := noise.DH25519.GenerateKeypair(random)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &Key{func() *noise.DHKey { return &pair }}, nil
}

// Public returns the half that others may know, which the kernel certifies.
func (k Key) Public() [32]byte { return [32]byte(k.pair().Public) }

// Wipe overwrites the private half, which no handshake may be using. Those to
// come fail; sessions go on.
func (k Key) Wipe() {
	pair := k.pair()
	clear(pair.Private)
	pair.Private = nil
}

// String returns the beginning of the public half.
func (k Key) String() string { return fmt.Sprintf("x25519:%x", k.pair().Public[:4]) }

// Format implements [fmt.Formatter]: every verb writes [Key.String].
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue implements [slog.LogValuer].
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
