package synapse_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// victim is the side that receives the nth message of from, and messages are
// those of a handshake: initiator, responder, initiator.
func victim(message int) (from, n, victim int) {
	return message % 2, message / 2, 1 - message%2
}

// Every byte of every message, its length included, with one bit changed.
func TestEveryByteFlipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := runtime.NumGoroutine()
		cases := 0
		for message := range 3 {
			for at := 0; ; at++ {
				p := newPair(t)
				length := 0
				p.relay = flip(message, at, 1<<rand.IntN(8), &length)
				p.run(t.Context())
				if at >= length {
					p.wantBoth(t)
					break
				}
				cases++
				_, _, victim := victim(message)
				p.wantRefused(t, victim)
				if message < 2 {
					p.wantRefused(t, 1-victim)
				}
			}
		}
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > base {
			t.Errorf("%d goroutines, %d before", n, base)
		}
		t.Logf("%d bytes", cases)
	})
}

func flip(message, at int, bit byte, length *int) func(int, int, []byte) []byte {
	from, n, _ := victim(message)
	return func(f, i int, m []byte) []byte {
		if f == from && i == n {
			*length = len(m)
			if at < len(m) {
				m[at] ^= bit
			}
		}
		return m
	}
}

// Ten thousand handshakes with random damage. None is accepted by whom the
// damage reached, none panics; when it is the last message, the initiator is
// done already and learns of it by the end of the stream.
func TestMutatedHandshakes(t *testing.T) {
	runs := 10_000
	if testing.Short() || underRace {
		runs = 500
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	synctest.Test(t, func(t *testing.T) {
		for range runs {
			p := newPair(t)
			message, kind := r.IntN(3), r.IntN(len(mutations))
			from, n, victim := victim(message)
			var old []byte
			p.relay = func(f, i int, m []byte) []byte {
				if f != from || i != n {
					old = bytes.Clone(m)
					return m
				}
				before := bytes.Clone(m)
				m = mutations[kind](r, m, old)
				if bytes.Equal(m, before) {
					m[len(m)-1] ^= 1
				}
				return m
			}
			p.run(t.Context())
			p.wantRefused(t, victim)
			if message < 2 {
				p.wantRefused(t, 1-victim)
			}
		}
	})
}

// mutations damage message m; old is the one before it, in the other direction.
var mutations = []func(r *rand.Rand, m, old []byte) []byte{
	func(r *rand.Rand, m, _ []byte) []byte { // some bytes
		for range 1 + r.IntN(8) {
			m[r.IntN(len(m))] ^= byte(1 + r.IntN(255))
		}
		return m
	},
	func(r *rand.Rand, m, _ []byte) []byte { return m[:r.IntN(len(m))] }, // cut
	func(r *rand.Rand, m, _ []byte) []byte { // cut, with the right length
		return prefixed(m[2 : 2+r.IntN(len(m)-2)])
	},
	func(r *rand.Rand, m, _ []byte) []byte { // longer
		return prefixed(append(m[2:], make([]byte, 1+r.IntN(4096))...))
	},
	func(_ *rand.Rand, m, old []byte) []byte { // reflected
		if old == nil {
			return prefixed(make([]byte, 32))
		}
		return old
	},
	func(r *rand.Rand, m, _ []byte) []byte { // all of it noise
		for i := range m[2:] {
			m[2+i] = byte(r.Uint32())
		}
		m[2+31] |= 0x80 // or a first message would be as good as the true one
		return m
	},
	func(r *rand.Rand, m, _ []byte) []byte { // a point of small order as ephemeral key
		clear(m[2:34])
		m[2] = byte(r.IntN(2))
		return m
	},
	func(r *rand.Rand, m, _ []byte) []byte { // swapped halves
		k := 3 + r.IntN(len(m)-3)
		return append(append(m[:2:2], m[k:]...), m[2:k]...)
	},
	func(r *rand.Rand, m, _ []byte) []byte { // the longest length there is
		binary.BigEndian.PutUint16(m, 65535)
		return append(m, make([]byte, r.IntN(3000))...)
	},
}
