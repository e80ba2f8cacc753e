package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
)

const (
	minInterval = int64(100 * time.Microsecond)
	maxRound    = int64(10 * time.Minute)
	maxWaiting  = 256              // messages without an answer; beyond, the sender waits
	patience    = 10 * time.Second // for one answer
	greetings   = 16
	slowest     = int64(time.Minute)
	digits      = 2
)

// A round is what this replica knows of one gossip.Round.
type round struct {
	gossip.Round
	ended chan struct{} // closed when every message was answered or failed

	mu       sync.Mutex // guards all below
	sent     uint64
	failed   uint64
	reached  map[uint32]struct{}
	received uint64
	fromSelf uint64
	latency  *hdrhistogram.Histogram // ns
}

func newRound(r gossip.Round) *round {
	return &round{
		Round: r, ended: make(chan struct{}), reached: make(map[uint32]struct{}),
		latency: hdrhistogram.New(1, slowest, digits),
	}
}

func (r *round) done() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// greet calls others, who do not count it, so that the links are there before
// the first message is timed.
func (c *chatterbox) greet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var calls sync.WaitGroup
	for range greetings {
		calls.Go(func() {
			_, _ = c.others.Name(ctx, &gossip.Question{}) // if it fails, messages will
		})
	}
	calls.Wait()
}

// talk sends one message per interval until the round ends. What is late is
// sent at once: the rate does not depend on the answers.
func (c *chatterbox) talk(ctx context.Context, r *round) {
	defer close(r.ended)
	c.greet(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	waiting := make(chan struct{}, maxWaiting)
	timer := time.NewTimer(0)
	defer timer.Stop()
	// Replicas take turns, so that they do not all send at once.
	first := r.Begin + r.Interval*int64(c.replica%r.Replicas)/int64(r.Replicas)
	for next := first; next < r.End; next += r.Interval {
		now, err := gossip.Now()
		if err != nil {
			return
		}
		if next > now {
			timer.Reset(time.Duration(next - now))
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		}
		waiting <- struct{}{}
		calls.Go(func() {
			c.send(ctx, r)
			<-waiting
		})
	}
}

// send sends one message, which is timed by whoever gets it.
func (c *chatterbox) send(ctx context.Context, r *round) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now, err := gossip.Now()
	if err != nil {
		return
	}
	reply, err := c.others.Hear(ctx, &gossip.Message{Round: r.ID, From: c.replica, SentAt: now})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	if err != nil {
		r.failed++
		return
	}
	r.reached[reply.Replica] = struct{}{}
}

func (r *round) heard(self bool, ns int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received++
	if self {
		r.fromSelf++
	}
	_ = r.latency.RecordValue(max(0, min(ns, slowest))) // in range
}

func (r *round) story(replica uint32) *gossip.Story {
	done := r.done() // before the counters are read
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &gossip.Story{
		Replica: replica, Done: done, Sent: r.sent, Failed: r.failed,
		Reached: slices.Sorted(maps.Keys(r.reached)), Received: r.received, FromSelf: r.fromSelf,
	}
	for _, bar := range r.latency.Distribution() {
		if bar.Count > 0 {
			s.Latency, s.Count = append(s.Latency, bar.To), append(s.Count, bar.Count)
		}
	}
	return s
}
