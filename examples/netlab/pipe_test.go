package netlab

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Frames that enter later leave later, and none is late or early by more than
// the jitter.
func TestSwayKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := sway{random: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
		jitter := time.Duration(rapid.Int64Range(1, int64(time.Second)).Draw(t, "jitter"))
		now, left := time.Duration(0), -jitter
		for _, step := range rapid.SliceOf(rapid.Int64Range(0, int64(time.Second))).Draw(t, "steps") {
			now += time.Duration(step)
			deviation := s.at(now, jitter)
			if deviation < -jitter || deviation > jitter {
				t.Fatalf("deviation %s of ± %s", deviation, jitter)
			}
			if leaves := now + deviation; leaves < left {
				t.Fatalf("leaves at %s, the one before at %s", leaves, left)
			} else {
				left = leaves
			}
		}
	})
}

func TestFifo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fifo
		var want [][]byte
		for _, push := range rapid.SliceOf(rapid.Bool()).Draw(t, "pushes") {
			if push {
				frame := rapid.SliceOfN(rapid.Byte(), 0, maxFrame).Draw(t, "frame")
				if !q.push(frame, time.Duration(len(frame))) {
					t.Fatal("no room")
				}
				want = append(want, frame)
			} else if due, ok := q.due(); ok != (len(want) > 0) {
				t.Fatalf("holds one: %v, want %d", ok, len(want))
			} else if ok {
				if got := q.pop(); !bytes.Equal(got, want[0]) || due != time.Duration(len(got)) {
					t.Fatalf("got %d bytes due at %d, want %d", len(got), due, len(want[0]))
				}
				want = want[1:]
			}
		}
	})
}

func TestFifoIsBounded(t *testing.T) {
	var q fifo
	for range maxQueued {
		if !q.push(nil, 0) {
			t.Fatal("no room")
		}
	}
	if q.push(nil, 0) {
		t.Error("there is room for more than there is room for")
	}
}
