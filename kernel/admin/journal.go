package admin

import (
	"context"
	"sync"
	"time"
)

// A Journal holds the last events of a kernel and lets any number of readers
// follow at their own pace. Publishing never blocks: a reader that falls
// behind the ring finds an [EventLost] instead of what it missed.
type Journal struct {
	mu     sync.Mutex // guards the fields below
	ring   []Event    // ring[i] holds an event with Seq % len(ring) == i
	last   uint64     // Seq of the newest event
	wake   chan struct{}
	closed bool
}

// NewJournal returns a journal of the last size events, at least one.
func NewJournal(size int) *Journal {
	return &Journal{ring: make([]Event, max(size, 1)), wake: make(chan struct{})}
}

// Publish appends e, with the next sequence number and, if it has none, the
// present time. Whatever e points to must not change afterwards. After Close
// it does nothing.
func (j *Journal) Publish(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	j.last++
	e.Seq = j.last
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	j.ring[e.Seq%uint64(len(j.ring))] = e
	close(j.wake)
	j.wake = make(chan struct{})
}

// Close ends the journal: followers get what is left and return.
func (j *Journal) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.closed = true
		close(j.wake)
	}
}

// Last returns the sequence number of the newest event; 0 if there is none.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Follow yields the events after sequence number after, then new ones, one at
// a time and without holding any lock. It returns nil when ctx is done or the
// journal is closed and read to its end, and yield's error if there is one.
func (j *Journal) Follow(ctx context.Context, after uint64, yield func(Event) error) error {
	for ctx.Err() == nil {
		e, wake, ok := j.next(after)
		switch {
		case ok:
			if err := yield(e); err != nil {
				return err
			}
			after = e.Seq
		case wake == nil:
			return nil
		default:
			select {
			case <-wake:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// next returns the first event after seq, or a channel that is closed when
// there may be one, or neither when there will be none.
func (j *Journal) next(seq uint64) (Event, <-chan struct{}, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if seq > j.last {
		seq = j.last // a number from the future, of another kernel: begin with what comes
	}
	if seq == j.last {
		if j.closed {
			return Event{}, nil, false
		}
		return Event{}, j.wake, false
	}
	oldest := uint64(1)
	if j.last > uint64(len(j.ring)) {
		oldest = j.last - uint64(len(j.ring)) + 1
	}
	if seq+1 < oldest {
		return Event{Seq: oldest - 1, Time: time.Now(), Kind: EventLost, Lost: oldest - 1 - seq}, nil, true
	}
	return j.ring[(seq+1)%uint64(len(j.ring))], nil, true
}
