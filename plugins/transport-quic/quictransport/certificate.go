package quictransport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// A certificate is that of this run.
type certificate struct {
	tls  tls.Certificate
	hash [sha256.Size]byte // of the DER: the hint
}

// certificate has the kernel certify a fresh key, once; all listeners share
// it. The key never leaves this process.
func (t *Transport) certificate(ctx context.Context) (*certificate, error) {
	t.certMu.Lock()
	defer t.certMu.Unlock()
	if t.cert != nil {
		return t.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	der, err := t.host.Certify(ctx, spki)
	if err != nil {
		return nil, fmt.Errorf("have the kernel certify the key: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the kernel's certificate: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("the kernel certified another key")
	}
	t.cert = &certificate{
		tls:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		hash: sha256.Sum256(der),
	}
	return t.cert, nil
}
