package identity_test

import (
	"crypto/hkdf"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A member is a node with its mesh.
type member struct {
	store *identity.Store
	id    *identity.Identity
	mesh  *identity.Mesh
}

func newMember(tb testing.TB) member {
	tb.Helper()
	s, err := identity.OpenStore(filepath.Join(tb.TempDir(), "home"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	id, err := s.Identity("desk")
	if err != nil {
		tb.Fatal(err)
	}
	m, err := s.CreateMesh()
	if err != nil {
		tb.Fatal(err)
	}
	return member{s, id, m}
}

// fellow returns another node of m's mesh, with a key of its own.
func (m member) fellow(tb testing.TB) member {
	other := newMember(tb)
	if err := other.store.SetMesh(m.mesh); err != nil {
		tb.Fatal(err)
	}
	other.mesh = must(other.store.Mesh())
	return other
}

func (m member) secret() []byte {
	return must(os.ReadFile(filepath.Join(m.store.Path(), "mesh.key")))
}

// derived is what the package derives, done here once more.
func derived(secret []byte, label string) []byte {
	return must(hkdf.Key(sha256.New, secret, nil, label, 32))
}

var now = time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC)

const cellName sdk.CellName = "worker"
