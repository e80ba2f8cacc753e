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

// Links of one kind are equal within a factor of two; a link that leaves the
// machine has to be clearly the cheaper one, whichever was drawn first.
func TestCallsStayUnlessItCostsClearlyMore(t *testing.T) {
	for _, c := range []struct {
		second, first           int64
		secondLocal, firstLocal bool
		want                    bool
	}{
		{50, 100, true, true, false},
		{49, 100, true, true, true},
		{49, 100, false, false, true},
		{150, 100, true, false, true},
		{151, 100, true, false, false},
		{100, 150, false, true, false},
		{100, 151, false, true, true},
	} {
		if got := better(c.second, c.first, c.secondLocal, c.firstLocal); got != c.want {
			t.Errorf("%+v: got %t", c, got)
		}
	}
}
