package kernel

import (
	"context"
	"path/filepath"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// openMember loads the node's keys.
func (k *Kernel) openMember(end *closers) error {
	g := k.genome.Kernel
	files, err := membership.Open(sdk.CellName(g.Mesh), sdk.CellName(g.Node), filepath.Dir(k.genome.File))
	if err != nil {
		return err
	}
	end.add(files.Close)
	if k.Live, err = files.Run(forMember{k}); err != nil {
		return err
	}
	dir, err := files.NodeDir()
	if err != nil {
		return err
	}
	k.dirs.books = filepath.Join(dir, "ledger")
	// Two kernels that are one node would take each other's links and calls.
	err = lock(filepath.Join(dir, "lock"), end)
	if sdk.CodeOf(err) == sdk.CodeUnavailable {
		return sdk.Errorf(sdk.CodeInvalid, "start as node %q: a running kernel is that node already: want another name in kernel.node", g.Node)
	}
	return err
}

// watchMember makes effective what others write into the files of the mesh.
func (k *Kernel) watchMember(end *closers) error {
	stop, err := k.Live.Watch()
	if err == nil {
		end.add(stop)
	}
	return err
}

// forMember is the kernel as its membership sees it.
type forMember struct{ *Kernel }

// UseMesh implements [membership.Kernel]. Who was seen of the mesh before is
// forgotten.
func (k forMember) UseMesh(mesh *identity.Mesh) (links int) {
	k.peers.Clear()
	links = k.golgi.SetMesh(mesh)
	k.network.Changed() // as a member of it
	return links
}

// UseDenied implements [membership.Kernel].
func (k forMember) UseDenied(d identity.Denied) (links int) {
	k.peers.Deny(d.List())
	return k.golgi.Recheck()
}

// Seen implements [membership.Kernel].
func (k forMember) Seen() map[sdk.NodeID]sdk.CellName {
	seen := make(map[sdk.NodeID]sdk.CellName)
	for _, r := range k.peers.Nodes() {
		if r.Node != "" {
			seen[r.Node] = r.Name
		}
	}
	return seen
}

// ListensAt implements [membership.Kernel].
func (k forMember) ListensAt() []sdk.Addr {
	var list []sdk.Addr
	for _, d := range k.network.Doors() {
		addrs, _ := d.Listener.Addrs()
		list = append(list, addrs...)
	}
	return list
}

// Note implements [membership.Kernel].
func (k forMember) Note(text string) { k.note(text) }

// certifyTransport signs the certificate of a transport.
func (k *Kernel) certifyTransport(_ context.Context, _ string, spki []byte) ([]byte, error) {
	return k.Self().CertifyTransport(spki, nil, time.Now())
}

// pluginSecret is what a plugin's own keys derive from.
func (k *Kernel) pluginSecret(kind plugin.Kind, name string) []byte {
	key := k.Self().Subkey("plugin " + string(kind) + "-" + name)
	return key[:]
}
