package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
)

const (
	allWithin = 20 * time.Second // to hear of every replica
	allPause  = 20 * time.Millisecond
	lead      = 2 * time.Second // from the first start to the first message: they connect meanwhile
	slowest   = int64(time.Minute)
	digits    = 2
)

type observer struct {
	options
	clients []gossip.ChatterboxClient // one for each machine
	turn    atomic.Uint32
}

// client takes turns: every machine has as many replicas.
func (v *observer) client() gossip.ChatterboxClient {
	return v.clients[int(v.turn.Add(1))%len(v.clients)]
}

// all makes the same call until every replica has answered it well. Who
// answers is not the caller's choice, so it makes many at once.
func (v *observer) all(ctx context.Context, what string, call func(context.Context) (replica uint32, ok bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, allWithin)
	defer cancel()
	pause := time.NewTicker(allPause)
	defer pause.Stop()
	var mu sync.Mutex // guards seen and failure
	seen := map[uint32]bool{}
	var failure error
	for {
		var calls sync.WaitGroup
		for range v.replicas {
			calls.Go(func() {
				replica, ok, err := call(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failure = err
				} else if ok {
					seen[replica] = true
				}
			})
		}
		calls.Wait()
		if len(seen) >= v.replicas {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %d of %d replicas within %s (last failure: %v)", what, len(seen), v.replicas, allWithin, failure)
		case <-pause.C:
		}
	}
}

// meet waits until every replica has answered once.
func (v *observer) meet(ctx context.Context) error {
	return v.all(ctx, "meet the replicas", func(ctx context.Context) (uint32, bool, error) {
		heard, err := v.client().Name(ctx, &gossip.Question{})
		if err != nil {
			return 0, false, err
		}
		return heard.Replica, true, nil
	})
}

// plain is how plain calls, one after the other, spread over the replicas.
type plain struct {
	by      map[uint32]int
	errors  uint64
	elapsed time.Duration
	latency *hdrhistogram.Histogram // ns, both ways
}

func (v *observer) plain(ctx context.Context) (*plain, error) {
	p := &plain{by: map[uint32]int{}, latency: hdrhistogram.New(1, slowest, digits)}
	begin := time.Now()
	before := begin
	for range v.calls {
		heard, err := v.client().Name(ctx, &gossip.Question{})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		now := time.Now()
		if err != nil {
			p.errors++
			continue
		}
		p.by[heard.Replica]++
		_ = p.latency.RecordValue(min(int64(now.Sub(before)), slowest)) // in range
		before = now
	}
	p.elapsed = time.Since(begin)
	return p, nil
}

// mesh is what all replicas told of one round.
type mesh struct {
	stories map[uint32]*gossip.Story
	latency *hdrhistogram.Histogram // ns, one way
	time    time.Duration
}

// mesh has the replicas talk and waits for their stories.
func (v *observer) mesh(ctx context.Context) (*mesh, error) {
	id := rand.Uint64()
	if err := v.start(ctx, id); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%d replicas talk for %s\n", v.replicas, v.time)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(lead + v.time):
	}
	// When all have every answer, nothing is under way any more: what they
	// tell after that is final.
	if _, err := v.stories(ctx, id); err != nil {
		return nil, err
	}
	stories, err := v.stories(ctx, id)
	if err != nil {
		return nil, err
	}
	m := &mesh{stories: stories, latency: hdrhistogram.New(1, slowest, digits), time: v.time}
	for _, s := range stories {
		if len(s.Latency) != len(s.Count) {
			return nil, fmt.Errorf("story of replica %d: %d latencies, %d counts", s.Replica, len(s.Latency), len(s.Count))
		}
		for i, ns := range s.Latency {
			if err := m.latency.RecordValues(min(ns, slowest), s.Count[i]); err != nil {
				return nil, fmt.Errorf("story of replica %d: %w", s.Replica, err)
			}
		}
	}
	return m, nil
}

// start tells every replica when to begin. That is far enough ahead that the
// last one knows before the first one sends.
func (v *observer) start(ctx context.Context, id uint64) error {
	now, err := gossip.Now()
	if err != nil {
		return err
	}
	r := &gossip.Round{ID: id, Begin: now + int64(lead), Replicas: uint32(v.replicas)}
	r.End = r.Begin + int64(v.time)
	r.Interval = int64(time.Second) * int64(v.replicas) / int64(v.rate)
	err = v.all(ctx, "start", func(ctx context.Context) (uint32, bool, error) {
		heard, err := v.client().Start(ctx, r)
		if err != nil {
			return 0, false, err
		}
		return heard.Replica, true, nil
	})
	if err != nil {
		return err
	}
	if now, err = gossip.Now(); err == nil && now > r.Begin {
		err = fmt.Errorf("start: it took longer than %s to tell all", lead)
	}
	return err
}

// stories returns what each replica tells, once all are done.
func (v *observer) stories(ctx context.Context, id uint64) (map[uint32]*gossip.Story, error) {
	var mu sync.Mutex // guards told
	told := map[uint32]*gossip.Story{}
	err := v.all(ctx, "hear the stories", func(ctx context.Context) (uint32, bool, error) {
		s, err := v.client().Tell(ctx, &gossip.Question{Round: id})
		if err != nil {
			return 0, false, err
		}
		mu.Lock()
		defer mu.Unlock()
		told[s.Replica] = s
		return s.Replica, s.Done, nil
	})
	return told, err
}
