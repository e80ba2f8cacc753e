package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// How long certificates are good.
const (
	CertificateLife  = 24 * time.Hour // the longest there is; renewed at half of it
	CertificateSlack = 24 * time.Hour // by how much the clocks of two nodes may differ
)

const (
	certVersion = 1
	certFixed   = 1 + 32 + 32 + 32 + 8 + 8 // all before the name
	sigLen      = 64
	macLen      = sha256.Size
	certLeast   = certFixed + 2 + sigLen + macLen
	certMost    = certLeast + sdk.MaxCellName - 1

	domainCell   = "cellkernel/cell-certificate/v1\x00"
	domainMember = "cellkernel/cell-membership/v1\x00"
)

// ErrCertificate is a certificate that no member of this mesh has made as it
// is. It has no detail on purpose.
var ErrCertificate = errors.New("verify certificate: not of this mesh")

// A Certificate says that a key belongs to a cell of a node. Encoded it is
//
//	u8   1
//	32   mesh id
//	32   node: Ed25519 public key
//	32   the cell's X25519 public key
//	u64  not before, Unix seconds
//	u64  not after
//	     string: cell
//	64   signature of the node over all before it
//	32   HMAC-SHA-256 of the membership key over all before it
//
// The signature says which node it was, which no other member can claim; the
// HMAC that it is a member now.
type Certificate struct {
	Cell      sdk.CellName
	Node      sdk.NodeID
	Key       [32]byte
	NotBefore time.Time // whole seconds
	NotAfter  time.Time // at most [CertificateLife] later
}

func (c *Certificate) check() error {
	if _, err := sdk.ParseCellName(string(c.Cell)); err != nil {
		return err
	}
	if life := c.NotAfter.Sub(c.NotBefore); life <= 0 || life > CertificateLife {
		return fmt.Errorf("good for %s: want more than nothing and at most %s", life, CertificateLife)
	}
	return nil
}

// CertifyCell makes a certificate that is good from now for
// [CertificateLife], for a cell that a kernel of id runs.
func (m *Mesh) CertifyCell(id *Identity, cell sdk.CellName, key [32]byte, now time.Time) ([]byte, error) {
	now = now.Truncate(time.Second)
	c := Certificate{Cell: cell, Node: id.Node(), Key: key, NotBefore: now, NotAfter: now.Add(CertificateLife)}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("certify cell: %w", err)
	}
	b := make([]byte, 0, certMost)
	b = append(append(b, certVersion), m.id[:]...)
	b = append(append(b, c.Node.Key()...), c.Key[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.NotBefore.Unix()))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.NotAfter.Unix()))
	b = appendText(b, string(c.Cell))
	b = append(b, id.sign(domainCell, b)...)
	return append(b, m.mac(domainMember, b)...), nil
}

// VerifyCell checks a certificate that came from outside and returns what it
// says. That its key is the one that was proved, and its node and cell those
// that were expected, is for the caller to compare.
func (m *Mesh) VerifyCell(b []byte, now time.Time) (Certificate, error) {
	if len(b) < certLeast || len(b) > certMost {
		return Certificate{}, ErrCertificate
	}
	signed, mac := b[:len(b)-macLen], b[len(b)-macLen:]
	if !hmac.Equal(mac, m.mac(domainMember, signed)) {
		return Certificate{}, ErrCertificate
	}
	body, sig := signed[:len(signed)-sigLen], signed[len(signed)-sigLen:]
	r := reader{b: body}
	version, mesh, node := r.u8(), [32]byte(r.bytes(32)), r.bytes(32)
	if version != certVersion || mesh != m.id || !verify(node, sig, domainCell, body) {
		return Certificate{}, ErrCertificate
	}
	c := Certificate{
		Node: sdk.FormatNodeID(node), Key: [32]byte(r.bytes(32)),
		NotBefore: unix(r.uint(8)), NotAfter: unix(r.uint(8)), Cell: sdk.CellName(r.text()),
	}
	if !r.done() || c.check() != nil {
		return Certificate{}, ErrCertificate
	}
	return c, inTime(c.NotBefore, c.NotAfter, now, fmt.Sprintf("of cell %q of node %s", c.Cell, c.Node))
}

// unix bounds s to what a time.Time can count from.
func unix(s uint64) time.Time { return time.Unix(int64(min(s, 1<<40)), 0).UTC() }

func inTime(from, to, now time.Time, whose string) error {
	switch {
	case now.Before(from.Add(-CertificateSlack)):
		return sdk.Errorf(sdk.CodeDenied, "verify certificate %s: good from %s, and the clock here says %s",
			whose, from.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(to.Add(CertificateSlack)):
		return sdk.Errorf(sdk.CodeDenied, "verify certificate %s: ended %s, and the clock here says %s",
			whose, to.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}
