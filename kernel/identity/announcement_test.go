package identity_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
)

func announcement() identity.Announcement {
	return identity.Announcement{
		Boot: [16]byte{1, 2}, Seq: 7, At: time.Unix(1_800_000_000, 0), TTL: 10 * time.Second, Wire: 1, Donor: true, Name: "desk-farm",
		Listeners: []identity.Listener{{Scheme: "quic", Port: 9000, Hint: make([]byte, 32)}, {Scheme: "tcp", Port: 9001}},
		Cells:     []identity.AnnouncedCell{{Name: "worker", Replicas: 4, Listeners: 3}, {Name: "store", Replicas: 1, Listeners: 1}},
	}
}

func drawAnnouncement(t *rapid.T) identity.Announcement {
	name := rapid.Map(rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?`), func(s string) sdk.CellName { return sdk.CellName(s) })
	a := identity.Announcement{
		Boot: [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "boot")), Seq: rapid.Uint64().Draw(t, "seq"),
		At:  time.Unix(rapid.Int64().Draw(t, "at"), 0),
		TTL: time.Duration(rapid.IntRange(1, 30).Draw(t, "ttl")) * time.Second, Wire: rapid.Byte().Draw(t, "wire"),
		Donor: rapid.Bool().Draw(t, "donor"), Goodbye: rapid.Bool().Draw(t, "goodbye"), Name: name.Draw(t, "name"),
	}
	if a.Goodbye {
		return a
	}
	for range rapid.IntRange(0, 4).Draw(t, "listeners") {
		l := identity.Listener{Scheme: string(name.Draw(t, "scheme")), Port: rapid.Uint16Range(1, 65535).Draw(t, "port")}
		if n := rapid.IntRange(0, sdk.MaxHint).Draw(t, "hint"); n > 0 {
			l.Hint = bytes.Repeat([]byte{byte(n)}, n)
		}
		a.Listeners = append(a.Listeners, l)
	}
	if len(a.Listeners) == 0 {
		return a
	}
	for range rapid.IntRange(0, 100).Draw(t, "cells") {
		a.Cells = append(a.Cells, identity.AnnouncedCell{
			Name: name.Draw(t, "cell"), Replicas: rapid.Uint16().Draw(t, "replicas"),
			Listeners: uint8(rapid.IntRange(1, 1<<len(a.Listeners)-1).Draw(t, "where")),
		})
	}
	return a
}

// What a node says is what its fellows hear, in parts that fit into datagrams.
func TestAnnouncementArrives(t *testing.T) {
	m := newMember(t)
	fellow := m.fellow(t)
	rapid.Check(t, func(t *rapid.T) {
		want := drawAnnouncement(t)
		list, err := m.mesh.Announce(m.id, want)
		if err != nil {
			t.Fatal(err)
		}
		var cells []identity.AnnouncedCell
		for i, e := range list {
			if len(e) > sdk.MaxEnvelope {
				t.Fatalf("envelope of %d bytes", len(e))
			}
			got, err := fellow.mesh.OpenAnnouncement(e)
			if err != nil {
				t.Fatal(err)
			}
			if int(got.Part) != i || int(got.Parts) != len(list) || got.Node != m.id.Node() {
				t.Fatalf("part %d of %d: got %+v", i, len(list), got)
			}
			cells = append(cells, got.Cells...)
			got.Cells, got.Part, got.Parts, got.Node = want.Cells, 0, 0, ""
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		}
		if !slices.Equal(cells, want.Cells) {
			t.Fatalf("got cells %v, want %v", cells, want.Cells)
		}
	})
}

func TestManyCellsTakeParts(t *testing.T) {
	m := newMember(t)
	a := announcement()
	for i := range identity.MaxCells - len(a.Cells) {
		a.Cells = append(a.Cells, identity.AnnouncedCell{Name: sdk.CellName(fmt.Sprintf("cell-with-quite-a-long-name-that-takes-space-%d", i)), Listeners: 1})
	}
	list, err := m.mesh.Announce(m.id, a)
	if err != nil || len(list) < 10 || len(list) > sdk.MaxEnvelopes {
		t.Fatalf("%d parts, %v", len(list), err)
	}
	a.Cells = append(a.Cells, identity.AnnouncedCell{Name: "x", Listeners: 1})
	if _, err := m.mesh.Announce(m.id, a); err == nil {
		t.Error("announced more cells than there may be")
	}
}

// Outsiders see the magic, a tag, and noise that is never the same.
func TestOutsidersSeeNothing(t *testing.T) {
	m := newMember(t)
	a := announcement()
	first, second := must(m.mesh.Announce(m.id, a))[0], must(m.mesh.Announce(m.id, a))[0]
	same := 0
	for i := range first[12:] {
		if first[12+i] == second[12+i] {
			same++
		}
	}
	if !bytes.Equal(first[:12], second[:12]) || same > 40 {
		t.Errorf("%d of %d bytes are the same", same, len(first)-12)
	}
	for _, secret := range []string{"desk-farm", "worker", "quic", string(m.id.Node()), string(m.id.Node().Key()), string(m.id.Node().Key()[:8])} {
		if bytes.Contains(first, []byte(secret)) {
			t.Errorf("%q shows", secret)
		}
	}
	// One cell more or less does not show in the length either, within its step.
	a.Cells = a.Cells[:1]
	if third := must(m.mesh.Announce(m.id, a))[0]; len(third)%64 != len(first)%64 {
		t.Errorf("lengths %d and %d", len(first), len(third))
	}
	stranger := newMember(t)
	if _, err := stranger.mesh.OpenAnnouncement(first); err != identity.ErrForeign {
		t.Errorf("stranger: got %v", err)
	}
	tag, ok := identity.EnvelopeTag(first)
	other, _ := identity.EnvelopeTag(must(stranger.mesh.Announce(stranger.id, announcement()))[0])
	if !ok || tag == other {
		t.Error("the tags of two meshes are the same")
	}
}

func TestAnnouncementEveryBitCounts(t *testing.T) {
	m := newMember(t)
	e := must(m.mesh.Announce(m.id, announcement()))[0]
	for i := range len(e) * 8 {
		bad := bytes.Clone(e)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := m.mesh.OpenAnnouncement(bad); err != identity.ErrAnnouncement && err != identity.ErrForeign {
			t.Fatalf("bit %d: got %v", i, err)
		}
	}
	for n := range e {
		if _, err := m.mesh.OpenAnnouncement(e[:n]); err != identity.ErrAnnouncement {
			t.Fatalf("%d bytes: got %v", n, err)
		}
	}
	if _, err := m.mesh.OpenAnnouncement(append(bytes.Clone(e), make([]byte, 2000)...)); err != identity.ErrAnnouncement {
		t.Errorf("long: got %v", err)
	}
}

// insider seals what it likes as a member can, here with a body of another node.
func insider(m member, plain []byte) sdk.Envelope {
	aead := must(chacha20poly1305.NewX(derived(m.secret(), "cellkernel/mesh/announce/v1\x00")))
	e := append([]byte("ckA\x01"), derived(m.secret(), "cellkernel/mesh/tag/v1\x00")[:8]...)
	nonce := bytes.Repeat([]byte{9}, chacha20poly1305.NonceSizeX)
	return aead.Seal(append(e, nonce...), nonce, plain, e)
}

func unseal(m member, e sdk.Envelope) []byte {
	aead := must(chacha20poly1305.NewX(derived(m.secret(), "cellkernel/mesh/announce/v1\x00")))
	return must(aead.Open(nil, e[12:36], e[36:], e[:12]))
}

// A member can seal, but it signs with its own key only; and what it signs and
// seals must be the one encoding of something that makes sense.
func TestInsidersCanNotForge(t *testing.T) {
	m := newMember(t)
	plain := unseal(m, must(m.mesh.Announce(m.id, announcement()))[0])
	if _, err := m.mesh.OpenAnnouncement(insider(m, plain)); err != nil {
		t.Fatalf("the test does not know the format: %v", err)
	}
	for i := range len(plain) * 8 {
		bad := bytes.Clone(plain)
		bad[i/8] ^= 1 << (i % 8)
		if a, err := m.mesh.OpenAnnouncement(insider(m, bad)); err != identity.ErrAnnouncement {
			t.Fatalf("bit %d: got %+v, %v", i, a, err)
		}
	}
	for n := 0; n < len(plain)+200; n++ {
		bad := append(bytes.Clone(plain), make([]byte, 200)...)[:n]
		if _, err := m.mesh.OpenAnnouncement(insider(m, bad)); n != len(plain) && err != identity.ErrAnnouncement {
			t.Fatalf("%d bytes: got %v", n, err)
		}
	}
}

func TestAnnounceChecks(t *testing.T) {
	m := newMember(t)
	for name, change := range map[string]func(*identity.Announcement){
		"no time":        func(a *identity.Announcement) { a.TTL = 0 },
		"long":           func(a *identity.Announcement) { a.TTL = 31 * time.Second },
		"fractions":      func(a *identity.Announcement) { a.TTL = 1500 * time.Millisecond },
		"name":           func(a *identity.Announcement) { a.Name = "Desk" },
		"no name":        func(a *identity.Announcement) { a.Name = "" },
		"port":           func(a *identity.Announcement) { a.Listeners[0].Port = 0 },
		"scheme":         func(a *identity.Announcement) { a.Listeners[0].Scheme = "/etc" },
		"hint":           func(a *identity.Announcement) { a.Listeners[0].Hint = make([]byte, 65) },
		"listeners":      func(a *identity.Announcement) { a.Listeners = make([]identity.Listener, 9) },
		"cell":           func(a *identity.Announcement) { a.Cells[0].Name = "../worker" },
		"nowhere":        func(a *identity.Announcement) { a.Cells[0].Listeners = 0 },
		"elsewhere":      func(a *identity.Announcement) { a.Cells[0].Listeners = 4 },
		"goodbye":        func(a *identity.Announcement) { a.Goodbye = true },
		"listeners fill": func(a *identity.Announcement) { a.Listeners = wide(8); a.Cells = nil },
	} {
		a := announcement()
		change(&a)
		if list, err := m.mesh.Announce(m.id, a); err == nil {
			t.Errorf("%s: announced in %d parts", name, len(list))
		}
	}
}

func wide(n int) (list []identity.Listener) {
	for range n {
		list = append(list, identity.Listener{Scheme: string(bytes.Repeat([]byte("x"), 63)), Port: 1, Hint: make([]byte, 64)})
	}
	return list
}

// FuzzOpenAnnouncement opens arbitrary bytes, as they come from the network
// and as a member could have sealed them.
func FuzzOpenAnnouncement(f *testing.F) {
	m := newMember(f)
	e := must(m.mesh.Announce(m.id, announcement()))[0]
	good := unseal(m, e)
	f.Add([]byte(e), false)
	f.Add(good, true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			if len(b) > 4096 || bytes.Equal(b, good) {
				return
			}
			b = insider(m, b)
		} else if bytes.Equal(b, e) {
			return
		}
		if a, err := m.mesh.OpenAnnouncement(b); err == nil {
			t.Fatalf("accepted %+v", a)
		}
	})
}

func BenchmarkOpenAnnouncement(b *testing.B) {
	m := newMember(b)
	e := must(m.mesh.Announce(m.id, announcement()))[0]
	forged := bytes.Clone(e)
	forged[40+rand.IntN(50)] ^= 1
	for name, e := range map[string]sdk.Envelope{"good": e, "forged": forged} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = m.mesh.OpenAnnouncement(e)
			}
		})
	}
}

func TestTimely(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for off, want := range map[time.Duration]bool{
		0: true, identity.CertificateSlack: true, -identity.CertificateSlack: true,
		identity.CertificateSlack + time.Second: false, -identity.CertificateSlack - time.Second: false,
	} {
		a := announcement()
		a.At = now.Add(off)
		if got := a.Timely(now); got != want {
			t.Errorf("made %v from now: timely %t", off, got)
		}
	}
	for _, far := range []int64{-1 << 63, 1<<63 - 1} {
		a := announcement()
		a.At = time.Unix(far, 0)
		if a.Timely(now) {
			t.Errorf("made at %d: timely", far)
		}
	}
}
