package admin_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"pgregory.net/rapid"
)

func TestJournalTellsWhatASlowReaderMissed(t *testing.T) {
	j := admin.NewJournal(4)
	for range 10 {
		j.Publish(admin.Event{Kind: admin.EventNote})
	}
	j.Close()
	j.Publish(admin.Event{Kind: admin.EventNote}) // after the end: nothing
	var seen []uint64
	var lost uint64
	err := j.Follow(t.Context(), 2, func(e admin.Event) error {
		lost += e.Lost
		seen = append(seen, e.Seq)
		return nil
	})
	if err != nil || lost != 4 || len(seen) != 5 || seen[0] != 6 || seen[4] != 10 {
		t.Errorf("got %v, lost %d, %v", seen, lost, err)
	}
}

func TestJournalWakesFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := admin.NewJournal(8)
		ctx, cancel := context.WithCancel(t.Context())
		got := 0
		done := make(chan error)
		go func() {
			done <- j.Follow(ctx, 0, func(admin.Event) error { got++; return nil })
		}()
		for i := range 20 {
			j.Publish(admin.Event{Kind: admin.EventNote})
			synctest.Wait()
			if got != i+1 {
				t.Fatalf("after %d events the follower saw %d", i+1, got)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestJournalStopsAtYieldsError(t *testing.T) {
	j := admin.NewJournal(1)
	j.Publish(admin.Event{})
	stop := errors.New("stop")
	if err := j.Follow(t.Context(), 0, func(admin.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// Whatever the ring's size and the reader's start: sequence numbers grow by
// one, and what is missing is counted.
func TestJournalAccountsForEveryEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(0, 9).Draw(t, "size")
		n := rapid.Uint64Range(0, 40).Draw(t, "events")
		after := rapid.Uint64Range(0, 50).Draw(t, "after")
		j := admin.NewJournal(size)
		for range n {
			j.Publish(admin.Event{Kind: admin.EventNote})
		}
		j.Close()
		last := min(after, n)
		_ = j.Follow(context.Background(), after, func(e admin.Event) error {
			step := uint64(1)
			if e.Kind == admin.EventLost {
				step = e.Lost
			}
			if e.Seq != last+step {
				t.Fatalf("event %d (%s) after %d", e.Seq, e.Kind, last)
			}
			last = e.Seq
			return nil
		})
		if last != n {
			t.Fatalf("ended at %d of %d", last, n)
		}
	})
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]admin.Target{
		"worker":   {Cell: "worker"},
		"worker#2": {Cell: "worker", Replica: 2},
	} {
		got, err := admin.ParseTarget(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "#", "worker#", "worker#0", "worker#-1", "worker#x", "Worker", "worker#99999999999"} {
		if got, err := admin.ParseTarget(in); err == nil {
			t.Errorf("%q: got %+v, want an error", in, got)
		}
	}
}
