package sdk

import "context"

// Limits of what a discovery carries.
const (
	MaxEnvelope  = 1200 // bytes of one envelope: it fits an unfragmented datagram
	MaxEnvelopes = 64   // envelopes a node announces at once
)

// A Discovery carries signed envelopes between nodes. It holds no key and
// decides nothing: the kernel signs every beat and verifies all that arrives.
type Discovery interface {
	// Announce replaces what this node says about itself with self, the full
	// desired state, and returns when that was accepted. The plugin keeps
	// repeating it for as long as its medium needs. An empty self is goodbye.
	Announce(ctx context.Context, self []Envelope) error
	// Watch reports what is seen: first a snapshot of events, then one
	// [EventSynced], then changes as they come. It blocks until ctx is done
	// and then returns nil; saw is never called concurrently.
	Watch(ctx context.Context, saw func(Event)) error
}

// An Envelope is one signed and sealed announcement, opaque to discoveries:
// at most [MaxEnvelope] bytes. Whoever receives a slice of it must not change it.
type Envelope []byte

// An EventKind says what an [Event] reports.
type EventKind uint8

// The kinds of events.
const (
	EventSeen   EventKind = 1 // an envelope arrived
	EventSynced EventKind = 2 // the snapshot is complete
	EventGone   EventKind = 3 // the origin said goodbye or its lease ended
)

// An Event is one thing a [Discovery] saw.
type Event struct {
	Kind     EventKind
	Envelope Envelope // of EventSeen; of EventGone the last envelope, if any
	// Origin is where it came from, as the medium tells: "10.0.0.7:9099".
	// It is a hint for dialling and for limits, never an identity. What follows
	// a space is for people: "203.0.113.7:40123 nat:51000" was port 51000 before
	// something on the way changed it.
	Origin string
}
