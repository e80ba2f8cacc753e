package synapse_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// Public vectors: the keys, payloads and messages that several
// implementations of Noise publish for these two protocols.
var (
	vectorKeys = refKeys{
		is: unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
		rs: unhex("0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"),
		ie: unhex("202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"),
		re: unhex("4142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60"),
	}
	vectorPrologue = []byte("notsecret")
	vectorPSK      = []byte("!verysecretverysecretverysecret!")
	vectorXX       = [3]string{
		"358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254",
		"64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466c7f9c130891d2fcc2454ad9808ce708c7fde0ef21e72e985c38a6ed8cdaadcd9" +
			"5d49ccad379691a89b57368d70add1bd30d7757d21b91f1b9981ac3f6cc36f79",
		"e42e3908de4cd096b8b86320dfe9d03127451fdbfc423fd9ef86b4659fae03c8e7b0c7c5612fc71db82f4f8ab985fab34ef5d36e101b730d9ff6de037479f032",
	}
	vectorXXSent = [2]string{
		"7086fc0466ee7523680d09ff7c272e2a2817a6e2d6c4ec1c209506506e8957",
		"e3beadf28ea871a3be666f43eaf457d030e538eb371ba48076a7db36a9a1bf",
	}
	vectorPsk0 = [2]string{
		"358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254df955d65e85408302701c443b9876628",
		"64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466073acc4aae4797305f3a5014902f0389",
	}
	vectorPsk0Sent = [2]string{
		"45229f0fb23ccd92b0554c5be976ab8ccecf5f1e7503af4c5a1e4e45d35dd5",
		"fcf39b68313e893f9682801d60aee12337d52a64661af37a0366b7924d1657",
	}
	vectorSaid = [2]string{"yellowsubmarine", "submarineyellow"}
)

const (
	nameXX   = "Noise_XX_25519_ChaChaPoly_BLAKE2s"
	namePsk0 = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s"
)

func unhex(s string) []byte { return must(hex.DecodeString(s)) }

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s: got %x, want %s", what, got, want)
	}
}

// The reference is right: it gives the public vectors.
func TestReferenceGivesPublicVectors(t *testing.T) {
	xx := newReference(nameXX, vectorPrologue)
	for i, m := range xx.xx(vectorKeys, [3][]byte{}) {
		wantHex(t, "XX message", m, vectorXX[i])
	}
	k1, k2 := xx.split()
	wantHex(t, "XX forth", aeadSeal(k1, 0, nil, []byte(vectorSaid[0])), vectorXXSent[0])
	wantHex(t, "XX back", aeadSeal(k2, 0, nil, []byte(vectorSaid[1])), vectorXXSent[1])

	nn := newReference(namePsk0, vectorPrologue)
	nn.psk = vectorPSK
	for i, m := range nn.nnpsk0(vectorKeys) {
		wantHex(t, "NNpsk0 message", m, vectorPsk0[i])
	}
	k1, k2 = nn.split()
	wantHex(t, "NNpsk0 forth", aeadSeal(k1, 0, nil, []byte(vectorSaid[0])), vectorPsk0Sent[0])
	wantHex(t, "NNpsk0 back", aeadSeal(k2, 0, nil, []byte(vectorSaid[1])), vectorPsk0Sent[1])
}

// vectorPair is a pair of sides with the keys of the vectors.
func vectorPair(t *testing.T) *pair {
	p := newPair(t)
	p.c[0].Key = must(synapse.KeyFrom(bytes.NewReader(vectorKeys.is)))
	p.c[1].Key = must(synapse.KeyFrom(bytes.NewReader(vectorKeys.rs)))
	p.random = [2][]byte{vectorKeys.ie, vectorKeys.re}
	return p
}

// Secure sends what the reference sends, byte for byte, and so do sessions.
func TestSecureMatchesReference(t *testing.T) {
	p := vectorPair(t)
	var sent [][]byte
	p.relay = func(_, _ int, m []byte) []byte {
		sent = append(sent, bytes.Clone(m))
		return m
	}
	p.run(t.Context())
	p.wantBoth(t)

	ref := newReference(nameXX, synapse.Prologue(p.c[0]))
	for i, want := range ref.xx(vectorKeys, [3][]byte{nil, p.c[1].Certificate, p.c[0].Certificate}) {
		if !bytes.Equal(sent[i], prefixed(want)) {
			t.Errorf("message %d: got %x, want %x", i+1, sent[i], prefixed(want))
		}
	}
	if h := p.s[0].Hash(); !bytes.Equal(h[:], ref.h) || p.s[1].Hash() != h {
		t.Errorf("hashes %x and %x, want %x", h, p.s[1].Hash(), ref.h)
	}
	k1, k2 := ref.split()
	wantHex(t, "forth", p.s[0].Seal(nil, []byte("forth")), hex.EncodeToString(prefixed(aeadSeal(k1, 0, nil, []byte("forth")))))
	wantHex(t, "back", p.s[1].Seal(nil, []byte("back")), hex.EncodeToString(prefixed(aeadSeal(k2, 0, nil, []byte("back")))))
	wantHex(t, "end", p.s[1].SealEnd(nil), hex.EncodeToString(prefixed(aeadSeal(k2, 1, nil, nil))))
}

// Meet gives the public vectors themselves.
func TestMeetGivesPublicVectors(t *testing.T) {
	p := vectorPair(t)
	p.meeting = &synapse.Meeting{Secret: [32]byte(vectorPSK), Prologue: vectorPrologue}
	var sent [][]byte
	p.relay = func(_, _ int, m []byte) []byte {
		sent = append(sent, bytes.Clone(m))
		return m
	}
	p.run(t.Context())
	p.wantBoth(t)
	for i, m := range sent {
		wantHex(t, "message", m[2:], vectorPsk0[i])
	}
	wantHex(t, "forth", p.s[0].Seal(nil, []byte(vectorSaid[0]))[2:], vectorPsk0Sent[0])
	wantHex(t, "back", p.s[1].Seal(nil, []byte(vectorSaid[1]))[2:], vectorPsk0Sent[1])
	if p.s[0].Hash() != p.s[1].Hash() {
		t.Error("hashes differ")
	}
}

func prefixed(m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
}

// The key is replaced after 65 536 messages and after 1 GiB, as Noise says.
func TestRekeyMatchesReference(t *testing.T) {
	p := vectorPair(t)
	p.run(t.Context())
	p.wantBoth(t)
	ref := newReference(nameXX, synapse.Prologue(p.c[0]))
	ref.xx(vectorKeys, [3][]byte{nil, p.c[1].Certificate, p.c[0].Certificate})
	k, _ := ref.split()

	var buf, plain []byte
	for n := range uint64(1 << 16) {
		buf = p.s[0].Seal(buf[:0], []byte{byte(n)})
		if n == 1<<16-1 {
			wantHex(t, "last message with the first key", buf[2:], hex.EncodeToString(aeadSeal(k, n, nil, []byte{byte(n)})))
		}
		plain = must2(p.s[1].Open(plain[:0], buf))
		if len(plain) != 1 || plain[0] != byte(n) {
			t.Fatalf("message %d: got %x", n, plain)
		}
	}
	second := rekey(k)
	next := func(what string, k []byte, n uint64) {
		t.Helper()
		buf = p.s[0].Seal(nil, []byte(what))
		wantHex(t, what, buf[2:], hex.EncodeToString(aeadSeal(k, n, nil, []byte(what))))
		if got := must2(p.s[1].Open(nil, buf)); string(got) != what {
			t.Errorf("got %q, want %q", got, what)
		}
	}
	next("second key", second, 1<<16)
	synapse.Age(p.s[0], p.s[1], 1<<30-1)
	next("the gibibyte is full", second, 1<<16+1)
	next("third key", rekey(second), 1<<16+2)
}

func must2(plain []byte, _ int, err error) []byte { return must(plain, err) }
