package books

import (
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// What a payer believes of a payee, whatever that says of itself.
const (
	MaxBelieved    = 256                    // cores
	maxInterval    = 250 * time.Millisecond // between receipts
	maxRTT         = 250 * time.Millisecond // from a proposal to its signature
	maxAccumulated = time.Hour              // of all cores, for which a claim may come late
)

// A Pair is who called whom: a cell of the payer and one of the payee.
type Pair struct{ From, Cell sdk.CellName }

// Own is what a payer knows itself of the work that a payee does for it, by what
// its own cells count of their calls. It is absolute, since some beginning.
type Own struct {
	Busy  time.Duration   // during which at least one call was in flight
	Calls map[Pair]uint64 // that were begun
}

func (o Own) called(j Job) bool { return o.Calls[Pair{j.From, j.Cell}] > 0 }

// begun sums all calls up.
func (o Own) begun() (n uint64) {
	for _, calls := range o.Calls {
		n += calls
	}
	return n
}

// An Allowance is how much CPU time a payee can have used at most by what the
// payer knows itself: so many cores, while a call was in flight. It outlives
// sessions, so that a payee that begins a new one is allowed nothing anew. The
// zero Allowance is ready.
type Allowance struct {
	// Before is set where an earlier life of the payer's kernel has had work done
	// by this payee: what of it is not signed is not known any more, and one
	// [Bound] is signed on trust, once.
	Before bool

	cores  int
	trust  sdk.ATP // CPU time, whoever is said to have called
	left   sdk.ATP // CPU time, of pairs that have called
	busy   time.Duration
	calls  uint64 // that had been begun before
	begun  bool   // trust was given
	called bool   // so was Least, with the first call
}

// NewAllowance allows for what is done from now on, of which a payer knows own
// already: what is in own may have been signed for. before is whether the book
// knows the payee. It is of an earlier life of the payer's kernel if this one has
// called nothing there.
func NewAllowance(own Own, before bool) Allowance {
	calls := own.begun()
	return Allowance{Before: before && calls == 0, busy: own.Busy, calls: calls}
}

// begin takes what the payee says of itself.
func (a *Allowance) begin(cores int, bound sdk.ATP) {
	a.cores = min(max(cores, 1), MaxBelieved)
	if a.Before && !a.begun {
		a.trust = bound
	}
	a.begun = true
}

// grow takes what the payer knows by now. Meters are off by 2 %, and by their
// steps, for which there is [Least] with the first call.
func (a *Allowance) grow(own Own) {
	if d := min(own.Busy-a.busy, maxAccumulated); d > 0 {
		grown := sdk.ATP(a.cores) * sdk.ATP(d.Microseconds())
		a.left += grown + grown/50
	}
	a.busy = own.Busy
	if own.begun() > a.calls && !a.called {
		a.called = true
		a.left += Least
	}
	a.left = min(a.left, Least+sdk.ATP(a.cores)*sdk.ATP(maxAccumulated.Microseconds()))
}

// split sums the CPU time of jobs up: of pairs that have called, and of others.
func split(jobs []Job, own Own) (known, others sdk.ATP) {
	for _, j := range jobs {
		if own.called(j) {
			known += min(j.CPU, MaxAmount-known)
		} else {
			others += min(j.CPU, MaxAmount-others)
		}
	}
	return known, others
}

// covers reports whether the work can have been done.
func (a *Allowance) covers(jobs []Job, own Own) bool {
	if a == nil {
		return false
	}
	a.grow(own)
	known, others := split(jobs, own)
	return others <= a.trust && known <= a.left+a.trust-others
}

// take takes what covers has said yes to.
func (a *Allowance) take(jobs []Job, own Own) {
	known, others := split(jobs, own)
	a.trust -= others
	if a.left -= known; a.left < 0 {
		a.trust, a.left = a.trust+a.left, 0
	}
}

// why says what is wrong with a claim that is not covered.
func (a *Allowance) why(jobs []Job, own Own) string {
	known, others := split(jobs, own)
	if others > a.trust {
		for _, j := range jobs {
			if !own.called(j) && j.CPU > 0 {
				return string(j.From) + " has not called " + string(j.Cell) + " there"
			}
		}
	}
	return (known + others).String() + " of CPU time is more than the calls of this node's cells can have used by now, which is " + (a.left + a.trust).String()
}
