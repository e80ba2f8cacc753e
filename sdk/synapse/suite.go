package synapse

import (
	"crypto/cipher"
	"encoding/binary"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

// suite returns 25519_ChaChaPoly_BLAKE2s. Its cipher differs from the
// library's only in that it allocates nothing for a message.
func suite() noise.CipherSuite {
	return noise.NewCipherSuite(noise.DH25519, chachaPoly{}, noise.HashBLAKE2s)
}

// chachaPoly implements [noise.CipherFunc].
type chachaPoly struct{}

// Cipher implements noise.CipherFunc.
func (chachaPoly) Cipher(k [32]byte) noise.Cipher {
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic(err) // only for keys of another length
	}
	return &sealer{aead: aead}
}

// CipherName implements noise.CipherFunc.
func (chachaPoly) CipherName() string { return "ChaChaPoly" }

// A sealer keeps room for the nonce, which would escape to the heap with every
// message. It is not for concurrent use, as little as its CipherState.
type sealer struct {
	aead  cipher.AEAD
	nonce [chacha20poly1305.NonceSize]byte
}

// set encodes n: 32 zero bits, then 64 bits little endian (Noise section 12.3).
func (s *sealer) set(n uint64) []byte {
	binary.LittleEndian.PutUint64(s.nonce[4:], n)
	return s.nonce[:]
}

// Encrypt implements noise.Cipher.
func (s *sealer) Encrypt(out []byte, n uint64, ad, plain []byte) []byte {
	return s.aead.Seal(out, s.set(n), plain, ad)
}

// Decrypt implements noise.Cipher.
func (s *sealer) Decrypt(out []byte, n uint64, ad, sealed []byte) ([]byte, error) {
	return s.aead.Open(out, s.set(n), sealed, ad)
}
