package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// MaxAddresses is how many addresses of its own an [InviteRequest] may add.
const MaxAddresses = 8

// A Member shows and changes what a node is in its mesh.
type Member interface {
	// Identity says who the node is.
	Identity(ctx context.Context) (*Identity, error)
	// RotateMesh replaces the mesh secret. All links of the old one are ended:
	// every other member has to be invited again.
	RotateMesh(ctx context.Context) (*Rotation, error)
}

// An Inviter lets other nodes into the mesh.
type Inviter interface {
	// Invite makes an invitation that is good once. Its answer is the only one
	// of this API that holds a secret.
	Invite(ctx context.Context, r InviteRequest) (*Invitation, error)
	// Revoke makes all open invitations void and returns how many they were.
	Revoke(ctx context.Context) (int, error)
}

// A Guard keeps nodes out that may know the mesh secret.
type Guard interface {
	// Denied lists the nodes that are kept out.
	Denied(ctx context.Context) ([]Denial, error)
	// Deny keeps a node out, by its id or by the name that only one node has,
	// and ends its links.
	Deny(ctx context.Context, who string) (*Denial, error)
	// Undeny lets a node in again. One that was not denied is [sdk.CodeNotFound].
	Undeny(ctx context.Context, who string) (*Denial, error)
}

// An Identity is who a node is. Nothing in it is secret.
type Identity struct {
	Node        string     `json:"node"`
	NodeID      sdk.NodeID `json:"node_id"`
	Fingerprint string     `json:"fingerprint"`       // as ssh-keygen -l shows it
	PublicKey   string     `json:"public_key"`        // as in authorized_keys
	Mesh        string     `json:"mesh"`              // "private" for the mesh of a checkout
	MeshID      string     `json:"mesh_id,omitempty"` // its beginning; empty: this machine is not in the mesh
	Dir         string     `json:"dir"`               // of the mesh
	File        string     `json:"file"`              // of the key
	New         bool       `json:"new,omitempty"`     // the key was made for this answer
}

// A Rotation is the replacement of a mesh secret.
type Rotation struct {
	Mesh   string `json:"mesh"`
	MeshID string `json:"mesh_id"` // the beginning of the new one
	Links  int    `json:"links"`   // that were ended
}

// An InviteRequest says how the one who joins may reach this node.
type InviteRequest struct {
	// Addresses are tried before those of the listeners: "host", "host:port" or
	// "scheme://host:port", at most MaxAddresses.
	Addresses []string `json:"addresses,omitempty"`
}

// An Invitation lets one node join. Its code is secret.
type Invitation struct {
	Mesh      string     `json:"mesh"`
	NodeID    sdk.NodeID `json:"node_id"`
	Addresses []string   `json:"addresses"`
	Code      string     `json:"code"` // what "cellkernel join" reads
	Until     time.Time  `json:"until"`
}

// A Denial is a node that is kept out, or not any more.
type Denial struct {
	NodeID sdk.NodeID `json:"node_id"`
	Node   string     `json:"node,omitempty"` // what it calls itself, if it is known
	Links  int        `json:"links"`          // that were ended by it
}

// Identity implements [Member].
func (c *Client) Identity(ctx context.Context) (*Identity, error) {
	return fetch[*Identity](ctx, c, "identity")
}

// RotateMesh implements [Member].
func (c *Client) RotateMesh(ctx context.Context) (*Rotation, error) {
	return post[*Rotation](ctx, c, "mesh/rotate", nil, done{})
}

// Invite implements [Inviter].
func (c *Client) Invite(ctx context.Context, r InviteRequest) (*Invitation, error) {
	return post[*Invitation](ctx, c, "mesh/invite", nil, r)
}

// revoked is the answer to a revocation.
type revoked struct {
	Revoked int `json:"revoked"`
}

// Revoke implements [Inviter].
func (c *Client) Revoke(ctx context.Context) (int, error) {
	r, err := post[revoked](ctx, c, "mesh/revoke", nil, done{})
	return r.Revoked, err
}

// Denied implements [Guard].
func (c *Client) Denied(ctx context.Context) ([]Denial, error) {
	return fetch[[]Denial](ctx, c, "denied")
}

// Deny implements [Guard].
func (c *Client) Deny(ctx context.Context, who string) (*Denial, error) {
	return post[*Denial](ctx, c, "denied/"+url.PathEscape(who)+"/deny", nil, done{})
}

// Undeny implements [Guard].
func (c *Client) Undeny(ctx context.Context, who string) (*Denial, error) {
	return post[*Denial](ctx, c, "denied/"+url.PathEscape(who)+"/undeny", nil, done{})
}

// memberRoutes are the requests about the node and its mesh.
func (s *Server) memberRoutes(mux *http.ServeMux) {
	k := s.kernel
	serve := func(pattern string, f func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, s.answer(f))
	}
	serve("GET /v1/identity", func(_ http.ResponseWriter, r *http.Request) (any, error) { return k.Identity(r.Context()) })
	serve("POST /v1/mesh/rotate", func(_ http.ResponseWriter, r *http.Request) (any, error) { return k.RotateMesh(r.Context()) })
	serve("POST /v1/mesh/invite", s.invite)
	serve("POST /v1/mesh/revoke", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		n, err := k.Revoke(r.Context())
		return revoked{n}, err
	})
	serve("GET /v1/denied", func(_ http.ResponseWriter, r *http.Request) (any, error) { return list(k.Denied(r.Context())) })
	serve("POST /v1/denied/{node}/deny", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return k.Deny(r.Context(), r.PathValue("node"))
	})
	serve("POST /v1/denied/{node}/undeny", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return k.Undeny(r.Context(), r.PathValue("node"))
	})
}

func (s *Server) invite(w http.ResponseWriter, r *http.Request) (any, error) {
	var q InviteRequest
	if err := decode(w, r, &q); err != nil {
		return nil, err
	}
	if len(q.Addresses) > MaxAddresses {
		return nil, sdk.Errorf(sdk.CodeInvalid, "invite: %d addresses: at most %d", len(q.Addresses), MaxAddresses)
	}
	return s.kernel.Invite(r.Context(), q)
}
