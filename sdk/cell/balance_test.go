package cell

import (
	"testing"
	"time"
)

// A link that was slow once is soon as good as the others; one that does not
// answer never becomes better than they are.
func TestSlownessIsForgotten(t *testing.T) {
	const fast, slow = int64(50 * time.Microsecond), int64(10 * time.Millisecond)
	var s score
	s.sample(slow, 1)
	if got := s.cost(0, fast, 1); got != slow {
		t.Errorf("at once: cost %d, want %d", got, slow)
	}
	later := 1 + 10*int64(forget)
	if got := s.cost(0, fast, later); got != fast {
		t.Errorf("later: cost %d, want that of the other, %d", got, fast)
	}
	if got := s.cost(3, fast, later); got != 4*fast {
		t.Errorf("later, with 3 calls that are not answered: cost %d, want %d", got, 4*fast)
	}
	s.sample(fast, later)
	if got := s.cost(0, fast, later); got != fast {
		t.Errorf("after a fast call: cost %d, want %d", got, fast)
	}
	if got := s.cost(0, 2*slow, later+10*int64(forget)); got != fast {
		t.Errorf("beside a slow link: cost %d, want %d", got, fast)
	}
}
