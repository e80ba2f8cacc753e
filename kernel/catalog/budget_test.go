package catalog

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := budget{limit: rapid.IntRange(1, 20).Draw(t, "limit"), window: 30 * time.Second}
		now := time.Unix(0, 0)
		var within []time.Time
		for range 60 {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "pause")))
			var kept []time.Time
			for _, f := range within {
				if now.Sub(f) <= b.window {
					kept = append(kept, f)
				}
			}
			within = append(kept, now)
			delay, ok := b.fail(now)
			if want := len(within) <= b.limit; ok != want {
				t.Fatalf("%d failures within the window, limit %d: got %v", len(within), b.limit, ok)
			}
			if ok && (delay < minBackoff*8/10 || delay > maxBackoff*12/10) {
				t.Fatalf("delay %v", delay)
			}
			if delay > 3*time.Second/4 { // serving again within 1 s, the start included
				t.Fatalf("delay %v leaves no time to start", delay)
			}
		}
	})
}
