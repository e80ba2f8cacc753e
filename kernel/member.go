package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/membership"
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

	changing sync.Mutex // held by whoever changes mesh or denied after the start
}

// openMember loads the node's keys. The private mesh of a checkout is made
// when it is first needed; a named one must be there, or machines that were
// meant to be in one mesh would each be alone in theirs.
func (k *Kernel) openMember(end *closers) error {
	if err := membership.HideMemory(); err != nil {
		return err
	}
	name := sdk.CellName(k.genome.Kernel.Mesh)
	path, err := membership.Path(name, filepath.Dir(k.genome.File))
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
			return &membership.NotMemberError{Mesh: name, Dir: path}
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

// setMesh makes a mesh the one of links between machines, and returns how many
// links of another one it ended. Invitations into that are void, and who was
// seen of it is forgotten.
func (k *Kernel) setMesh(mesh *identity.Mesh) (links int) {
	m := &k.member
	if old := m.inviter.Load(); old != nil {
		old.Revoke()
	}
	m.mesh.Store(mesh)
	m.inviter.Store(identity.NewInviter(m.self, mesh, sdk.CellName(k.mesh()), m.isDenied))
	if k.peers != nil {
		k.peers.Clear()
	}
	if k.golgi != nil {
		links = k.golgi.SetMesh(mesh)
		k.serves() // as a member of it
	}
	return links
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

// setDenied makes a deny list effective: links are cut at once. It returns how
// many.
func (k *Kernel) setDenied(d identity.Denied) (links int) {
	k.member.denied.Store(&d)
	if k.peers != nil {
		k.peers.Deny(d.List())
	}
	if k.golgi != nil {
		links = k.golgi.Recheck()
	}
	return links
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
