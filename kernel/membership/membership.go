// Package membership is what a node is in its mesh where no kernel runs: its
// files ([Open]), the way into a mesh ([Join]), and how others are told where
// a kernel can be reached ([ReachableAt]). A kernel that runs says and does the
// same through its admin API; both are [admin.Member] and [admin.Guard].
package membership

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

// A NotMemberError is a mesh that this machine is not in.
type NotMemberError struct {
	Mesh sdk.CellName
	Dir  string // where its secret would be
}

// Error names the mesh, and what is missing.
func (e *NotMemberError) Error() string {
	return fmt.Sprintf("open mesh %q: this machine is not in it: %s has no mesh.key", e.Mesh, e.Dir)
}

// Unwrap is [sdk.CodeNotFound].
func (e *NotMemberError) Unwrap() error { return sdk.Errorf(sdk.CodeNotFound, "%s", e.Error()) }

// Path returns the directory of a mesh: of a named one, or, where name is
// empty, that of the checkout itself.
func Path(name sdk.CellName, checkout string) (string, error) {
	if name == "" {
		return identity.PrivateDir(checkout), nil
	}
	home, err := identity.Home()
	if err != nil {
		return "", err
	}
	return identity.MeshDir(home, name), nil
}

// A Member is what a node has on disk for its mesh: what a kernel would open,
// without one. Kernels that run notice what it changes.
type Member struct {
	store *identity.Store
	mesh  sdk.CellName // empty: the private one of a checkout
	node  sdk.CellName
}

var (
	_ admin.Member = (*Member)(nil)
	_ admin.Guard  = (*Member)(nil)
)

// Open opens the directory of a mesh, and makes it where there is
// none: of a named one or, where mesh is empty, that of the checkout. Close it.
func Open(mesh, node sdk.CellName, checkout string) (*Member, error) {
	if err := HideMemory(); err != nil {
		return nil, err
	}
	path, err := Path(mesh, checkout)
	if err != nil {
		return nil, err
	}
	store, err := identity.OpenStore(path)
	if err != nil {
		return nil, err
	}
	return &Member{store, mesh, node}, nil
}

// Close closes the directory.
func (m *Member) Close() error { return m.store.Close() }

// load returns the mesh. That of a checkout is made if it is not there yet.
func (m *Member) load() (*identity.Mesh, error) {
	mesh, err := m.store.Mesh()
	if !errors.Is(err, fs.ErrNotExist) {
		return mesh, err
	}
	if m.mesh != "" {
		return nil, &NotMemberError{m.mesh, m.store.Path()}
	}
	return m.store.CreateMesh()
}

// Identity implements [admin.Member]. Like the start of a kernel it makes what
// is not there yet: the key of the node, and the private mesh of a checkout.
func (m *Member) Identity(context.Context) (*admin.Identity, error) {
	_, before := os.Lstat(identityFile(m.store, m.node))
	self, err := m.store.Identity(m.node)
	if err != nil {
		return nil, err
	}
	defer self.Wipe()
	mesh, err := m.load()
	if missing := (*NotMemberError)(nil); err != nil && !errors.As(err, &missing) {
		return nil, err
	}
	who := Describe(m.store, self, mesh, m.mesh, m.node)
	who.New = errors.Is(before, fs.ErrNotExist)
	return who, nil
}

func identityFile(s *identity.Store, node sdk.CellName) string {
	return filepath.Join(s.Path(), string(node), "identity")
}

// Describe says who a node is; mesh is nil if it is in none.
func Describe(s *identity.Store, self *identity.Identity, mesh *identity.Mesh, name, node sdk.CellName) *admin.Identity {
	who := &admin.Identity{
		Node: string(node), NodeID: self.Node(), Fingerprint: self.Fingerprint(), PublicKey: self.AuthorizedKey(),
		Mesh: MeshName(string(name)), Dir: s.Path(), File: identityFile(s, node),
	}
	if mesh != nil {
		who.MeshID = ShortID(mesh)
	}
	return who
}

// MeshName is what people call a mesh: "private" is that of a checkout.
func MeshName(mesh string) string {
	if mesh == "" {
		return "private"
	}
	return mesh
}

// ShortID is the beginning of a mesh's id, for people.
func ShortID(m *identity.Mesh) string {
	id := m.ID()
	return hex.EncodeToString(id[:4])
}

// CreateMesh makes the secret of a new mesh. Where there is one the error is
// fs.ErrExist.
func (m *Member) CreateMesh() (id string, err error) {
	mesh, err := m.store.CreateMesh()
	if err != nil {
		return "", err
	}
	defer mesh.Wipe()
	return ShortID(mesh), nil
}

// RotateMesh implements [admin.Member].
func (m *Member) RotateMesh(context.Context) (*admin.Rotation, error) {
	if _, err := m.load(); err != nil {
		return nil, err
	}
	mesh, err := m.store.Rotate()
	if err != nil {
		return nil, err
	}
	defer mesh.Wipe()
	return &admin.Rotation{Mesh: MeshName(string(m.mesh)), MeshID: ShortID(mesh)}, nil
}

// Denied implements [admin.Guard].
func (m *Member) Denied(context.Context) ([]admin.Denial, error) {
	d, err := m.store.Denied()
	return Denials(d), err
}

// Denials lists who is on a deny list.
func Denials(d identity.Denied) []admin.Denial {
	var list []admin.Denial
	for _, node := range d.List() {
		list = append(list, admin.Denial{NodeID: node})
	}
	return list
}

// Deny implements [admin.Guard]. Names are not known without a kernel.
func (m *Member) Deny(_ context.Context, who string) (*admin.Denial, error) {
	node, err := sdk.ParseNodeID(who)
	if err != nil {
		if _, err := sdk.ParseCellName(who); err == nil {
			return nil, sdk.Errorf(sdk.CodeNotFound, "deny %.60q: no kernel runs here that could know whose name that is; an id is taken at any time", who)
		}
		return nil, sdk.Errorf(sdk.CodeInvalid, "deny %.60q: want the id or the name of a node", who)
	}
	self, err := m.store.Identity(m.node)
	if err != nil {
		return nil, err
	}
	defer self.Wipe()
	return Deny(m.store, self.Node(), node)
}

// Deny puts a node on the deny list of the mesh, but not the one that asks.
func Deny(s *identity.Store, self, node sdk.NodeID) (*admin.Denial, error) {
	if node == self {
		return nil, sdk.Errorf(sdk.CodeInvalid, "deny %s: it is this node", node)
	}
	_, err := s.Deny(node)
	return &admin.Denial{NodeID: node}, err
}

// Undeny implements [admin.Guard].
func (m *Member) Undeny(_ context.Context, who string) (*admin.Denial, error) {
	return Undeny(m.store, who)
}

// Undeny takes a node off the deny list. One that is not on it is
// [sdk.CodeNotFound].
func Undeny(s *identity.Store, who string) (*admin.Denial, error) {
	node, err := sdk.ParseNodeID(who)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "undeny %q: want the id as the list has it: %v", who, err)
	}
	d, err := s.Denied()
	if err != nil {
		return nil, err
	}
	if !d.Has(node) {
		return nil, sdk.Errorf(sdk.CodeNotFound, "undeny %s: it is not denied", node)
	}
	_, err = s.Undeny(node)
	return &admin.Denial{NodeID: node}, err
}

// A Mesh is a named mesh that this machine is in.
type Mesh struct {
	Name  string   `json:"name"`
	ID    string   `json:"id,omitempty"` // its beginning
	Nodes []string `json:"nodes"`        // that have a key here
	Dir   string   `json:"dir"`
	// Problem says why it can not be used.
	Problem string `json:"problem,omitempty"`
}

// Meshes lists the named meshes of this user, by name.
func Meshes() ([]Mesh, error) {
	if err := HideMemory(); err != nil {
		return nil, err
	}
	home, err := identity.Home()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(home)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list meshes: %w", err)
	}
	var list []Mesh
	for _, e := range entries {
		name, err := sdk.ParseCellName(e.Name())
		if _, none := os.Lstat(filepath.Join(home, e.Name(), "mesh.key")); err != nil || none != nil {
			continue
		}
		list = append(list, meshAt(name, identity.MeshDir(home, name)))
	}
	return list, nil
}

func meshAt(name sdk.CellName, dir string) Mesh {
	m := Mesh{Name: string(name), Dir: dir, Nodes: []string{}}
	keys, _ := filepath.Glob(filepath.Join(dir, "*", "identity")) // fails for patterns only
	for _, k := range keys {
		m.Nodes = append(m.Nodes, filepath.Base(filepath.Dir(k)))
	}
	store, err := identity.OpenStore(dir)
	if err == nil {
		defer store.Close()
		var mesh *identity.Mesh
		if mesh, err = store.Mesh(); err == nil {
			m.ID = ShortID(mesh)
			mesh.Wipe()
		}
	}
	if err != nil {
		m.Problem = err.Error()
	}
	return m
}
