package synapse_test

import (
	"fmt"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

var benchSizes = []int{64, 1 << 10, 32 << 10}

func BenchmarkSeal(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, _ := sessions(b)
			plain, dst := noise(size), make([]byte, 0, synapse.SealedLen(size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				dst = s.Seal(dst[:0], plain)
			}
		})
	}
}

// BenchmarkSealOpen is both sides of a message.
func BenchmarkSealOpen(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			from, to := sessions(b)
			plain, dst := noise(size), make([]byte, 0, synapse.SealedLen(size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				dst = from.Seal(dst[:0], plain)
				if _, _, err := to.Open(plain[:0], dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHandshake is both sides of a handshake, without verdicts.
func BenchmarkHandshake(b *testing.B) {
	p := newPair(b)
	b.ReportAllocs()
	for b.Loop() {
		p.log.list = nil
		p.run(b.Context())
	}
	p.wantBoth(b)
}
