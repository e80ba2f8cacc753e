package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	codePrefix  = "cellkernel-invitation-1:"
	maxCode     = 4 << 10
	maxAddrs    = 8
	tokenIDLen  = 8
	tokenLen    = 16
	codeSumLen  = 4
	maxCodeAddr = 250
)

// An Invitation is what one who wants to join must be told: where to ask, whom
// to expect there, and the one-time token. Whoever reads it within ten minutes
// can join; formatted it shows everything but the token.
type Invitation struct {
	Mesh  sdk.CellName // what the inviter calls the mesh
	Node  sdk.NodeID   // the inviter
	Addrs []sdk.Addr   // 1 to 8, where it listens

	token func() *token // a function for the reason of [Identity].key
}

// A token is known to the inviter's kernel and to whoever reads the code.
type token struct {
	id     [tokenIDLen]byte // tells the inviter which one it is; not secret
	secret [tokenLen]byte
}

func newToken() *token {
	t := new(token)
	rand.Read(t.id[:]) // never fails
	rand.Read(t.secret[:])
	return t
}

// key is the one-time key of the handshake.
func (t *token) key() [32]byte { return derive(t.secret[:], "cellkernel/join/token/v1\x00") }

func (i *Invitation) check() error {
	if _, err := sdk.ParseCellName(string(i.Mesh)); err != nil {
		return err
	}
	if _, err := sdk.ParseNodeID(string(i.Node)); err != nil {
		return err
	}
	if len(i.Addrs) == 0 || len(i.Addrs) > maxAddrs {
		return fmt.Errorf("%d addresses: want 1 to %d", len(i.Addrs), maxAddrs)
	}
	for _, a := range i.Addrs {
		if err := a.Validate(); err != nil {
			return err
		}
		if len(a.String()) > maxCodeAddr {
			return fmt.Errorf("address of %d bytes: at most %d", len(a.String()), maxCodeAddr)
		}
	}
	return nil
}

// Code returns the invitation as one line of text, token included: for a
// terminal, never for a log, an argument or the environment. It is base64url
// of u8 1, string mesh, node[32], token id[8], token[16], u8 count of
// addresses, each string address, string hint, and the first four bytes of the
// SHA-256 of all that, against slips of the hand. The zero Invitation has none.
func (i Invitation) Code() string {
	if i.token == nil {
		return ""
	}
	b := appendText([]byte{1}, string(i.Mesh))
	b = append(b, i.Node.Key()...)
	t := i.token()
	b = append(append(b, t.id[:]...), t.secret[:]...)
	b = append(b, byte(len(i.Addrs)))
	for _, a := range i.Addrs {
		b = appendText(appendText(b, a.String()), string(a.Hint))
	}
	sum := sha256.Sum256(b)
	return codePrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:codeSumLen]...))
}

var errCode = errors.New("parse invitation: it is not complete, or not one")

// ParseInvitation parses a code. White space around and line breaks within it
// do not matter. Errors do not repeat what was read.
func ParseInvitation(code string) (Invitation, error) {
	if len(code) > 2*maxCode {
		return Invitation{}, errCode
	}
	code, ok := strings.CutPrefix(strings.Join(strings.Fields(code), ""), codePrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if !ok || err != nil || len(b) < codeSumLen {
		return Invitation{}, errCode
	}
	body, got := b[:len(b)-codeSumLen], b[len(b)-codeSumLen:]
	if sum := sha256.Sum256(body); string(sum[:codeSumLen]) != string(got) {
		return Invitation{}, errCode
	}
	r := reader{b: body}
	if v := r.u8(); v != 1 {
		return Invitation{}, fmt.Errorf("parse invitation: version %d: want 1", v)
	}
	t := new(token)
	i := Invitation{Mesh: sdk.CellName(r.text()), Node: sdk.FormatNodeID(r.bytes(32)), token: func() *token { return t }}
	t.id, t.secret = [tokenIDLen]byte(r.bytes(tokenIDLen)), [tokenLen]byte(r.bytes(tokenLen))
	for range min(r.u8(), maxAddrs+1) {
		addr, err := sdk.ParseAddr(r.text())
		if err != nil {
			return Invitation{}, errCode
		}
		if hint := r.text(); hint != "" {
			addr.Hint = []byte(hint)
		}
		i.Addrs = append(i.Addrs, addr)
	}
	if !r.done() || i.check() != nil {
		return Invitation{}, errCode
	}
	return i, nil
}

// String returns whom the invitation leads to, and not the token.
func (i Invitation) String() string {
	return fmt.Sprintf("invitation of node %s to mesh %q", i.Node, i.Mesh)
}

// Format implements [fmt.Formatter]: every verb writes [Invitation.String].
func (i Invitation) Format(f fmt.State, _ rune) { write(f, i.String()) }

// LogValue implements [slog.LogValuer].
func (i Invitation) LogValue() slog.Value { return slog.StringValue(i.String()) }

// MarshalText refuses: only [Invitation.Code] writes tokens.
func (i Invitation) MarshalText() ([]byte, error) {
	return nil, errors.New("encode invitation: it has a secret")
}

// The first message of a join, before any Noise: "CK", u8 1, token id. No link
// header begins like this: as a length, "CK" is 19 267.
const (
	joinMagic   = "CK"
	joinVersion = 1
	joinHeadLen = len(joinMagic) + 1 + tokenIDLen
)

// IsJoin reports whether a connection whose first two bytes are these wants to
// join the mesh, and not to open a link. See [Inviter.Serve].
func IsJoin(first [2]byte) bool { return string(first[:]) == joinMagic }

// joinPrologue is what both sides of a join know beforehand.
func joinPrologue(id [tokenIDLen]byte, inviter sdk.NodeID) []byte {
	b := append([]byte("cellkernel/join/v1\x00"), id[:]...)
	b = append(b, inviter.Key()...)
	return binary.LittleEndian.AppendUint16(b, joinVersion)
}
