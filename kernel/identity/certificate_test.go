package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

// The labels are the format: another label is another mesh.
func TestDerivedKeysAreWhatTheyWere(t *testing.T) {
	m := newMember(t)
	id := m.mesh.ID()
	if !bytes.Equal(id[:], derived(m.secret(), "cellkernel/mesh/id/v1\x00")) {
		t.Error("mesh id")
	}
	if !bytes.Equal(m.mesh.LinkKey(), derived(m.secret(), "cellkernel/mesh/link/v1\x00")) {
		t.Error("link key")
	}
	m.mesh.LinkKey()[0] ^= 1
	if !bytes.Equal(m.mesh.LinkKey(), derived(m.secret(), "cellkernel/mesh/link/v1\x00")) {
		t.Error("the link key is not a copy")
	}
}

func TestCellCertificate(t *testing.T) {
	m := newMember(t)
	fellow := m.fellow(t)
	rapid.Check(t, func(t *rapid.T) {
		cell := sdk.CellName(rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`).Draw(t, "cell"))
		key := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		b, err := m.mesh.CertifyCell(m.id, cell, key, now)
		if err != nil {
			t.Fatal(err)
		}
		c, err := fellow.mesh.VerifyCell(b, now)
		if err != nil {
			t.Fatal(err)
		}
		start := now.Truncate(time.Second)
		if c.Cell != cell || c.Key != key || c.Node != m.id.Node() || !c.NotBefore.Equal(start) || !c.NotAfter.Equal(start.Add(identity.CertificateLife)) {
			t.Fatalf("got %+v", c)
		}
		again := must(m.mesh.CertifyCell(m.id, cell, key, now))
		if !bytes.Equal(b, again) {
			t.Fatal("one certificate has two forms")
		}
	})
	if _, err := m.mesh.CertifyCell(m.id, "Not a name", [32]byte{}, now); err == nil {
		t.Error("certified a bad name")
	}
}

func TestCellCertificateTimes(t *testing.T) {
	m := newMember(t)
	b := must(m.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	life, slack := identity.CertificateLife, identity.CertificateSlack
	for d, good := range map[time.Duration]bool{
		0: true, life: true, life + slack - time.Second: true, -slack: true,
		life + slack + time.Second: false, -slack - 2*time.Second: false, 1e6 * time.Hour: false, -1e6 * time.Hour: false,
	} {
		_, err := m.mesh.VerifyCell(b, now.Add(d))
		if good != (err == nil) || !good && (sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), `"worker"`)) {
			t.Errorf("%s later: got %v", d, err)
		}
	}
}

func TestCellCertificateEveryBitCounts(t *testing.T) {
	m := newMember(t)
	b := must(m.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := m.mesh.VerifyCell(bad, now); err != identity.ErrCertificate {
			t.Fatalf("bit %d: got %v", i, err)
		}
	}
	for n := range b {
		if _, err := m.mesh.VerifyCell(b[:n], now); err != identity.ErrCertificate {
			t.Fatalf("%d bytes: got %v", n, err)
		}
	}
	if _, err := m.mesh.VerifyCell(append(b, 0), now); err != identity.ErrCertificate {
		t.Errorf("longer: got %v", err)
	}
	if _, err := newMember(t).mesh.VerifyCell(b, now); err != identity.ErrCertificate {
		t.Errorf("another mesh: got %v", err)
	}
}

// A member has the membership key, but not another node's: it can change what
// it likes and put a right HMAC under it, and still be nobody else.
func TestMembersCanNotBeOthers(t *testing.T) {
	m := newMember(t)
	evil := m.fellow(t)
	good := must(m.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	member := derived(m.secret(), "cellkernel/mesh/member/v1\x00")
	reseal := func(change func(b []byte)) []byte {
		b := bytes.Clone(good[:len(good)-sha256.Size])
		change(b)
		h := hmac.New(sha256.New, member)
		h.Write([]byte("cellkernel/cell-membership/v1\x00"))
		h.Write(b)
		return h.Sum(b)
	}
	if _, err := m.mesh.VerifyCell(reseal(func([]byte) {}), now); err != nil {
		t.Fatalf("the test does not know the format: %v", err)
	}
	for i := range len(good) - sha256.Size {
		if _, err := m.mesh.VerifyCell(reseal(func(b []byte) { b[i] ^= 1 }), now); err != identity.ErrCertificate {
			t.Fatalf("byte %d: got %v", i, err)
		}
	}
	stolen := reseal(func(b []byte) { copy(b[33:], evil.id.Node().Key()) })
	if _, err := m.mesh.VerifyCell(stolen, now); err != identity.ErrCertificate {
		t.Errorf("another node's name: got %v", err)
	}
	// And a former member has a node key, but no membership.
	outsider := newMember(t)
	theirs := must(outsider.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	if _, err := m.mesh.VerifyCell(theirs, now); err != identity.ErrCertificate {
		t.Errorf("no member any more: got %v", err)
	}
}

func FuzzVerifyCell(f *testing.F) {
	m := newMember(f)
	member := derived(m.secret(), "cellkernel/mesh/member/v1\x00")
	good := must(m.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	f.Add(good, false)
	f.Add(good[:len(good)-sha256.Size], true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal { // as a hostile member would
			h := hmac.New(sha256.New, member)
			h.Write([]byte("cellkernel/cell-membership/v1\x00"))
			h.Write(b)
			b = h.Sum(b)
		}
		if c, err := m.mesh.VerifyCell(b, now); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("accepted %+v", c)
		}
	})
}

func spki(tb testing.TB, public any) []byte {
	b, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A transport can use the certificate as it is: both ends of a TLS connection
// find out which node the other one is.
func TestTransportCertificateServesTLS(t *testing.T) {
	m := newMember(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der, err := m.id.CertifyTransport(spki(t, key.Public()), []sdk.CellName{cellName}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	done := make(chan error)
	go func() {
		done <- tls.Server(s, &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		}).HandshakeContext(t.Context())
	}()
	var cert *x509.Certificate
	err = tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, ServerName: "x.invalid", //gosec:disable
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			cert, err = identity.VerifyTransport(m.id.Node(), cs.PeerCertificates[0].Raw, time.Now())
			return err
		},
	}).HandshakeContext(t.Context())
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	want := []string{string(m.id.Node()) + ".cell.invalid", "worker." + string(m.id.Node()) + ".cell.invalid"}
	if !slices.Equal(cert.DNSNames, want) {
		t.Errorf("names %v, want %v", cert.DNSNames, want)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("another key")
	}
}

func TestTransportCertificateIsChecked(t *testing.T) {
	m, other := newMember(t), newMember(t)
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := must(m.id.CertifyTransport(spki(t, pub), nil, now))
	if _, err := identity.VerifyTransport(m.id.Node(), der, now); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.VerifyTransport(other.id.Node(), der, now); err != identity.ErrCertificate {
		t.Errorf("another node: got %v", err)
	}
	if _, err := identity.VerifyTransport("", der, now); err != identity.ErrCertificate {
		t.Errorf("no node: got %v", err)
	}
	if _, err := identity.VerifyTransport(m.id.Node(), der, now.Add(49*time.Hour)); err == nil || err == identity.ErrCertificate {
		t.Errorf("later: got %v", err)
	}
	for i := range der {
		bad := bytes.Clone(der)
		bad[i] ^= 1
		if _, err := identity.VerifyTransport(m.id.Node(), bad, now); err == nil {
			t.Fatalf("byte %d: accepted", i)
		}
	}
}

func TestTransportKeysAreChecked(t *testing.T) {
	m := newMember(t)
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, key := range map[string][]byte{
		"nothing":    nil,
		"noise":      []byte("not a key"),
		"too long":   append(spki(t, p256.Public()), make([]byte, identity.MaxSPKI)...),
		"more bytes": append(spki(t, p256.Public()), 0),
		"P-384":      spki(t, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public()),
		"RSA":        spki(t, must(rsa.GenerateKey(rand.Reader, 2048)).Public()),
		"node's own": spki(t, ed25519.PublicKey(m.id.Node().Key())),
	} {
		if _, err := m.id.CertifyTransport(key, nil, now); err == nil {
			t.Errorf("%s: certified", name)
		}
	}
	good := spki(t, p256.Public())
	for _, cells := range [][]sdk.CellName{{"evil.example"}, {"*"}, make([]sdk.CellName, 17)} {
		if _, err := m.id.CertifyTransport(good, cells, now); err == nil {
			t.Errorf("cells %q: certified", cells)
		}
	}
}

// What was signed for one purpose is good for no other.
func TestStatementsDoNotMix(t *testing.T) {
	m := newMember(t)
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := must(m.mesh.CertifyCell(m.id, cellName, [32]byte{1}, now))
	der := must(m.id.CertifyTransport(spki(t, pub), nil, now))
	parsed := must(x509.ParseCertificate(der))
	sig := cert[len(cert)-sha256.Size-ed25519.SignatureSize : len(cert)-sha256.Size]
	key := ed25519.PublicKey(m.id.Node().Key())
	body := cert[:len(cert)-sha256.Size-ed25519.SignatureSize]
	if ed25519.Verify(key, body, sig) {
		t.Error("signed without a domain")
	}
	if parsed.RawTBSCertificate[0] == 'c' {
		t.Error("X.509 begins like a domain string")
	}
	if _, err := m.mesh.VerifyCell(der, now); err != identity.ErrCertificate {
		t.Errorf("transport as cell: got %v", err)
	}
	if _, err := identity.VerifyTransport(m.id.Node(), cert, now); err != identity.ErrCertificate {
		t.Errorf("cell as transport: got %v", err)
	}
}
