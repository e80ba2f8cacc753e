package identity

import (
	"context"
	"io"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// Impersonate answers a join in the place of i's inviter, as one can who has
// read the code but has only its own key, thief. If claim is true it says to
// be the inviter all the same.
func Impersonate(ctx context.Context, s synapse.Stream, i Invitation, thief *Identity, claim bool) (sdk.NodeID, error) {
	var head [joinHeadLen - len(joinMagic)]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return "", err
	}
	t := i.token()
	e, err := meet(ctx, s, synapse.Meeting{Secret: t.key(), Prologue: joinPrologue(t.id, i.Node)})
	if err != nil {
		return "", err
	}
	proof := e.proof(thief, domainInviter)
	if claim {
		copy(proof, i.Node.Key())
	}
	if err := e.send(proof); err != nil {
		return "", err
	}
	return e.receiveProof(domainJoiner, i.Node.Key())
}
