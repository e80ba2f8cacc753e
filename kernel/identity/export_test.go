package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"io"
	"slices"
	"time"

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

// VerifyTransport checks that der is a certificate that node has made by
// [Identity.CertifyTransport] and that is good now. Nobody but tests asks: a
// dialler knows the hash of the certificate by the announcement, and both nodes
// prove themselves over the binding of the connection.
func VerifyTransport(node sdk.NodeID, der []byte, now time.Time) (*x509.Certificate, error) {
	if len(der) > MaxTransport {
		return nil, ErrCertificate
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, ErrCertificate
	}
	key := ed25519.PublicKey(node.Key())
	switch {
	case len(key) != ed25519.PublicKeySize, cert.SignatureAlgorithm != x509.PureEd25519,
		!ed25519.Verify(key, cert.RawTBSCertificate, cert.Signature):
		return nil, ErrCertificate
	case len(cert.UnhandledCriticalExtensions) != 0, cert.IsCA, !slices.Contains(cert.DNSNames, string(node)+transportZone),
		cert.NotAfter.Sub(cert.NotBefore) > CertificateLife:
		return nil, ErrCertificate
	}
	return cert, inTime(cert.NotBefore, cert.NotAfter, now, "of a transport of node "+string(node))
}
