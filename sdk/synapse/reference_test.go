package synapse_test

import (
	"crypto/hmac"
	"encoding/binary"
	"hash"
	"slices"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
)

// A reference is Noise with 25519, ChaChaPoly and BLAKE2s, written from the
// specification (revision 34) alone and as simply as it can be: the second
// opinion about every byte of the package under test. It plays both sides.
type reference struct {
	ck, h, k []byte
	n        uint64
	psk      []byte
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newBlake2s() hash.Hash { return must(blake2s.New256(nil)) }

func digest(parts ...[]byte) []byte {
	h := newBlake2s()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// expand is HKDF of section 4.3.
func expand(ck, in []byte) (a, b, c []byte) {
	mac := func(key []byte, parts ...[]byte) []byte {
		m := hmac.New(newBlake2s, key)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	temp := mac(ck, in)
	a = mac(temp, []byte{1})
	b = mac(temp, a, []byte{2})
	return a, b, mac(temp, b, []byte{3})
}

func dh(private, public []byte) []byte { return must(curve25519.X25519(private, public)) }
func public(private []byte) []byte     { return dh(private, curve25519.Basepoint) }

func nonce(n uint64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 4), n)
}

func aeadSeal(k []byte, n uint64, ad, plain []byte) []byte {
	return must(chacha20poly1305.New(k)).Seal(nil, nonce(n), plain, ad)
}

// rekey is section 4.2.
func rekey(k []byte) []byte { return aeadSeal(k, 1<<64-1, nil, make([]byte, 32))[:32] }

// newReference begins as section 5.2 says: the names here are longer than a hash.
func newReference(name string, prologue []byte) *reference {
	h := digest([]byte(name))
	r := &reference{ck: h, h: h}
	r.mixHash(prologue)
	return r
}

func (r *reference) mixHash(b []byte) { r.h = digest(r.h, b) }

func (r *reference) mixKey(in []byte) {
	r.ck, r.k, _ = expand(r.ck, in)
	r.n = 0
}

func (r *reference) mixPSK() {
	ck, t, k := expand(r.ck, r.psk)
	r.ck, r.k, r.n = ck, k, 0
	r.mixHash(t)
}

func (r *reference) seal(plain []byte) []byte {
	out := plain
	if r.k != nil {
		out = aeadSeal(r.k, r.n, r.h, plain)
		r.n++
	}
	r.mixHash(out)
	return out
}

// mixE sends an ephemeral key; with a psk it is mixed in, too (section 9.2).
func (r *reference) mixE(e []byte) []byte {
	r.mixHash(public(e))
	if r.psk != nil {
		r.mixKey(public(e))
	}
	return public(e)
}

func (r *reference) split() (k1, k2 []byte) {
	k1, k2, _ = expand(r.ck, nil)
	return k1, k2
}

// The private keys of both sides of a run.
type refKeys struct{ is, ie, rs, re []byte }

// xx returns the three messages of XX.
func (r *reference) xx(k refKeys, payloads [3][]byte) [3][]byte {
	var m [3][]byte
	m[0] = slices.Concat(r.mixE(k.ie), r.seal(payloads[0]))

	m[1] = r.mixE(k.re)
	r.mixKey(dh(k.re, public(k.ie)))
	m[1] = append(m[1], r.seal(public(k.rs))...)
	r.mixKey(dh(k.rs, public(k.ie)))
	m[1] = append(m[1], r.seal(payloads[1])...)

	m[2] = r.seal(public(k.is))
	r.mixKey(dh(k.is, public(k.re)))
	m[2] = slices.Concat(m[2], r.seal(payloads[2]))
	return m
}

// nnpsk0 returns the two messages of NNpsk0.
func (r *reference) nnpsk0(k refKeys) [2][]byte {
	var m [2][]byte
	r.mixPSK()
	m[0] = slices.Concat(r.mixE(k.ie), r.seal(nil))
	m[1] = r.mixE(k.re)
	r.mixKey(dh(k.re, public(k.ie)))
	m[1] = append(m[1], r.seal(nil)...)
	return m
}
