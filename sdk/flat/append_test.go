package flat_test

import (
	"math"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		in   time.Time
		wire int64
		out  time.Time
	}{
		{time.Time{}, 0, time.Time{}},
		{time.Unix(0, 0), 0, time.Time{}},
		{time.Unix(5, 7), 5e9 + 7, time.Unix(5, 7).UTC()},
		{time.Unix(-5, 0), -5e9, time.Unix(-5, 0).UTC()},
		{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), math.MaxInt64, time.Unix(0, math.MaxInt64).UTC()},
		{time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC), math.MinInt64, time.Unix(0, math.MinInt64).UTC()},
	} {
		if ns := flat.FromTime(c.in); ns != c.wire || flat.ToTime(ns) != c.out {
			t.Errorf("%v: got %d and %v, want %d and %v", c.in, ns, flat.ToTime(ns), c.wire, c.out)
		}
	}
}

func TestUnfinished(t *testing.T) {
	b := flat.AppendUnfinished([]byte("12345678"))[8:]
	if flat.Finished(b) == nil || flat.Finished(nil) == nil {
		t.Error("an unfinished buffer counts as finished")
	}
	if _, err := flat.Verify(append(b, make([]byte, 8)...), schema, 0); err == nil {
		t.Error("an unfinished buffer verifies")
	}
	if err := flat.Finished(sample()); err != nil {
		t.Error(err)
	}
}

func TestResize(t *testing.T) {
	s := []int{1, 2, 3, 4}[:1]
	if got := flat.Resize(s, 3); len(got) != 3 || &got[0] != &s[0] || got[2] != 3 {
		t.Errorf("within capacity: %v", got)
	}
	if got := flat.Resize(s, 6); len(got) != 6 || got[3] != 4 || got[5] != 0 {
		t.Errorf("beyond capacity: %v", got)
	}
	if got := flat.Resize[int](nil, 0); got != nil {
		t.Errorf("nil became %v", got)
	}
}
