package datagram

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

// domain is what a registration's signature is for, and nothing else.
const domain = "cellkernel/lighthouse/register/v1\x00"

// leaseUnit is the unit of a lease on the wire.
const leaseUnit = 100 * time.Millisecond

// A Register says what a node announces: the hashes of its envelopes, none for
// a goodbye. Its signature covers the cookie as well, so it is good at one
// lighthouse, from one address, for as long as the cookie is.
type Register struct {
	Key       [ed25519.PublicKeySize]byte
	Tag       Tag
	Boot, Seq uint64        // the greater pair wins
	Lease     time.Duration // how long without another until the node is gone
	Port      uint16        // of the node's socket, as the node sees it
	Hashes    []Hash
}

// ID returns what the registration is named by to those who watch.
func (r *Register) ID() ID {
	sum := sha256.Sum256(append(r.Tag[:], r.Key[:]...))
	return ID(sum[:])
}

// AppendRegister appends r, signed with key; r.Key is set from it.
func AppendRegister(b []byte, s Session, c Cookie, r *Register, key ed25519.PrivateKey) []byte {
	copy(r.Key[:], key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
	start := len(b)
	b = append(appendHead(b, KindRegister, s), c[:]...)
	b = append(append(b, r.Key[:]...), r.Tag[:]...)
	b = binary.LittleEndian.AppendUint64(b, r.Boot)
	b = binary.LittleEndian.AppendUint64(b, r.Seq)
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Lease/leaseUnit))
	b = binary.LittleEndian.AppendUint16(b, r.Port)
	b = appendHashes(b, r.Hashes)
	return append(b, ed25519.Sign(key, signed(b[start:]))...)
}

// signed is what the signature covers: all but the session, which protects
// the node and not the lighthouse.
func signed(unsigned []byte) []byte {
	return append([]byte(domain), unsigned[headSize:]...)
}

// ParseRegister returns a registration whose signature was not yet looked at.
func ParseRegister(b []byte) (Register, error) {
	if len(b) < CookieSize+signature {
		return Register{}, ErrMalformed
	}
	r := reader{b: b[CookieSize : len(b)-signature]}
	m := Register{Key: [32]byte(r.bytes(32)), Tag: Tag(r.bytes(8)), Boot: r.u64(), Seq: r.u64()}
	m.Lease, m.Port, m.Hashes = time.Duration(r.u16())*leaseUnit, r.u16(), r.hashes()
	return m, r.end()
}

// Signed reports whether the datagram of a registration that [ParseRegister]
// accepted was signed with the key in it.
func Signed(b []byte) bool {
	body, sig := b[:len(b)-signature], b[len(b)-signature:]
	return ed25519.Verify(body[CookieSize:CookieSize+32], signed(body), sig)
}

// A Status is what became of a registration or a subscription.
type Status uint8

// The statuses.
const (
	StatusOK    Status = 0
	StatusStale Status = 1 // a greater boot or sequence number is registered
	StatusFull  Status = 2 // a limit of the lighthouse: a later one may fit
)

// An Ack answers a Register and a Give.
type Ack struct {
	Status   Status
	Live     bool           // of a stale one: what is registered is not yet gone
	Seq      uint64         // of the registration meant
	Missing  uint64         // bit i: the lighthouse lacks the envelope of hash i
	Boot     uint64         // of what is registered
	Observed netip.AddrPort // where the registration came from
}

// AppendAck appends a.
func AppendAck(b []byte, s Session, a Ack) []byte {
	b = appendFlag(append(appendHead(b, KindAck, s), uint8(a.Status)), a.Live)
	b = binary.LittleEndian.AppendUint64(b, a.Seq)
	b = binary.LittleEndian.AppendUint64(b, a.Missing)
	b = binary.LittleEndian.AppendUint64(b, a.Boot)
	return appendAddr(b, a.Observed)
}

// ParseAck returns what a lighthouse answered.
func ParseAck(b []byte) (Ack, error) {
	r := reader{b: b[min(headSize, len(b)):]}
	a := Ack{Status: Status(r.u8()), Live: r.flag()}
	a.Seq, a.Missing, a.Boot, a.Observed = r.u64(), r.u64(), r.u64(), r.addr()
	return a, r.end()
}
