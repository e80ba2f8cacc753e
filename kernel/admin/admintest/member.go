package admintest

import (
	"context"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// Node is the id of a [Fake], and of nobody else.
var Node = sdk.FormatNodeID([]byte("a node of the imagination, no one"[:32]))

// Identity implements [admin.Member].
func (f *Fake) Identity(context.Context) (*admin.Identity, error) {
	return &admin.Identity{
		Node: f.V.Node, NodeID: Node, Fingerprint: "SHA256:fake", PublicKey: "ssh-ed25519 AAAAfake",
		Mesh: f.S.Mesh, MeshID: "0a1b2c3d", Dir: "/nowhere/.cell/mesh", File: "/nowhere/.cell/mesh/desk-fake/identity",
	}, f.Fail["Identity"]
}

// RotateMesh implements [admin.Member].
func (f *Fake) RotateMesh(context.Context) (*admin.Rotation, error) {
	return &admin.Rotation{Mesh: f.S.Mesh, MeshID: "4e5f6071", Links: 2}, f.note("RotateMesh", "rotate")
}

// Invite implements [admin.Inviter].
func (f *Fake) Invite(_ context.Context, r admin.InviteRequest) (*admin.Invitation, error) {
	return &admin.Invitation{
		Mesh: f.S.Mesh, NodeID: Node, Addresses: append(r.Addresses, "quic://192.0.2.1:9000"),
		Code: "cellkernel-invitation-1:fake", Until: time.Now().Add(10 * time.Minute),
	}, f.note("Invite", "invite")
}

// Revoke implements [admin.Inviter].
func (f *Fake) Revoke(context.Context) (int, error) { return 3, f.note("Revoke", "revoke") }

// Denied implements [admin.Guard].
func (f *Fake) Denied(context.Context) ([]admin.Denial, error) { return f.Kept, f.Fail["Denied"] }

// Deny implements [admin.Guard].
func (f *Fake) Deny(_ context.Context, who string) (*admin.Denial, error) {
	return &admin.Denial{NodeID: Node, Node: who, Links: 1}, f.note("Deny", "deny %s", who)
}

// Undeny implements [admin.Guard].
func (f *Fake) Undeny(_ context.Context, who string) (*admin.Denial, error) {
	return &admin.Denial{NodeID: Node, Node: who}, f.note("Undeny", "undeny %s", who)
}
