package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

var inviterAddrs = []sdk.Addr{{Scheme: "quic", Host: "10.0.0.2:9000", Hint: bytes.Repeat([]byte{7}, 32)}, {Scheme: "quic", Host: "[fe80::1%eth0]:9000"}}

func nobody(sdk.NodeID) bool { return false }

func newInviter(m member) *identity.Inviter {
	return identity.NewInviter(m.id, m.mesh, "home", nobody)
}

// A joining is one join over a wire that somebody may sit on.
type joining struct {
	inviter *identity.Inviter
	joiner  *identity.Identity
	inv     identity.Invitation
	// tap sees, and returns what arrives instead of, each piece that is
	// written; from is 0 for the joiner. nil cuts the wire.
	tap func(from, n int, b []byte) []byte
	// answer stands in for the inviter, if it is there.
	answer func(ctx context.Context, c net.Conn) (sdk.NodeID, error)

	mesh    *identity.Mesh
	joinErr error
	node    sdk.NodeID
	err     error
	sent    [2][][]byte
}

func (j *joining) run(ctx context.Context) {
	var side, outer [2]net.Conn
	for i := range side {
		side[i], outer[i] = net.Pipe()
	}
	var wires, ends sync.WaitGroup
	stop := make(chan struct{})
	for from := range outer {
		wires.Go(func() { j.forward(from, outer[from], outer[1-from], stop) })
	}
	ends.Go(func() {
		j.mesh, j.joinErr = identity.Join(ctx, side[0], j.joiner, j.inv)
		if j.joinErr != nil {
			side[0].Close()
		}
	})
	ends.Go(func() {
		if j.node, j.err = j.serve(ctx, side[1]); j.err != nil {
			side[1].Close()
		}
	})
	ends.Wait()
	close(stop)
	for _, c := range outer {
		c.Close()
	}
	wires.Wait()
}

func (j *joining) serve(ctx context.Context, c net.Conn) (sdk.NodeID, error) {
	var first [2]byte
	err := c.SetDeadline(time.Now().Add(time.Second)) // as for link headers
	if err == nil {
		_, err = io.ReadFull(c, first[:])
	}
	if err := errors.Join(err, c.SetDeadline(time.Time{})); err != nil {
		return "", err
	}
	if !identity.IsJoin(first) {
		return "", errors.New("not a join")
	}
	if j.answer != nil {
		return j.answer(ctx, c)
	}
	return j.inviter.Serve(ctx, c)
}

func (j *joining) forward(from int, r, w net.Conn, stop <-chan struct{}) {
	defer w.Close()
	buf := make([]byte, 4096)
	for i := 0; ; i++ {
		n, err := r.Read(buf)
		if err != nil {
			return
		}
		b := bytes.Clone(buf[:n])
		j.sent[from] = append(j.sent[from], b)
		if j.tap != nil {
			if b = j.tap(from, i, bytes.Clone(b)); b == nil {
				<-stop
				return
			}
		}
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

func newJoining(t *testing.T) (*joining, member) {
	m := newMember(t)
	v := newInviter(m)
	inv, err := v.Invite(inviterAddrs)
	if err != nil {
		t.Fatal(err)
	}
	return &joining{inviter: v, joiner: newMember(t).id, inv: must(identity.ParseInvitation(inv.Code()))}, m
}

func TestJoin(t *testing.T) {
	j, m := newJoining(t)
	j.run(t.Context())
	if j.joinErr != nil || j.err != nil {
		t.Fatalf("joiner: %v; inviter: %v", j.joinErr, j.err)
	}
	if j.mesh.ID() != m.mesh.ID() || !bytes.Equal(j.mesh.LinkKey(), m.mesh.LinkKey()) {
		t.Error("joined another mesh")
	}
	if j.node != j.joiner.Node() {
		t.Errorf("inviter saw %s, want %s", j.node, j.joiner.Node())
	}
	if j.inviter.Open() != 0 {
		t.Error("the invitation is still open")
	}
	s := must(identity.OpenStore(t.TempDir() + "/home"))
	defer s.Close()
	if err := s.SetMesh(j.mesh); err != nil || must(s.Mesh()).ID() != m.mesh.ID() {
		t.Errorf("stored: %v", err)
	}
	// Neither the secret nor anybody's id was to be seen on the way.
	all := bytes.Join(append(j.sent[0], j.sent[1]...), nil)
	for name, b := range map[string][]byte{
		"secret": m.secret(), "inviter": m.id.Node().Key(), "joiner": j.joiner.Node().Key(), "token": token(j.inv),
	} {
		if bytes.Contains(all, b) {
			t.Errorf("%s shows", name)
		}
	}
}

// token is the secret part of a code of this test's mesh name.
func token(i identity.Invitation) []byte {
	raw := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(i.Code(), "cellkernel-invitation-1:")))
	at := 2 + len(i.Mesh) + 32 + 8
	return raw[at : at+16]
}

func TestInvitationIsGoodOnce(t *testing.T) {
	j, m := newJoining(t)
	code := j.inv.Code()
	j.run(t.Context())
	j.inv = must(identity.ParseInvitation(code))
	j.run(t.Context())
	if j.joinErr != identity.ErrJoin || j.err != identity.ErrJoin || j.mesh != nil {
		t.Errorf("again: joiner %v, inviter %v", j.joinErr, j.err)
	}
	// Two at the same moment: exactly one.
	inv := must(j.inviter.Invite(inviterAddrs))
	var wg sync.WaitGroup
	joined := make(chan bool, 4)
	for range cap(joined) {
		other := &joining{inviter: j.inviter, joiner: newMember(t).id, inv: must(identity.ParseInvitation(inv.Code()))}
		wg.Go(func() {
			other.run(t.Context())
			joined <- other.mesh != nil && other.mesh.ID() == m.mesh.ID()
		})
	}
	wg.Wait()
	close(joined)
	n := 0
	for ok := range joined {
		if ok {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d have joined with one invitation", n)
	}
}

func TestInvitationEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, _ := newJoining(t)
		time.Sleep(identity.InvitationLife - time.Second) // virtual
		if j.inviter.Open() != 1 {
			t.Error("it ended too early")
		}
		time.Sleep(2 * time.Second)
		if j.inviter.Open() != 0 {
			t.Error("it is still open")
		}
		j.run(t.Context())
		if j.joinErr != identity.ErrJoin || j.err != identity.ErrJoin {
			t.Errorf("joiner %v, inviter %v", j.joinErr, j.err)
		}
		if len(j.sent[1]) != 0 {
			t.Error("the inviter answered")
		}
	})
}

func TestRevoke(t *testing.T) {
	j, _ := newJoining(t)
	j.inviter.Revoke()
	j.run(t.Context())
	if j.joinErr != identity.ErrJoin || len(j.sent[1]) != 0 {
		t.Errorf("got %v, %d answers", j.joinErr, len(j.sent[1]))
	}
}

func TestInvitationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newInviter(newMember(t))
		for range identity.MaxInvitations {
			must(v.Invite(inviterAddrs))
		}
		if _, err := v.Invite(inviterAddrs); sdk.CodeOf(err) != sdk.CodeOverloaded {
			t.Errorf("got %v", err)
		}
		time.Sleep(identity.InvitationLife + time.Second) // virtual
		if _, err := v.Invite(inviterAddrs); err != nil {
			t.Errorf("after they ended: %v", err)
		}
	})
}

// withToken is inv with another token, and perhaps another node, in its code.
func withToken(inv identity.Invitation, change func(id, secret, node []byte)) identity.Invitation {
	raw := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(inv.Code(), "cellkernel-invitation-1:")))
	body := raw[:len(raw)-4]
	at := 2 + len(inv.Mesh)
	change(body[at+32:at+40], body[at+40:at+56], body[at:at+32])
	sum := sha256.Sum256(body)
	return must(identity.ParseInvitation("cellkernel-invitation-1:" + base64.RawURLEncoding.EncodeToString(append(body, sum[:4]...))))
}

func TestWrongToken(t *testing.T) {
	for name, change := range map[string]func(id, secret, node []byte){
		"secret": func(_, secret, _ []byte) { secret[15] ^= 1 },
		"id":     func(id, _, _ []byte) { id[0] ^= 1 },
		"node":   func(_, _, node []byte) { copy(node, bytes.Repeat([]byte{8}, 32)) },
	} {
		j, _ := newJoining(t)
		right := j.inv
		j.inv = withToken(right, change)
		j.run(t.Context())
		if j.joinErr != identity.ErrJoin || j.err != identity.ErrJoin || len(j.sent[1]) != 0 {
			t.Errorf("%s: joiner %v, inviter %v, %d answers", name, j.joinErr, j.err, len(j.sent[1]))
		}
		// Who guesses wrong does not use the invitation up.
		j.inv = right
		j.run(t.Context())
		if j.joinErr != nil {
			t.Errorf("%s: then right: %v", name, j.joinErr)
		}
	}
}

// Somebody has read the code and answers in the inviter's place: the joiner
// notices before it says who it is.
func TestImpostor(t *testing.T) {
	for _, claim := range []bool{false, true} {
		j, _ := newJoining(t)
		thief := newMember(t).id
		j.answer = func(ctx context.Context, c net.Conn) (sdk.NodeID, error) {
			return identity.Impersonate(ctx, c, j.inv, thief, claim)
		}
		j.run(t.Context())
		if j.mesh != nil || j.joinErr == nil || j.node != "" {
			t.Errorf("claim %t: joiner %v; the thief learned %q", claim, j.joinErr, j.node)
		}
		if !claim && (sdk.CodeOf(j.joinErr) != sdk.CodeDenied || !strings.Contains(j.joinErr.Error(), string(thief.Node()))) {
			t.Errorf("got %v, want both ids", j.joinErr)
		}
		if n := len(j.sent[0]); n != 2 {
			t.Errorf("claim %t: the joiner sent %d messages, want its header and the first of Noise", claim, n)
		}
	}
}

func TestDeniedDoNotJoin(t *testing.T) {
	m := newMember(t)
	joiner := newMember(t).id
	v := identity.NewInviter(m.id, m.mesh, "home", func(n sdk.NodeID) bool { return n == joiner.Node() })
	j := &joining{inviter: v, joiner: joiner, inv: must(v.Invite(inviterAddrs))}
	j.run(t.Context())
	if j.joinErr != identity.ErrJoin || sdk.CodeOf(j.err) != sdk.CodeDenied || j.mesh != nil {
		t.Errorf("joiner %v, inviter %v", j.joinErr, j.err)
	}
	if v.Open() != 1 {
		t.Error("the invitation was used up")
	}
}

func TestNobodyJoinsItself(t *testing.T) {
	j, m := newJoining(t)
	j.joiner = m.id
	j.run(t.Context())
	if j.mesh != nil || j.err != identity.ErrJoin {
		t.Errorf("joiner %v, inviter %v", j.joinErr, j.err)
	}
}

// Whoever sits on the wire can prevent a join, and that is all: with any byte
// changed nobody ends in a mesh that is not the one, and the inviter counts
// nobody as joined who is not.
func TestEveryByteOfAJoinCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, m := newJoining(t)
		j.run(t.Context())
		for from := range j.sent {
			for i := range j.sent[from] {
				for at := range j.sent[from][i] {
					v := newInviter(m)
					c := &joining{inviter: v, joiner: j.joiner, inv: must(v.Invite(inviterAddrs))}
					c.tap = func(f, n int, b []byte) []byte {
						if f == from && n == i {
							b[at] ^= 1 << (at % 8)
						}
						return b
					}
					c.run(t.Context())
					last := from == 0 && i == len(j.sent[0])-1
					if c.mesh != nil && (!last || c.mesh.ID() != m.mesh.ID()) || c.err == nil {
						t.Fatalf("side %d, message %d, byte %d: joiner %v, inviter %v", from, i, at, c.joinErr, c.err)
					}
				}
			}
		}
	})
}

func TestJoinIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for from := range 2 {
			for i := range 4 - from {
				j, _ := newJoining(t)
				j.tap = func(f, n int, b []byte) []byte {
					if f == from && n == i {
						return nil
					}
					return b
				}
				start := time.Now()
				j.run(t.Context())
				if d := time.Since(start); d > identity.JoinBudget || j.joinErr == nil && j.err == nil {
					t.Errorf("side %d silent at %d: %s, joiner %v, inviter %v", from, i, d, j.joinErr, j.err)
				}
			}
		}
		// One that connects and says nothing.
		_, b := net.Pipe()
		start := time.Now()
		if _, err := newInviter(newMember(t)).Serve(t.Context(), b); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != identity.JoinBudget {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

func TestInvitationCode(t *testing.T) {
	v := newInviter(newMember(t))
	inv := must(v.Invite(inviterAddrs))
	code := inv.Code()
	for _, form := range []string{code, " " + code + "\n", code[:80] + "\r\n  " + code[80:]} {
		got, err := identity.ParseInvitation(form)
		if err != nil || got.Mesh != "home" || got.Node != inv.Node || !reflect.DeepEqual(got.Addrs, inviterAddrs) || got.Code() != code {
			t.Errorf("got %v, %v", got, err)
		}
	}
	at := strings.IndexByte(code, ':') + 1
	for i := range code {
		for _, c := range []byte("A-z~\x00") {
			if code[i] == c || i == len(code)-1 && c != '~' {
				continue // the last character carries bits that mean nothing; the decoder is strict about them
			}
			bad := code[:i] + string(c) + code[i+1:]
			if _, err := identity.ParseInvitation(bad); err == nil {
				t.Fatalf("character %d as %q: taken", i, c)
			} else if strings.Contains(err.Error(), bad[at:at+20]) {
				t.Fatalf("the error repeats the code: %v", err)
			}
		}
	}
	for _, bad := range []string{"", "x", code[:len(code)-1], code + "A", strings.Repeat("A", 1<<20)} {
		if _, err := identity.ParseInvitation(bad); err == nil {
			t.Errorf("%.20q: taken", bad)
		}
	}
	if _, err := identity.Join(t.Context(), nil2{}, newMember(t).id, identity.Invitation{}); err == nil {
		t.Error("joined without an invitation")
	}
	if (identity.Invitation{}).Code() != "" {
		t.Error("the zero invitation has a code")
	}
	for _, addrs := range [][]sdk.Addr{nil, make([]sdk.Addr, 9), {{Scheme: "quic"}}, {{Scheme: "quic", Host: strings.Repeat("x", 300)}}} {
		if _, err := v.Invite(addrs); err == nil {
			t.Errorf("invited to %d addresses", len(addrs))
		}
	}
}

// nil2 is a stream that nobody may use.
type nil2 struct{ io.ReadWriter }

func (nil2) SetDeadline(time.Time) error { return nil }

// A join is no link header, and the other way round.
func TestJoinIsNoLinkHeader(t *testing.T) {
	if identity.IsJoin([2]byte{0xfe, 0x01}) || !identity.IsJoin([2]byte{'C', 'K'}) {
		t.Error("told apart wrongly")
	}
	if length := int('C') | int('K')<<8; length <= 510 {
		t.Errorf("as a length it is %d, which a link header may have", length)
	}
}

func FuzzParseInvitation(f *testing.F) {
	v := newInviter(newMember(f))
	code := must(v.Invite(inviterAddrs)).Code()
	raw := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(code, "cellkernel-invitation-1:")))
	f.Add(raw[:len(raw)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body)
		code := "cellkernel-invitation-1:" + base64.RawURLEncoding.EncodeToString(append(bytes.Clone(body), sum[:4]...))
		i, err := identity.ParseInvitation(code)
		if err == nil && i.Code() != code {
			t.Fatalf("one invitation has two codes: %q and %q", i.Code(), code)
		}
	})
}
