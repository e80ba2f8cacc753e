package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// Limits of invitations.
const (
	InvitationLife = 10 * time.Minute
	MaxInvitations = 16               // that are open at once
	JoinBudget     = 10 * time.Second // for a whole join
)

const (
	domainInviter = "cellkernel/join/inviter/v1\x00"
	domainJoiner  = "cellkernel/join/joiner/v1\x00"
	proofLen      = 32 + sigLen
)

// ErrJoin is a join that failed for a reason the other side is not told.
var ErrJoin = errors.New("join mesh: refused")

// An Inviter gives out invitations and serves those who come with one.
//
// A join is, after the header of [IsJoin], a [synapse.Meet] with the token as
// one-time key, and inside its session
//
//	inviter  node key[32], signature over the handshake hash
//	joiner   node key[32], signature over the handshake hash and the inviter's key
//	inviter  mesh secret[32]
//	joiner   u8 1: I have it
//
// So nobody without the token learns even who answers, the joiner knows before
// it says who it is that this is the node that invited it, and the secret goes
// to nobody who is denied.
type Inviter struct {
	id     *Identity
	mesh   *Mesh
	name   sdk.CellName
	denied func(sdk.NodeID) bool

	mu   sync.Mutex // guards open
	open map[[tokenIDLen]byte]invited
}

type invited struct {
	token func() *token // a function for the reason of [Identity].key
	until time.Time
}

// NewInviter returns an Inviter into a mesh that is called name here. denied
// says who can not join; it may be called by several goroutines.
func NewInviter(id *Identity, mesh *Mesh, name sdk.CellName, denied func(sdk.NodeID) bool) *Inviter {
	return &Inviter{id: id, mesh: mesh, name: name, denied: denied, open: make(map[[tokenIDLen]byte]invited)}
}

// Invite makes an invitation that is good once, for [InvitationLife]. addrs
// are where this node can be reached, 1 to 8.
func (v *Inviter) Invite(addrs []sdk.Addr) (Invitation, error) {
	t := newToken()
	i := Invitation{Mesh: v.name, Node: v.id.Node(), Addrs: addrs, token: func() *token { return t }}
	if err := i.check(); err != nil {
		return Invitation{}, fmt.Errorf("invite: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for id, other := range v.open {
		if now.After(other.until) {
			delete(v.open, id)
		}
	}
	if len(v.open) >= MaxInvitations {
		return Invitation{}, sdk.Errorf(sdk.CodeOverloaded, "invite: %d invitations are open, which is all there can be", MaxInvitations)
	}
	// The inviter's token is another copy: it outlives the one that is shown.
	kept := *t
	v.open[t.id] = invited{func() *token { return &kept }, now.Add(InvitationLife)}
	return i, nil
}

// Open returns how many invitations are neither used nor too old.
func (v *Inviter) Open() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, i := range v.open {
		if !time.Now().After(i.until) {
			n++
		}
	}
	return n
}

// Revoke makes all open invitations void.
func (v *Inviter) Revoke() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, i := range v.open {
		clear(i.token().secret[:])
		delete(v.open, id)
	}
}

func (v *Inviter) find(id [tokenIDLen]byte) (key [32]byte, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, ok := v.open[id]
	if !ok || time.Now().After(i.until) {
		return key, false
	}
	return i.token().key(), true
}

// take uses an invitation up, and reports whether it was still there.
func (v *Inviter) take(id [tokenIDLen]byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	i, ok := v.open[id]
	if !ok || time.Now().After(i.until) {
		return false
	}
	clear(i.token().secret[:])
	delete(v.open, id)
	return true
}

// Serve answers one who joins over s, of which the two bytes of [IsJoin] have
// been read, and returns its node. It blocks at most [JoinBudget] or until ctx
// is done. The caller closes s, and limits how many are served at once. An
// error says nothing to the other side; the invitation stays open unless the
// secret was about to be sent.
func (v *Inviter) Serve(ctx context.Context, s synapse.Stream) (sdk.NodeID, error) {
	var node sdk.NodeID
	err := bounded(ctx, s, func(ctx context.Context) (err error) {
		node, err = v.serve(ctx, s)
		return err
	})
	return node, err
}

func (v *Inviter) serve(ctx context.Context, s synapse.Stream) (sdk.NodeID, error) {
	var head [joinHeadLen - len(joinMagic)]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return "", ErrJoin
	}
	id := [tokenIDLen]byte(head[1:])
	key, ok := v.find(id)
	defer clear(key[:])
	if !ok || head[0] != joinVersion {
		return "", ErrJoin
	}
	e, err := meet(ctx, s, synapse.Meeting{Secret: key, Prologue: joinPrologue(id, v.id.Node())})
	if err != nil {
		return "", err
	}
	if err := e.send(e.proof(v.id, domainInviter)); err != nil {
		return "", err
	}
	node, err := e.receiveProof(domainJoiner, v.id.Node().Key())
	if err != nil {
		return "", err
	}
	if v.denied(node) {
		return node, sdk.Errorf(sdk.CodeDenied, "join mesh: node %s is denied", node)
	}
	if node == v.id.Node() || !v.take(id) {
		return node, ErrJoin
	}
	secret := v.mesh.secret()
	defer clear(secret[:])
	if err := e.send(secret[:]); err != nil {
		return node, err
	}
	ack, err := e.receive(1)
	if err != nil || ack[0] != 1 {
		return node, ErrJoin
	}
	return node, nil
}

// Join asks for the mesh that i leads to, over s, a fresh connection to one of
// its addresses. It blocks at most [JoinBudget] or until ctx is done; the
// caller closes s and stores the mesh. After an error it may be tried with
// another address. The inviter is told at the very end: it may have counted
// the invitation as used, and this side not have the secret.
func Join(ctx context.Context, s synapse.Stream, id *Identity, i Invitation) (*Mesh, error) {
	var m *Mesh
	err := bounded(ctx, s, func(ctx context.Context) (err error) {
		m, err = join(ctx, s, id, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func join(ctx context.Context, s synapse.Stream, id *Identity, i Invitation) (*Mesh, error) {
	if i.token == nil {
		return nil, errors.New("join mesh: no invitation")
	}
	t := i.token()
	head := append([]byte(joinMagic), joinVersion)
	if _, err := s.Write(append(head, t.id[:]...)); err != nil {
		return nil, ErrJoin
	}
	key := t.key()
	defer clear(key[:])
	e, err := meet(ctx, s, synapse.Meeting{Initiator: true, Secret: key, Prologue: joinPrologue(t.id, i.Node)})
	if err != nil {
		return nil, err
	}
	node, err := e.receiveProof(domainInviter)
	if err != nil {
		return nil, err
	}
	if node != i.Node {
		return nil, sdk.Errorf(sdk.CodeDenied, "join mesh: node %s answers, and node %s has invited", node, i.Node)
	}
	if err := e.send(e.proof(id, domainJoiner, i.Node.Key())); err != nil {
		return nil, err
	}
	secret, err := e.receive(secretLen)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	clear(t.secret[:]) // it is worth nothing any more
	if err := e.send([]byte{1}); err != nil {
		return nil, err
	}
	return meshOf([secretLen]byte(secret)), nil
}

// bounded runs a join within its budget.
func bounded(ctx context.Context, s synapse.Stream, run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, JoinBudget)
	defer cancel()
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = s.SetDeadline(time.Unix(1, 0)) // a stream that has none is closed by its owner
	})
	err := run(ctx)
	if !stop() {
		<-expired
		return fmt.Errorf("join mesh: %w", context.Cause(ctx))
	}
	return err
}

// An exchange is what is said inside a join.
type exchange struct {
	s    io.Writer
	r    *synapse.Reader
	sess *synapse.Session
}

func meet(ctx context.Context, s synapse.Stream, m synapse.Meeting) (*exchange, error) {
	sess, err := synapse.Meet(ctx, s, m)
	if err == nil {
		err = ctx.Err() // Meet has taken away the deadline that ctx may have set
	}
	if err != nil {
		return nil, ErrJoin
	}
	return &exchange{s, synapse.NewReader(s, sess), sess}, nil
}

func (e *exchange) send(b []byte) error {
	if _, err := e.s.Write(e.sess.Seal(nil, b)); err != nil {
		return ErrJoin
	}
	return nil
}

// receive receives exactly n bytes.
func (e *exchange) receive(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(e.r, b); err != nil {
		return nil, ErrJoin
	}
	return b, nil
}

// proof proves to be id, now, here: it signs the handshake hash.
func (e *exchange) proof(id *Identity, domain string, more ...[]byte) []byte {
	hash := e.sess.Hash()
	sig := id.sign(domain, hash[:], bytes.Join(more, nil))
	return append(id.Node().Key(), sig...)
}

func (e *exchange) receiveProof(domain string, more ...[]byte) (sdk.NodeID, error) {
	b, err := e.receive(proofLen)
	if err != nil {
		return "", err
	}
	hash := e.sess.Hash()
	if !verify(b[:32], b[32:], domain, hash[:], bytes.Join(more, nil)) {
		return "", ErrJoin
	}
	return sdk.FormatNodeID(b[:32]), nil
}
