package identity

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/chacha20poly1305"
)

const secretLen = 32

// A Mesh is what follows from a mesh secret. It is safe for concurrent use.
// However it is formatted, it shows the beginning of its id only.
type Mesh struct {
	id   [32]byte
	tag  [tagLen]byte     // of announcements
	keys func() *meshKeys // a function for the reason of [Identity].key
}

type meshKeys struct {
	secret   [secretLen]byte
	link     [32]byte
	member   [32]byte
	announce cipher.AEAD
}

// NewMesh makes a mesh with a new secret, which is not stored anywhere yet.
func NewMesh() *Mesh {
	var secret [secretLen]byte
	rand.Read(secret[:]) // never fails: see package crypto/rand
	defer clear(secret[:])
	return meshOf(secret)
}

// MeshOf returns the mesh of a secret of 32 bytes that two kernels have by
// another way than a [Store]: those of a junction, by a file that only their
// user can read.
func MeshOf(secret []byte) (*Mesh, error) {
	if len(secret) != secretLen {
		return nil, fmt.Errorf("make mesh: secret of %d bytes: want %d", len(secret), secretLen)
	}
	return meshOf([secretLen]byte(secret)), nil
}

func meshOf(secret [secretLen]byte) *Mesh {
	defer clear(secret[:])
	announce := derive(secret[:], "cellkernel/mesh/announce/v1\x00")
	defer clear(announce[:])
	aead, err := chacha20poly1305.NewX(announce[:])
	if err != nil {
		panic(err) // only for keys of another length
	}
	keys := &meshKeys{
		secret: secret, announce: aead,
		link:   derive(secret[:], "cellkernel/mesh/link/v1\x00"),
		member: derive(secret[:], "cellkernel/mesh/member/v1\x00"),
	}
	tag := derive(secret[:], "cellkernel/mesh/tag/v1\x00")
	return &Mesh{
		id: derive(secret[:], "cellkernel/mesh/id/v1\x00"), tag: [tagLen]byte(tag[:]),
		keys: func() *meshKeys { return keys },
	}
}

// ID returns the mesh's id: different for every secret, and no secret itself.
func (m *Mesh) ID() [32]byte { return m.id }

// LinkKey returns a copy of the key that seals link headers. It stays in
// kernels: whoever has it reaches every cell's door.
func (m *Mesh) LinkKey() []byte {
	key := m.keys().link
	return key[:]
}

func (m *Mesh) secret() [secretLen]byte { return m.keys().secret }

// mac proves membership: HMAC-SHA-256 of msg after domain.
func (m *Mesh) mac(domain string, msg []byte) []byte {
	h := hmac.New(sha256.New, m.keys().member[:])
	h.Write([]byte(domain))
	h.Write(msg)
	return h.Sum(nil)
}

// Wipe overwrites the secret and the keys, which nobody may be using.
func (m *Mesh) Wipe() { *m.keys() = meshKeys{announce: m.keys().announce} }

// String returns "mesh" and the beginning of its id.
func (m Mesh) String() string { return fmt.Sprintf("mesh %x", m.id[:4]) }

// Format implements [fmt.Formatter]: every verb writes [Mesh.String].
func (m Mesh) Format(f fmt.State, _ rune) { write(f, m.String()) }

// LogValue implements [slog.LogValuer].
func (m Mesh) LogValue() slog.Value { return slog.StringValue(m.String()) }
