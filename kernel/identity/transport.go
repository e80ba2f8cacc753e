package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of certificates for transports.
const (
	MaxSPKI           = 1 << 10 // bytes of a SubjectPublicKeyInfo
	MaxTransport      = 4 << 10 // bytes of a certificate
	MaxTransportCells = 16      // cells named in one
)

// transportZone is below a name that nobody can register (RFC 6761).
const transportZone = ".cell.invalid"

// CertifyTransport makes an X.509 certificate in DER over a transport's public
// key, good from now for [CertificateLife]. The node signs it. It names the
// node, and cells as <cell>.<node>.cell.invalid. spki is a DER
// SubjectPublicKeyInfo with a key of ECDSA P-256 or Ed25519.
func (id *Identity) CertifyTransport(spki []byte, cells []sdk.CellName, now time.Time) ([]byte, error) {
	key, err := id.transportKey(spki)
	if err != nil {
		return nil, fmt.Errorf("certify transport: %w", err)
	}
	names, err := id.transportNames(cells)
	if err != nil {
		return nil, fmt.Errorf("certify transport: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("certify transport: %w", err)
	}
	now = now.Truncate(time.Second)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "cellkernel transport"}, DNSNames: names,
		NotBefore: now, NotAfter: now.Add(CertificateLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "cellkernel node"}}, key, id.key())
	if err != nil {
		return nil, fmt.Errorf("certify transport: %w", err)
	}
	return der, nil
}

func (id *Identity) transportKey(spki []byte) (any, error) {
	if len(spki) > MaxSPKI {
		return nil, fmt.Errorf("public key of %d bytes: at most %d", len(spki), MaxSPKI)
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, errors.New("public key is malformed")
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	case ed25519.PublicKey:
		if k.Equal(ed25519.PublicKey(id.node.Key())) {
			return nil, errors.New("public key is the node's own")
		}
		return k, nil
	}
	return nil, errors.New("public key is neither ECDSA P-256 nor Ed25519")
}

func (id *Identity) transportNames(cells []sdk.CellName) ([]string, error) {
	if len(cells) > MaxTransportCells {
		return nil, fmt.Errorf("%d cells: at most %d", len(cells), MaxTransportCells)
	}
	names := []string{string(id.node) + transportZone}
	for _, cell := range cells {
		if _, err := sdk.ParseCellName(string(cell)); err != nil {
			return nil, err
		}
		names = append(names, string(cell)+"."+names[0])
	}
	return names, nil
}
