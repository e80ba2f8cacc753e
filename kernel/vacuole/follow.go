package vacuole

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
)

// subscriptionSize is how many bytes of lines wait for a slow subscriber.
const subscriptionSize = 1 << 20

// A Subscription delivers stored lines and then live ones. It belongs to one
// goroutine; only Close may be called by others.
type Subscription struct {
	v     *Vacuole
	query Query
	now   chunk // the rest of the chunk that is being delivered

	// stored guards the three fields below it.
	stored sync.Mutex
	all    []*history
	next   func() (Line, bool) // stored lines; nil: exhausted
	stop   func()

	// mu guards the fields below. It is the last mutex to be taken.
	mu     sync.Mutex
	queue  []chunk
	bytes  int
	lost   int64
	ended  bool
	signal chan struct{} // of capacity 1: queue or ended changed
}

// chunk is a batch of formatted lines, shared by all subscriptions, or a gap.
type chunk struct {
	src   Source
	rows  []byte
	count int64 // lines in rows
	lost  int64 // lines missing in front of them
}

// Follow returns what q selects of the stored lines and everything that comes
// after, each line exactly once; with Tail -1 only what comes after. A
// subscriber that reads too slowly misses lines, never a cell: they are
// counted in a [Line] in their place.
func (v *Vacuole) Follow(q Query) (*Subscription, error) {
	q.Names = slices.Clone(q.Names)
	s := &Subscription{v: v, query: q, signal: make(chan struct{}, 1)}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, errors.New("follow logs: closed")
	}
	names, err := logNames(v.dir)
	if err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	for name := range v.logs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if _, owner, ok := parseName(name); ok && q.wants(owner) {
			s.join(name)
		}
	}
	v.wide = append(v.wide, s)
	s.next, s.stop = iter.Pull(merge(s.all, q))
	return s, nil
}

// join takes what a log has and what it will get; nothing is written between.
func (s *Subscription) join(name string) {
	if log := s.v.logs[name]; log != nil {
		log.mu.Lock()
		defer log.mu.Unlock()
		log.subs = append(log.subs, s)
	}
	if s.query.Tail >= 0 {
		s.all = append(s.all, openHistory(s.v.dir, name))
	}
}

// publish queues a chunk, or counts it as lost. It never blocks.
func (s *Subscription) publish(c chunk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if s.bytes+len(c.rows) > subscriptionSize {
		s.lost += c.count
		return
	}
	c.lost, s.lost = s.lost, 0
	s.queue = append(s.queue, c)
	s.bytes += len(c.rows)
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// end lets Next return io.EOF after what is queued.
func (s *Subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.wake()
}

// Next returns the next line. It blocks until there is one or ctx is done;
// io.EOF means that the vacuole or the subscription was closed.
func (s *Subscription) Next(ctx context.Context) (Line, error) {
	if line, ok := s.old(); ok {
		return line, nil
	}
	for {
		if line, ok := s.row(); ok {
			return line, nil
		}
		c, ended := s.take()
		switch {
		case c.rows != nil || c.lost > 0:
			s.now = c
		case ended:
			return Line{}, io.EOF
		default:
			select {
			case <-s.signal:
			case <-ctx.Done():
				return Line{}, context.Cause(ctx)
			}
		}
	}
}

// row cuts the next line off the current chunk.
func (s *Subscription) row() (Line, bool) {
	if s.now.lost > 0 {
		line := Line{Time: now(), Lost: s.now.lost}
		s.now.lost = 0
		return line, true
	}
	for len(s.now.rows) > 0 {
		row, rest, _ := bytes.Cut(s.now.rows, []byte("\n"))
		s.now.rows = rest
		if t, _, text, ok := splitRow(row); ok {
			return Line{Time: t, Source: s.now.src, Text: string(text)}, true
		}
	}
	return Line{}, false
}

// take removes the first chunk of the queue; at its end, a gap without lines.
func (s *Subscription) take() (chunk, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		c := chunk{lost: s.lost}
		s.lost = 0
		return c, s.ended
	}
	c := s.queue[0]
	s.queue[0] = chunk{}
	s.queue = s.queue[1:]
	s.bytes -= len(c.rows)
	return c, false
}

// old returns the next stored line.
func (s *Subscription) old() (Line, bool) {
	s.stored.Lock()
	defer s.stored.Unlock()
	if s.next == nil {
		return Line{}, false
	}
	line, ok := s.next()
	if !ok {
		s.forget()
	}
	return line, ok
}

// forget closes the stored files; stored is held.
func (s *Subscription) forget() {
	if s.next != nil {
		s.stop()
		closeAll(s.all)
	}
	s.next, s.all = nil, nil
}

// Close ends the subscription: Next returns io.EOF after what is queued. It
// must be called unless Next has returned io.EOF.
func (s *Subscription) Close() {
	gone := func(o *Subscription) bool { return o == s }
	s.v.mu.Lock()
	s.v.wide = slices.DeleteFunc(s.v.wide, gone)
	for _, log := range s.v.logs {
		log.mu.Lock()
		log.subs = slices.DeleteFunc(log.subs, gone)
		log.mu.Unlock()
	}
	s.v.mu.Unlock()
	s.end()
	s.stored.Lock()
	s.forget()
	s.stored.Unlock()
}
