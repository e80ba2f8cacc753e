package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/examples/bench/load"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const (
	eachWithin = 15 * time.Second // to hear of every replica
	eachPause  = 10 * time.Millisecond
)

var errReply = errors.New("the reply is not the right one")

// cells is the server that cellkernel runs: the replicas of one cell.
type cells struct {
	client   load.WorkerClient
	name     sdk.CellName
	replicas int
}

func newCells(m *cell.Membrane, name sdk.CellName, replicas int) *cells {
	return &cells{load.NewWorkerClient(m.Synapse(name)), name, replicas}
}

// each returns the counters of every replica. It calls until all have
// answered, because who answers a call is not the caller's choice: one that
// was slow a moment ago is left alone for a while.
func (c *cells) each(ctx context.Context) (map[uint32]*load.Counts, error) {
	ctx, cancel := context.WithTimeout(ctx, eachWithin)
	defer cancel()
	pause := time.NewTicker(eachPause)
	defer pause.Stop()
	seen := map[uint32]*load.Counts{}
	for {
		for range 10 * c.replicas {
			n, err := c.client.Count(ctx, &load.Query{})
			if err != nil {
				return nil, fmt.Errorf("count calls of %q: %d of %d replicas answered: %w", c.name, len(seen), c.replicas, err)
			}
			seen[n.Replica] = n
			if len(seen) == c.replicas {
				return seen, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("count calls of %q: %d of %d replicas answered within %s", c.name, len(seen), c.replicas, eachWithin)
		case <-pause.C:
		}
	}
}

// count implements server.
func (c *cells) count(ctx context.Context) (uint64, error) {
	sum, err := c.sum(ctx)
	return sum.Calls, err
}

// sum adds up the counters of all replicas.
func (c *cells) sum(ctx context.Context) (load.Counts, error) {
	var sum load.Counts
	all, err := c.each(ctx)
	for _, n := range all {
		sum.Calls += n.Calls
		sum.CPUMicros += n.CPUMicros
	}
	return sum, err
}

// open implements server.
func (c *cells) open(_ context.Context, w workload) ([]caller, func(), error) {
	var cs []caller
	for i := range w.inFlight {
		first := uint64(i) << 32
		switch w.kind {
		case echo:
			cs = append(cs, caller{c.echo(first, sevens(w.payload)), 1})
		case work:
			cs = append(cs, caller{c.work(first, sevens(w.payload)), 1})
		case burn:
			cs = append(cs, caller{c.burn(first), 1})
		}
	}
	return cs, func() {}, nil
}

func (c *cells) echo(id uint64, payload []byte) func(context.Context) error {
	ping := &load.Ping{ID: id, Payload: payload}
	return func(ctx context.Context) error {
		ping.ID++
		reply, err := c.client.EchoView(ctx, ping)
		if err != nil {
			return err
		}
		defer reply.Release()
		if reply.ID() != ping.ID || !bytes.Equal(reply.Payload(), ping.Payload) {
			return errReply
		}
		return nil
	}
}

func (c *cells) work(id uint64, payload []byte) func(context.Context) error {
	job := &load.Job{ID: id, Iterations: iterations, Payload: payload}
	want := load.Checksum(payload)
	return func(ctx context.Context) error {
		job.ID++
		reply, err := c.client.WorkView(ctx, job)
		if err != nil {
			return err
		}
		defer reply.Release()
		if reply.ID() != job.ID || reply.Processed() != iterations || reply.Checksum() != want {
			return errReply
		}
		return nil
	}
}

func (c *cells) burn(id uint64) func(context.Context) error {
	task := &load.Task{ID: id, Micros: burnMicros}
	return func(ctx context.Context) error {
		task.ID++
		reply, err := c.client.BurnView(ctx, task)
		if err != nil {
			return err
		}
		defer reply.Release()
		if reply.ID() != task.ID || reply.Micros() < burnMicros {
			return errReply
		}
		return nil
	}
}

const iterations = 5 // what the original asks for

// sevens is the payload of the original.
func sevens(n int) []byte { return bytes.Repeat([]byte{7}, n) }
