package supervisor

import (
	"fmt"
	"time"
)

const (
	backoffFirst = 50 * time.Millisecond
	backoffCap   = 5 * time.Second
	backoffSwing = 0.2 // of a pause, in both directions

	// healthyAfter is how long a life must be ready to forgive earlier ends.
	healthyAfter = 30 * time.Second
	// servedAfter is how long a life must be ready so that the next one begins
	// at once: its end was an accident, not a failure to start.
	servedAfter = time.Second
	// crashloopPause is the time between the tries of a replica whose budget
	// is used up.
	crashloopPause = 30 * time.Second
)

// A RestartRule says when a replica that ended by itself is started again.
type RestartRule string

// The rules. The empty rule is [RestartAlways].
const (
	RestartAlways    RestartRule = "always"
	RestartOnFailure RestartRule = "on-failure" // unless it exited with 0
	RestartNever     RestartRule = "never"
)

// A Budget is how many restarts within how long are normal. The zero Budget
// is 5 in 30 s.
type Budget struct {
	Restarts int
	Within   time.Duration
}

// orDefault fills in what is zero.
func (b Budget) orDefault() Budget {
	if b.Restarts <= 0 {
		b.Restarts = 5
	}
	if b.Within <= 0 {
		b.Within = 30 * time.Second
	}
	return b
}

// A policy is what decides over a replica's next life.
type policy struct {
	restart RestartRule
	job     bool
	budget  Budget
}

// An outcome is how a life ended by itself.
type outcome struct {
	at     time.Time     // when
	ok     bool          // it exited with status 0
	ready  time.Duration // how long it was ready; negative: it never was
	reason string        // in words
	exited bool          // it ended on its own: it was neither late nor hung, and had begun
}

// A verdict is what follows.
type verdict struct {
	state  State
	pause  time.Duration // before the next start; only of backoff and crashloop
	reason string
}

// A history is what the policy remembers of a replica. The zero history is
// that of a replica that was just asked for.
type history struct {
	proven   bool        // a life became ready
	failures int         // ends since the last healthy life
	restarts []time.Time // within the budget's time, oldest first
	looping  bool        // the budget is used up and no life was healthy since
}

// next takes in how a life ended and decides. random is from [0, 1).
func (h *history) next(p policy, o outcome, random float64) verdict {
	h.proven = h.proven || o.ready >= 0
	if v, final := p.final(o, h.proven); final {
		return v
	}
	if o.ready >= healthyAfter {
		h.failures, h.restarts, h.looping = 0, nil, false
	}
	h.spend(p.budget.orDefault(), o.at)
	if h.looping {
		return verdict{Crashloop, swing(crashloopPause, random),
			fmt.Sprintf("%s; restart budget used up", o.reason)}
	}
	pause := time.Duration(0)
	if o.ready < servedAfter {
		pause = backoff(h.failures, random)
	}
	h.failures++
	return verdict{Backoff, pause, o.reason}
}

// final decides whether there is no next life.
func (p policy) final(o outcome, proven bool) (verdict, bool) {
	once := p.restart == RestartNever || p.job && p.restart != RestartOnFailure
	switch {
	case o.ok && (p.job || p.restart == RestartNever || p.restart == RestartOnFailure):
		return verdict{state: Done, reason: o.reason}, true
	case once:
		return verdict{state: Failed, reason: o.reason}, true
	case !proven && !p.job && o.exited:
		return verdict{state: Failed, reason: o.reason + " before it was ready"}, true
	case !proven && !p.job:
		return verdict{state: Failed, reason: o.reason}, true
	}
	return verdict{}, false
}

// spend takes one restart from the budget.
func (h *history) spend(b Budget, now time.Time) {
	for len(h.restarts) > 0 && now.Sub(h.restarts[0]) >= b.Within {
		h.restarts = h.restarts[1:]
	}
	if len(h.restarts) >= b.Restarts {
		h.looping = true
		return
	}
	h.restarts = append(h.restarts, now)
}

// backoff returns the pause after n earlier failures: it doubles from 50 ms
// to 5 s, give or take a fifth. There is none for a negative n.
func backoff(n int, random float64) time.Duration {
	if n < 0 {
		return 0
	}
	pause := backoffCap
	if n < 16 {
		pause = min(pause, backoffFirst<<n)
	}
	return swing(pause, random)
}

// swing spreads d by [backoffSwing], so that replicas that fell together do
// not come back together.
func swing(d time.Duration, random float64) time.Duration {
	return time.Duration(float64(d) * (1 - backoffSwing + 2*backoffSwing*random))
}
