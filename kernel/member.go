package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// A member is this node in its mesh: its keys, and who is kept out.
type member struct {
	store   *identity.Store
	self    *identity.Identity
	mesh    atomic.Pointer[identity.Mesh]
	inviter atomic.Pointer[identity.Inviter]
	denied  atomic.Pointer[identity.Denied]
}

// MeshPath returns the directory of a mesh: of a named one, or, where name is
// empty, that of the checkout itself.
func MeshPath(name sdk.CellName, checkout string) (string, error) {
	if name == "" {
		return identity.PrivateDir(checkout), nil
	}
	home, err := identity.Home()
	if err != nil {
		return "", err
	}
	return identity.MeshDir(home, name), nil
}

// openMember loads the node's keys. The private mesh of a checkout is made
// when it is first needed; a named one must be there, or machines that were
// meant to be in one mesh would each be alone in theirs.
func (k *Kernel) openMember(end *closers) error {
	name := sdk.CellName(k.genome.Kernel.Mesh)
	path, err := MeshPath(name, filepath.Dir(k.genome.File))
	if err != nil {
		return err
	}
	store, err := identity.OpenStore(path)
	if err != nil {
		return err
	}
	end.add(store.Close)
	k.member.store = store
	mesh, err := store.Mesh()
	if errors.Is(err, fs.ErrNotExist) {
		if name != "" {
			return sdk.Errorf(sdk.CodeNotFound, "open mesh %q: this machine is not in it: %s has no mesh.key", name, path)
		}
		mesh, err = store.CreateMesh()
	}
	if err != nil {
		return err
	}
	node := sdk.CellName(k.genome.Kernel.Node)
	if k.member.self, err = store.Identity(node); err != nil {
		return err
	}
	dir, err := store.NodeDir(node)
	if err != nil {
		return err
	}
	// Two kernels that are one node would take each other's links and calls.
	if err := lock(filepath.Join(dir, "lock"), end); sdk.CodeOf(err) == sdk.CodeUnavailable {
		return sdk.Errorf(sdk.CodeInvalid, "start as node %q: a running kernel is that node already: want another name in kernel.node", node)
	} else if err != nil {
		return err
	}
	k.setMesh(mesh)
	return k.loadDenied()
}

// setMesh makes a mesh the one of links between machines. Invitations into
// another one are void.
func (k *Kernel) setMesh(mesh *identity.Mesh) {
	m := &k.member
	if old := m.inviter.Load(); old != nil {
		old.Revoke()
	}
	name := sdk.CellName(k.genome.Kernel.Mesh)
	if name == "" {
		name = "private"
	}
	m.mesh.Store(mesh)
	m.inviter.Store(identity.NewInviter(m.self, mesh, name, m.isDenied))
	if k.golgi != nil {
		k.golgi.SetMesh(mesh)
	}
}

func (m *member) isDenied(node sdk.NodeID) bool {
	d := m.denied.Load()
	return d != nil && d.Has(node)
}

// loadDenied reads the deny list.
func (k *Kernel) loadDenied() error {
	d, err := k.member.store.Denied()
	if err != nil {
		return err
	}
	k.setDenied(d)
	return nil
}

// setDenied makes a deny list effective: links are cut at once.
func (k *Kernel) setDenied(d identity.Denied) {
	k.member.denied.Store(&d)
	if k.peers != nil {
		k.peers.Deny(d.List())
	}
	if k.golgi != nil {
		k.golgi.Recheck()
	}
}

// serveJoin gives the mesh secret to whoever comes with an invitation.
func (k *Kernel) serveJoin(ctx context.Context, conn net.Conn) error {
	node, err := k.member.inviter.Load().Serve(ctx, conn)
	if err != nil {
		return err
	}
	k.note(fmt.Sprintf("node %s has joined the mesh, by an invitation of this node", node))
	return nil
}

// certifyTransport signs the certificate of a transport.
func (k *Kernel) certifyTransport(_ context.Context, _ string, spki []byte) ([]byte, error) {
	return k.member.self.CertifyTransport(spki, nil, time.Now())
}

// pluginSecret is what a plugin's own keys derive from.
func (k *Kernel) pluginSecret(kind plugin.Kind, name string) []byte {
	key := k.member.self.Subkey("plugin " + string(kind) + "-" + name)
	return key[:]
}
