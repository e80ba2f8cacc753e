package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cellkernel/cellkernel/sdk"
)

// Names in a store.
const (
	meshFile     = "mesh.key"
	denyFile     = "deny"
	identityFile = "identity"
)

// Home returns the directory of named meshes: $CELLKERNEL_HOME, else ~/.cell.
func Home() (string, error) {
	if home := os.Getenv("CELLKERNEL_HOME"); home != "" {
		if !filepath.IsAbs(home) {
			return "", fmt.Errorf("find key directory: CELLKERNEL_HOME=%q: want an absolute path", home)
		}
		return filepath.Clean(home), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find key directory: %w", err)
	}
	return filepath.Join(home, ".cell"), nil
}

// MeshDir returns the directory of a named mesh.
func MeshDir(home string, mesh sdk.CellName) string { return filepath.Join(home, string(mesh)) }

// PrivateDir returns the directory of the mesh that a checkout has for itself.
// It is disposable with all else that is in .cell.
func PrivateDir(checkout string) string { return filepath.Join(checkout, ".cell", "mesh") }

// A Store is the directory of one mesh on this machine. Its methods may be
// called by several goroutines and processes; of two that write at the same
// time one fails with [sdk.CodeUnavailable].
type Store struct{ dir dir }

// OpenStore opens the directory of a mesh, and makes it where there is none.
// One that others can enter is refused.
func OpenStore(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open key directory: %w", err)
	}
	if err := makeDir(path); err != nil {
		return nil, err
	}
	d, err := openDir(path)
	if err != nil {
		return nil, err
	}
	return &Store{d}, nil
}

// Close closes the directory; what was loaded from it stays.
func (s *Store) Close() error { return s.dir.close() }

// Path returns the directory of the mesh.
func (s *Store) Path() string { return s.dir.path }

// NodeDir returns the directory of a node, and makes it where there is none.
// What else the node keeps may be put there.
func (s *Store) NodeDir(node sdk.CellName) (string, error) {
	d, err := s.nodeDir(node)
	if err != nil {
		return "", err
	}
	return d.path, d.close()
}

func (s *Store) nodeDir(node sdk.CellName) (dir, error) {
	if _, err := sdk.ParseCellName(string(node)); err != nil {
		return dir{}, fmt.Errorf("open node directory: %w", err)
	}
	path := filepath.Join(s.dir.path, string(node))
	if err := makeDir(path); err != nil {
		return dir{}, err
	}
	return openDir(path)
}

// Identity loads the identity of a node; the first time it makes one.
func (s *Store) Identity(node sdk.CellName) (*Identity, error) {
	d, err := s.nodeDir(node)
	if err != nil {
		return nil, err
	}
	defer d.close()
	id, err := loadIdentity(d)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	fresh, err := newIdentity()
	if err != nil {
		return nil, err
	}
	content, err := fresh.marshal(string(node))
	if err != nil {
		return nil, err
	}
	defer clear(content)
	if err := d.create(identityFile, content); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// What counts is what is there, whoever was first.
	fresh.Wipe()
	return loadIdentity(d)
}

// Mesh loads the mesh secret. Where there is none the error is fs.ErrNotExist:
// this machine has not joined.
func (s *Store) Mesh() (*Mesh, error) {
	b, err := s.dir.read(meshFile, secretLen)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if len(b) != secretLen {
		return nil, denied(filepath.Join(s.dir.path, meshFile), "it has %d bytes: want %d", len(b), secretLen)
	}
	return meshOf([secretLen]byte(b)), nil
}

// CreateMesh makes a new mesh. Where there is one the error is fs.ErrExist.
func (s *Store) CreateMesh() (*Mesh, error) {
	m := NewMesh()
	secret := m.secret()
	defer clear(secret[:])
	if err := s.dir.create(meshFile, secret[:]); err != nil {
		return nil, err
	}
	return m, nil
}

// SetMesh stores the secret of m, after a join, in the place of any other.
func (s *Store) SetMesh(m *Mesh) error {
	secret := m.secret()
	defer clear(secret[:])
	return s.dir.replace(meshFile, secret[:])
}

// Rotate replaces the mesh secret by a new one. Nothing made with the old one
// is accepted by whoever uses the new one; all other members must be invited
// again, and those who are not are out.
func (s *Store) Rotate() (*Mesh, error) {
	old, err := s.Mesh()
	if err != nil {
		return nil, err
	}
	old.Wipe()
	m := NewMesh()
	if err := s.SetMesh(m); err != nil {
		return nil, err
	}
	return m, nil
}
