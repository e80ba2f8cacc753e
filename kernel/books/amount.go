package books

import (
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// MaxAmount is the most that one posting moves, and the most that can pass
// from one node to another in all: some 18 000 years of CPU time.
const MaxAmount sdk.ATP = 1 << 59

// add is a + b, and whether that is a number.
func add(a, b sdk.ATP) (sdk.ATP, bool) {
	sum := a + b
	return sum, (b >= 0) == (sum >= a)
}

// A Price is what CPU time costs, in thousandths: 1000 is 1 ATP for 100 ms.
type Price uint32

// Prices.
const (
	PriceOne Price = 1000      // the default
	MaxPrice Price = 1_000_000 // 1 000 ATP for 100 ms
)

// String returns "1", "0.5".
func (p Price) String() string {
	s := fmt.Sprintf("%d.%03d", p/1000, p%1000)
	for s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	return s
}

// Of is what cpu costs, rounded down. It is [MaxAmount] where it would be more.
func (p Price) Of(cpu sdk.ATP) sdk.ATP { return scale(cpu, uint64(p), 1000) }

// Buys is the CPU time that amount pays for, rounded down; all of it if p is 0.
func (p Price) Buys(amount sdk.ATP) sdk.ATP {
	if p == 0 {
		return MaxAmount
	}
	return scale(amount, 1000, uint64(p))
}

// scale is v × num / den, between 0 and MaxAmount.
func scale(v sdk.ATP, num, den uint64) sdk.ATP {
	if v <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(v), num)
	if hi >= den {
		return MaxAmount
	}
	q, _ := bits.Div64(hi, lo, den)
	return sdk.ATP(min(q, uint64(MaxAmount)))
}

// Least is the exposure that every donor has, however small it is.
const Least = 10 * sdk.OneATP

// slack is in every bound: what timers and schedulers take.
const slack = 50 * time.Millisecond

// Bound is how much work a donor with so many cores does at most without a
// signature for it, where it asks every interval and its messages take rtt there
// and back. It is CPU time.
func Bound(cores int, interval, rtt time.Duration) sdk.ATP {
	d := min(interval+2*rtt+slack, time.Hour)
	cores = min(max(cores, 1), MaxCores)
	return max(Least, sdk.ATP(cores)*sdk.ATP(d.Microseconds()))
}

// MaxCores is the most cores that a donor says it has.
const MaxCores = 4096

// total sums amounts, which are not negative; beyond MaxAmount it is not ok.
func total(sum, more sdk.ATP) (sdk.ATP, bool) {
	if more < 0 || more > MaxAmount || sum < 0 || sum > math.MaxInt64-MaxAmount {
		return 0, false
	}
	sum += more
	return sum, sum <= MaxAmount
}
