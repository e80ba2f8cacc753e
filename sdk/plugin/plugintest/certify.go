package plugintest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Certify answers Host.Certify as a kernel does, for a node that exists for
// this one certificate. It is what [Test] and [Run] give to transports.
func Certify(_ context.Context, spki []byte) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "parse public key: %v", err)
	}
	_, node, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "cellkernel transport"}, DNSNames: []string{"test.cell.invalid"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "cellkernel node"}}, key, node)
}
