package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/sdk"
)

// Identity implements [admin.Member].
func (k *Kernel) Identity(context.Context) (*admin.Identity, error) {
	m, g := &k.member, k.genomeNow().Kernel
	return membership.Describe(m.store, m.self, m.mesh.Load(), sdk.CellName(g.Mesh), sdk.CellName(g.Node)), nil
}

// RotateMesh implements [admin.Member].
func (k *Kernel) RotateMesh(context.Context) (*admin.Rotation, error) {
	m := &k.member
	m.changing.Lock()
	defer m.changing.Unlock()
	mesh, err := m.store.Rotate()
	if err != nil {
		return nil, err
	}
	r := &admin.Rotation{Mesh: k.mesh(), MeshID: membership.ShortID(mesh), Links: k.setMesh(mesh)}
	k.note(fmt.Sprintf("the secret of the mesh was replaced; %s", countOf(r.Links, "link was ended", "links were ended")))
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
func (k *Kernel) Invite(_ context.Context, r admin.InviteRequest) (*admin.Invitation, error) {
	addrs, err := membership.ReachableAt(k.listensAt(), r.Addresses)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(identity.InvitationLife)
	i, err := k.member.inviter.Load().Invite(addrs)
	if err != nil {
		return nil, err
	}
	k.note(fmt.Sprintf("a node was invited to join the mesh until %s", until.Format(time.TimeOnly)))
	a := &admin.Invitation{Mesh: string(i.Mesh), NodeID: i.Node, Code: i.Code(), Until: until}
	for _, addr := range i.Addrs {
		a.Addresses = append(a.Addresses, addr.String())
	}
	return a, nil
}

// listensAt lists where the doors of this kernel are now.
func (k *Kernel) listensAt() []sdk.Addr {
	var list []sdk.Addr
	for _, d := range k.openDoors() {
		addrs, _ := d.ln.Addrs()
		list = append(list, addrs...)
	}
	return list
}

// Revoke implements [admin.Inviter].
func (k *Kernel) Revoke(context.Context) (int, error) {
	v := k.member.inviter.Load()
	n := v.Open()
	v.Revoke()
	if n > 0 {
		k.note(countOf(n, "invitation is void", "invitations are void"))
	}
	return n, nil
}

// Denied implements [admin.Guard].
func (k *Kernel) Denied(context.Context) ([]admin.Denial, error) {
	return membership.Denials(*k.member.denied.Load()), nil
}

// Deny implements [admin.Guard].
func (k *Kernel) Deny(_ context.Context, who string) (*admin.Denial, error) {
	node, err := k.nodeNamed(who)
	if err != nil {
		return nil, err
	}
	name := k.nameOf(node)
	return k.changeDenied("denied", func() (*admin.Denial, error) {
		d, err := membership.Deny(k.member.store, k.member.self.Node(), node)
		if err == nil {
			d.Node = name
		}
		return d, err
	})
}

// Undeny implements [admin.Guard].
func (k *Kernel) Undeny(_ context.Context, who string) (*admin.Denial, error) {
	return k.changeDenied("not denied any more", func() (*admin.Denial, error) { return membership.Undeny(k.member.store, who) })
}

// changeDenied changes the stored list and makes it effective.
func (k *Kernel) changeDenied(what string, change func() (*admin.Denial, error)) (*admin.Denial, error) {
	m := &k.member
	m.changing.Lock()
	defer m.changing.Unlock()
	d, err := change()
	if err != nil {
		return nil, err
	}
	list, err := m.store.Denied()
	if err != nil {
		return nil, err
	}
	d.Links = k.setDenied(list)
	k.note(fmt.Sprintf("node %s is %s; %s", d.NodeID, what, countOf(d.Links, "link was ended", "links were ended")))
	return d, nil
}

// nodeNamed finds a node by its id, or by a name that only one is known by.
func (k *Kernel) nodeNamed(who string) (sdk.NodeID, error) {
	if node, err := sdk.ParseNodeID(who); err == nil {
		return node, nil
	}
	name, err := sdk.ParseCellName(who)
	if err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "find node %.60q: want its id or its name", who)
	}
	var ids []string
	for _, r := range k.peers.Nodes() {
		if r.Node != "" && r.Name == name {
			ids = append(ids, string(r.Node))
		}
	}
	switch len(ids) {
	case 0:
		return "", sdk.Errorf(sdk.CodeNotFound, "find node %q: no node of that name was seen: its id is always known", who)
	case 1:
		return sdk.NodeID(ids[0]), nil
	}
	slices.Sort(ids)
	return "", sdk.Errorf(sdk.CodeInvalid, "find node %q: several call themselves so: %s", who, strings.Join(ids, ", "))
}

// nameOf is what a node calls itself, if it was seen.
func (k *Kernel) nameOf(node sdk.NodeID) string {
	for _, r := range k.peers.Nodes() {
		if r.Node == node {
			return string(r.Name)
		}
	}
	return ""
}
