// Package gossip declares what chatterboxes say to each other and to whoever
// observes them.
package gossip

import (
	"context"

	"golang.org/x/sys/unix"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Chatterbox sends messages to others of its kind, and counts those it gets.
//
//cell:service
type Chatterbox interface {
	// Hear takes a message from another replica.
	Hear(ctx context.Context, message *Message) (*Heard, error)
	// Start begins a round, once, however often it is called.
	//
	//cell:idempotent
	Start(ctx context.Context, round *Round) (*Heard, error)
	// Tell says how a round went so far.
	//
	//cell:idempotent
	Tell(ctx context.Context, question *Question) (*Story, error)
	// Name says who answers.
	//
	//cell:idempotent
	Name(ctx context.Context, question *Question) (*Heard, error)
}

// A Message is one of a round. Times are readings of the clock that all
// processes of a machine share: see Now.
type Message struct {
	Round  uint64
	From   uint32 // replica
	SentAt int64
}

// Heard tells who answered.
type Heard struct {
	Replica uint32
}

// A Round is a time in which every replica sends, one message per interval.
type Round struct {
	ID       uint64
	Begin    int64
	End      int64
	Interval int64 // ns
	Replicas uint32
}

// A Question is about a round.
type Question struct {
	Round uint64
}

// A Story is what one replica saw of a round.
type Story struct {
	Replica uint32
	Done    bool // it has sent all it will and has every answer

	Sent    uint64
	Failed  uint64   // of those sent: there was no answer
	Reached []uint32 // replicas that answered

	Received uint64
	FromSelf uint64  // of those received
	Latency  []int64 // ns, one way: a value for each of Count
	Count    []int64
}

// Now reads the monotonic clock, in ns. It is one for all processes of a
// machine, so that the difference of two readings is a time even where two
// processes took them.
func Now() (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano(), err
}
