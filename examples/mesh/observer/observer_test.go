package main

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/bench/result"
	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

// scripted tells what it is told to tell.
type scripted struct {
	replica uint32
	story   gossip.Story
	asked   atomic.Int32
}

func (s *scripted) Hear(context.Context, *gossip.Message) (*gossip.Heard, error) {
	return &gossip.Heard{Replica: s.replica}, nil
}

func (s *scripted) Start(context.Context, *gossip.Round) (*gossip.Heard, error) {
	return &gossip.Heard{Replica: s.replica}, nil
}

func (s *scripted) Name(context.Context, *gossip.Question) (*gossip.Heard, error) {
	return &gossip.Heard{Replica: s.replica}, nil
}

// Tell is not done the first time.
func (s *scripted) Tell(context.Context, *gossip.Question) (*gossip.Story, error) {
	story := s.story
	story.Replica, story.Done = s.replica, s.asked.Add(1) > 1
	return &story, nil
}

func watch(t *testing.T, stories ...gossip.Story) (*mesh, *plain, options) {
	k := celltest.New(t)
	for i, s := range stories {
		k.Serve("chatterbox", func(m *cell.Membrane) {
			gossip.RegisterChatterbox(m, &scripted{replica: uint32(i + 1), story: s})
		})
	}
	o := options{replicas: len(stories), rate: 1000, time: time.Millisecond, calls: 400}
	v := &observer{options: o, clients: []gossip.ChatterboxClient{gossip.NewChatterboxClient(k.Synapse("chatterbox"))}}
	if err := v.meet(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := v.plain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.mesh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m, p, o
}

func verdicts(claims []result.Claim) (s string) {
	for _, c := range claims {
		s += map[bool]string{true: "+", false: "-"}[c.OK]
	}
	return s
}

func TestReport(t *testing.T) {
	good := gossip.Story{Sent: 100, Received: 100, Reached: []uint32{1, 2}, Latency: []int64{20_000, 90_000}, Count: []int64{60, 40}}
	m, p, o := watch(t, good, good, good)
	if got := m.sums(); got != (sums{sent: 300, received: 300, reach: 2}) {
		t.Errorf("got %+v", got)
	}
	if got := verdicts(m.claims()); got != "+++++" {
		t.Errorf("claims: got %s: %+v", got, m.claims())
	}
	sum := 0
	for _, n := range p.by {
		sum += n
	}
	if p.errors != 0 || sum != o.calls {
		t.Errorf("plain calls: %d answered, %d failed of %d", sum, p.errors, o.calls)
	}
	var b strings.Builder
	if err := show(&b, &result.Report{Results: []result.Row{m.row(o), p.row(o)}, Claims: m.claims()}, m, p); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mesh-one-way", "plain-calls", "16 - 32       us       180", "median"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestReportOfABadRound(t *testing.T) {
	bad := gossip.Story{Sent: 100, Received: 99, FromSelf: 1, Failed: 1, Latency: []int64{20_000_000}, Count: []int64{1}}
	m, _, _ := watch(t, bad, bad)
	if got := verdicts(m.claims()); got != "+----" {
		t.Errorf("claims: got %s: %+v", got, m.claims())
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-replicas", "1"}, {"-rate", "0"}, {"-time", "soon"}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse %q: no error", args)
		}
	}
	if o, err := parse([]string{"--quick"}); err != nil || o.time > time.Second {
		t.Errorf("got %+v, %v", o, err)
	}
}
