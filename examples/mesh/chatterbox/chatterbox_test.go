package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/mesh/gossip"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

const replicas = 4

// serve starts the replicas and returns them, and a client for all.
func serve(t *testing.T) ([]*chatterbox, gossip.ChatterboxClient) {
	k := celltest.New(t)
	life, end := context.WithCancel(context.Background())
	var list []*chatterbox
	for range replicas {
		k.Serve("chatterbox", func(m *cell.Membrane) {
			c := &chatterbox{replica: uint32(m.Replica()), life: life, others: gossip.NewChatterboxClient(m.Synapse("chatterbox"))}
			list = append(list, c)
			gossip.RegisterChatterbox(m, c)
		})
	}
	t.Cleanup(func() {
		end()
		for _, c := range list {
			c.talks.Wait()
		}
	})
	return list, gossip.NewChatterboxClient(k.Synapse("chatterbox"))
}

func testRound(t *testing.T, id uint64) *gossip.Round {
	now, err := gossip.Now()
	if err != nil {
		t.Fatal(err)
	}
	return &gossip.Round{ID: id, Begin: now + int64(50*time.Millisecond), End: now + int64(150*time.Millisecond), Interval: int64(time.Millisecond), Replicas: replicas}
}

func TestEveryMessageIsHeardByAnother(t *testing.T) {
	list, _ := serve(t)
	r := testRound(t, 7)
	var starts sync.WaitGroup
	for _, c := range list {
		starts.Go(func() {
			for range 2 { // the second is a repetition
				if _, err := c.Start(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	starts.Wait()
	for _, c := range list {
		<-c.round.ended
	}
	var sent, received uint64
	for _, c := range list {
		s, err := c.Tell(t.Context(), &gossip.Question{Round: 7})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Done || s.Failed != 0 || s.FromSelf != 0 || s.Sent != 100 {
			t.Errorf("replica %d: %+v", s.Replica, s)
		}
		var timed int64
		for _, n := range s.Count {
			timed += n
		}
		if uint64(timed) != s.Received {
			t.Errorf("replica %d: %d received, %d timed", s.Replica, s.Received, timed)
		}
		sent, received = sent+s.Sent, received+s.Received
	}
	if sent != received {
		t.Errorf("%d sent, %d received", sent, received)
	}
}

func TestRoundsThatCanNotBe(t *testing.T) {
	list, client := serve(t)
	long, fast := testRound(t, 1), testRound(t, 1)
	long.End = long.Begin + maxRound + 1
	fast.Interval = 1
	for _, r := range []*gossip.Round{long, fast, {ID: 1}} {
		if _, err := client.Start(t.Context(), r); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("start %+v: got %v", r, err)
		}
	}
	if _, err := client.Tell(t.Context(), &gossip.Question{Round: 5}); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("tell of an unknown round: got %v", err)
	}
	if _, err := list[0].Start(t.Context(), testRound(t, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := list[0].Start(t.Context(), testRound(t, 2)); sdk.CodeOf(err) != sdk.CodeOverloaded {
		t.Errorf("start beside another round: got %v", err)
	}
}
