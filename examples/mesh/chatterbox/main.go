// The cell chatterbox sends messages to other replicas of itself, at a fixed
// rate whether they are answered in time or not, and times those it gets.
package main

import (
	"context"
	"flag"
	"sync"

	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type chatterbox struct {
	replica uint32
	others  gossip.ChatterboxClient
	life    context.Context // ends with the cell
	talks   sync.WaitGroup

	mu    sync.Mutex // guards round
	round *round
}

// Start implements gossip.Chatterbox.
func (c *chatterbox) Start(_ context.Context, r *gossip.Round) (*gossip.Heard, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.round != nil && c.round.ID == r.ID:
		return &gossip.Heard{Replica: c.replica}, nil
	case c.round != nil && !c.round.done():
		return nil, sdk.Errorf(sdk.CodeOverloaded, "start round %d: round %d goes on", r.ID, c.round.ID)
	case r.Interval < minInterval || r.End-r.Begin > maxRound || r.Replicas == 0:
		return nil, sdk.Errorf(sdk.CodeInvalid, "start round %d: want an interval of at least %d ns, at most %d ns of time, and replicas", r.ID, minInterval, maxRound)
	}
	c.round = newRound(*r)
	now := c.round
	c.talks.Go(func() { c.talk(c.life, now) })
	return &gossip.Heard{Replica: c.replica}, nil
}

// Hear implements gossip.Chatterbox.
func (c *chatterbox) Hear(_ context.Context, m *gossip.Message) (*gossip.Heard, error) {
	now, err := gossip.Now()
	if err != nil {
		return nil, err
	}
	r, err := c.find(m.Round)
	if err != nil {
		return nil, err
	}
	r.heard(m.From == c.replica, now-m.SentAt)
	return &gossip.Heard{Replica: c.replica}, nil
}

// Tell implements gossip.Chatterbox.
func (c *chatterbox) Tell(_ context.Context, q *gossip.Question) (*gossip.Story, error) {
	r, err := c.find(q.Round)
	if err != nil {
		return nil, err
	}
	return r.story(c.replica), nil
}

// Name implements gossip.Chatterbox.
func (c *chatterbox) Name(context.Context, *gossip.Question) (*gossip.Heard, error) {
	return &gossip.Heard{Replica: c.replica}, nil
}

func (c *chatterbox) find(id uint64) (*round, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.round == nil || c.round.ID != id {
		return nil, sdk.Errorf(sdk.CodeNotFound, "round %d: replica %d knows nothing of it", id, c.replica)
	}
	return c.round, nil
}

func main() {
	first := flag.Uint("first", 0, "added to the numbers of replicas: another machine has those below")
	flag.Parse()
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		c := &chatterbox{
			replica: uint32(*first) + uint32(m.Replica()), life: ctx,
			others: gossip.NewChatterboxClient(m.Synapse(m.Name())),
		}
		defer c.talks.Wait()
		gossip.RegisterChatterbox(m, c)
		return m.Serve(ctx)
	})
}
