package membership

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

// A Kernel is what a [Live] needs of the kernel that runs it.
type Kernel interface {
	// UseMesh makes a mesh the one of links between machines, UseDenied keeps
	// nodes out. Both return how many links they ended.
	UseMesh(m *identity.Mesh) (links int)
	UseDenied(d identity.Denied) (links int)
	// Seen lists the names of the nodes that are known.
	Seen() map[sdk.NodeID]sdk.CellName
	// ListensAt lists where other machines come in.
	ListensAt() []sdk.Addr
	// Note tells the operator something.
	Note(text string)
}

// A Live is a node in its mesh while a kernel runs: its keys, and who is kept
// out. It is safe for concurrent use.
type Live struct {
	k     Kernel
	files *Member
	self  *identity.Identity

	mesh    atomic.Pointer[identity.Mesh]
	inviter atomic.Pointer[identity.Inviter]
	denied  atomic.Pointer[identity.Denied]

	changing sync.Mutex // held by whoever changes mesh or denied after the start
}

var (
	_ admin.Member  = (*Live)(nil)
	_ admin.Inviter = (*Live)(nil)
	_ admin.Guard   = (*Live)(nil)
)

// Run loads what a kernel needs to be a node of a mesh. The private mesh of a
// checkout is made when it is first needed; a named one must be there, or
// machines that were meant to be in one mesh would each be alone in theirs. m
// stays open as long as the kernel runs.
func (m *Member) Run(k Kernel) (*Live, error) {
	mesh, err := m.load()
	if err != nil {
		return nil, err
	}
	l := &Live{k: k, files: m}
	if l.self, err = m.store.Identity(m.node); err != nil {
		return nil, err
	}
	denied, err := m.store.Denied()
	if err != nil {
		return nil, err
	}
	l.setMesh(mesh)
	l.denied.Store(&denied)
	return l, nil
}

// NodeDir returns the directory of the node, and makes it where there is none.
func (m *Member) NodeDir() (string, error) { return m.store.NodeDir(m.node) }

// Boot counts the starts of the node.
func (l *Live) Boot() ([16]byte, error) { return l.files.store.Boot(l.files.node) }

// Self returns the keys of the node.
func (l *Live) Self() *identity.Identity { return l.self }

// Mesh returns the mesh, which may be another one at the next call.
func (l *Live) Mesh() *identity.Mesh { return l.mesh.Load() }

// DeniedNodes returns who is kept out.
func (l *Live) DeniedNodes() []sdk.NodeID { return l.denied.Load().List() }

// IsDenied reports whether a node is kept out.
func (l *Live) IsDenied(node sdk.NodeID) bool {
	d := l.denied.Load()
	return d != nil && d.Has(node)
}

// setMesh makes a mesh the one of the node. Invitations into the one before
// are void.
func (l *Live) setMesh(mesh *identity.Mesh) {
	if old := l.inviter.Load(); old != nil {
		old.Revoke()
	}
	l.mesh.Store(mesh)
	l.inviter.Store(identity.NewInviter(l.self, mesh, sdk.CellName(l.files.name()), l.IsDenied))
}

// name is what people call the mesh.
func (m *Member) name() string { return MeshName(string(m.mesh)) }

// ServeJoin gives the mesh secret to whoever comes with an invitation.
func (l *Live) ServeJoin(ctx context.Context, conn net.Conn) error {
	node, err := l.inviter.Load().Serve(ctx, conn)
	if err != nil {
		return err
	}
	l.k.Note(fmt.Sprintf("node %s has joined the mesh, by an invitation of this node", node))
	return nil
}

// Identity implements [admin.Member].
func (l *Live) Identity(context.Context) (*admin.Identity, error) {
	return Describe(l.files.store, l.self, l.Mesh(), l.files.mesh, l.files.node), nil
}

// RotateMesh implements [admin.Member].
func (l *Live) RotateMesh(context.Context) (*admin.Rotation, error) {
	l.changing.Lock()
	defer l.changing.Unlock()
	mesh, err := l.files.store.Rotate()
	if err != nil {
		return nil, err
	}
	l.setMesh(mesh)
	r := &admin.Rotation{Mesh: l.files.name(), MeshID: ShortID(mesh), Links: l.k.UseMesh(mesh)}
	l.k.Note(fmt.Sprintf("the secret of the mesh was replaced; %s", countOf(r.Links, "link was ended", "links were ended")))
	return r, nil
}

// countOf is "1 link was ended" or "3 links were ended".
func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// Invite implements [admin.Inviter].
func (l *Live) Invite(_ context.Context, r admin.InviteRequest) (*admin.Invitation, error) {
	addrs, err := ReachableAt(l.k.ListensAt(), r.Addresses)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(identity.InvitationLife)
	i, err := l.inviter.Load().Invite(addrs)
	if err != nil {
		return nil, err
	}
	l.k.Note(fmt.Sprintf("a node was invited to join the mesh until %s", until.Format(time.TimeOnly)))
	a := &admin.Invitation{Mesh: string(i.Mesh), NodeID: i.Node, Code: i.Code(), Until: until}
	for _, addr := range i.Addrs {
		a.Addresses = append(a.Addresses, addr.String())
	}
	return a, nil
}

// Revoke implements [admin.Inviter].
func (l *Live) Revoke(context.Context) (int, error) {
	v := l.inviter.Load()
	n := v.Open()
	v.Revoke()
	if n > 0 {
		l.k.Note(countOf(n, "invitation is void", "invitations are void"))
	}
	return n, nil
}

// Denied implements [admin.Guard].
func (l *Live) Denied(context.Context) ([]admin.Denial, error) {
	return Denials(*l.denied.Load()), nil
}

// Deny implements [admin.Guard].
func (l *Live) Deny(_ context.Context, who string) (*admin.Denial, error) {
	node, err := l.nodeNamed(who)
	if err != nil {
		return nil, fmt.Errorf("deny %.60q: %w", who, err)
	}
	name := string(l.k.Seen()[node])
	return l.changeDenied("denied", func() (*admin.Denial, error) {
		d, err := Deny(l.files.store, l.self.Node(), node)
		if err == nil {
			d.Node = name
		}
		return d, err
	})
}

// Undeny implements [admin.Guard].
func (l *Live) Undeny(_ context.Context, who string) (*admin.Denial, error) {
	return l.changeDenied("not denied any more", func() (*admin.Denial, error) { return Undeny(l.files.store, who) })
}

// changeDenied changes the stored list and makes it effective.
func (l *Live) changeDenied(what string, change func() (*admin.Denial, error)) (*admin.Denial, error) {
	l.changing.Lock()
	defer l.changing.Unlock()
	d, err := change()
	if err != nil {
		return nil, err
	}
	list, err := l.files.store.Denied()
	if err != nil {
		return nil, err
	}
	l.denied.Store(&list)
	d.Links = l.k.UseDenied(list)
	l.k.Note(fmt.Sprintf("node %s is %s; %s", d.NodeID, what, countOf(d.Links, "link was ended", "links were ended")))
	return d, nil
}

// nodeNamed finds a node by its id, or by a name that only one is known by.
func (l *Live) nodeNamed(who string) (sdk.NodeID, error) {
	if node, err := sdk.ParseNodeID(who); err == nil {
		return node, nil
	}
	name, err := sdk.ParseCellName(who)
	if err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "want the id or the name of a node")
	}
	var ids []string
	for node, called := range l.k.Seen() {
		if called == name {
			ids = append(ids, string(node))
		}
	}
	if name == l.files.node {
		ids = append(ids, string(l.self.Node()))
	}
	switch len(ids) {
	case 0:
		return "", sdk.Errorf(sdk.CodeNotFound, "no node of that name was seen in this mesh; an id is taken whether it was seen or not")
	case 1:
		return sdk.NodeID(ids[0]), nil
	}
	slices.Sort(ids)
	return "", sdk.Errorf(sdk.CodeInvalid, "%d nodes are called that: %s", len(ids), strings.Join(ids[:min(len(ids), 8)], ", "))
}

// reload makes effective what the files say. What can not be read leaves
// things as they are: nobody is let in by a mistake.
func (l *Live) reload() {
	l.changing.Lock()
	defer l.changing.Unlock()
	switch mesh, err := l.files.store.Mesh(); {
	case errors.Is(err, fs.ErrNotExist): // thrown away with its checkout, as a private one may be
	case err != nil:
		l.k.Note(fmt.Sprintf("the mesh stays as it is: %v", err))
	case mesh.ID() != l.Mesh().ID():
		l.setMesh(mesh)
		n := l.k.UseMesh(mesh)
		l.k.Note(fmt.Sprintf("the secret of the mesh was replaced on disk; %s", countOf(n, "link was ended", "links were ended")))
	}
	switch d, err := l.files.store.Denied(); {
	case err != nil:
		l.k.Note(fmt.Sprintf("the deny list stays as it is: %v", err))
	case !slices.Equal(d.List(), l.DeniedNodes()):
		l.denied.Store(&d)
		n := l.k.UseDenied(d)
		l.k.Note(fmt.Sprintf("the deny list was changed on disk; %s", countOf(n, "link was ended", "links were ended")))
	}
}
