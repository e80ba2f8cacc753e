package admin_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestClientSeesAndChangesTheMembership(t *testing.T) {
	f := admintest.New()
	f.Kept = []admin.Denial{{NodeID: admintest.Node}}
	c, _ := serve(t, f)
	ctx := t.Context()
	id, err := c.Identity(ctx)
	want, _ := f.Identity(ctx)
	wantSame(t, "identity", id, want)
	rotation, err2 := c.RotateMesh(ctx)
	wantSame(t, "rotation", rotation, admin.Rotation{Mesh: "private", MeshID: "4e5f6071", Links: 2})
	i, err3 := c.Invite(ctx, admin.InviteRequest{Addresses: []string{"quic://192.0.2.9:1"}})
	if err3 == nil && (i.Code != "cellkernel-invitation-1:fake" || len(i.Addresses) != 2 || i.Until.IsZero()) {
		t.Errorf("invitation: got %+v", i)
	}
	n, err4 := c.Revoke(ctx)
	if n != 3 {
		t.Errorf("revoke: got %d, want 3", n)
	}
	list, err5 := c.Denied(ctx)
	wantSame(t, "denied", list, f.Kept)
	d, err6 := c.Deny(ctx, "kitchen/pi?") // nothing of a name gets lost on the way
	wantSame(t, "denial", d, admin.Denial{NodeID: admintest.Node, Node: "kitchen/pi?", Links: 1})
	_, err7 := c.Undeny(ctx, "pi")
	if err := errors.Join(err, err2, err3, err4, err5, err6, err7); err != nil {
		t.Error(err)
	}
	if got, want := f.Noted(), []string{"rotate", "invite", "revoke", "deny kitchen/pi?", "undeny pi"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

func TestMembershipErrorsArrive(t *testing.T) {
	f := admintest.New()
	f.Fail = map[string]error{
		"Invite": sdk.Errorf(sdk.CodeUnavailable, "nothing listens"), "Deny": sdk.Errorf(sdk.CodeNotFound, "no such node"),
		"RotateMesh": sdk.Errorf(sdk.CodeDenied, "mode 0644"),
	}
	c, _ := serve(t, f)
	_, err := c.Invite(t.Context(), admin.InviteRequest{})
	wantCode(t, err, sdk.CodeUnavailable, "nothing listens")
	_, err = c.Deny(t.Context(), "pi")
	wantCode(t, err, sdk.CodeNotFound, "no such node")
	_, err = c.RotateMesh(t.Context())
	wantCode(t, err, sdk.CodeDenied, "mode 0644")
	_, err = c.Invite(t.Context(), admin.InviteRequest{Addresses: slices.Repeat([]string{"h"}, admin.MaxAddresses+1)})
	wantCode(t, err, sdk.CodeInvalid, "at most")
	_, err = c.Invite(t.Context(), admin.InviteRequest{Addresses: []string{strings.Repeat("h", admin.MaxBody)}})
	wantCode(t, err, sdk.CodeTooLarge, "more than")
}
