package synapse_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// A script answers with fixed bytes; it has no other side.
type script struct {
	io.Reader
	sent bytes.Buffer
}

func (s *script) Write(b []byte) (int, error)         { return s.sent.Write(b) }
func (s *script) SetDeadline(_ time.Time) error       { return nil }
func scripted(b []byte) *script                       { return &script{Reader: bytes.NewReader(b)} }
func admitNobody(context.Context, synapse.Peer) error { return errNo }

// FuzzSecure feeds both roles with whatever the other side may send. Nobody
// can make a session out of bytes that were there before.
func FuzzSecure(f *testing.F) {
	p := newPair(f)
	var sent [2][]byte
	p.relay = func(from, _ int, m []byte) []byte {
		sent[from] = append(sent[from], m...)
		return m
	}
	p.run(f.Context())
	f.Add(sent[0], false)
	f.Add(sent[1], true)
	f.Add([]byte{255, 255}, true)
	f.Add(prefixed(make([]byte, 32)), false)
	f.Fuzz(func(t *testing.T, b []byte, initiator bool) {
		c := p.c[1]
		if initiator {
			c = p.c[0]
		}
		c.Admit = admitNobody
		s := scripted(b)
		session, err := synapse.Secure(t.Context(), s, c)
		if session != nil || err == nil {
			t.Fatal("accepted")
		}
		if errors.Is(err, errNo) {
			t.Fatal("the kernel was asked about a peer that proved nothing") // needs a key made in this very run
		}
		if initiator && s.sent.Len() != 34 {
			t.Fatalf("initiator sent %d bytes before it was sure", s.sent.Len())
		}
	})
}

// FuzzOpen feeds a session. Of what was not sealed for it, nothing comes out.
func FuzzOpen(f *testing.F) {
	a, _ := sessions(f)
	f.Add(a.Seal(nil, []byte("x")), uint8(3))
	f.Add(a.SealEnd(nil), uint8(1))
	f.Add([]byte{0, 15}, uint8(0))
	f.Add([]byte{255, 255, 1}, uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, room uint8) {
		_, s := sessions(t)
		plain, n, err := s.Open(nil, b)
		if len(plain) != 0 || n != 0 || err != nil && err != synapse.ErrStream {
			t.Fatalf("%d bytes, %d used, %v", len(plain), n, err)
		}
		_, s = sessions(t)
		got, err := io.ReadAll(io.LimitReader(synapse.NewReader(bytes.NewReader(b), s), int64(room)+1))
		if len(got) != 0 || err != synapse.ErrStream && err != io.ErrUnexpectedEOF {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	})
}
