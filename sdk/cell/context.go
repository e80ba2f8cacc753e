package cell

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// start anchors the monotonic clock of this process.
var start = time.Now()

// nanos is the monotonic time in nanoseconds since the process started.
func nanos() int64 { return int64(time.Since(start)) }

func timeAt(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return start.Add(time.Duration(n))
}

// A callContext is the context of one handled call. It costs one allocation:
// its Done channel and its timer exist only if somebody asks for them, which
// context.WithDeadline can not offer. It is never used again, because
// handlers may keep a context for longer than they run.
type callContext struct {
	deadline int64 // nanos; 0 is none
	link     *inLink
	meta     []wire.Meta
	stream   *Stream     // of streaming calls
	parked   atomic.Bool // it waits for a lease

	mu    sync.Mutex // guards all below
	done  chan struct{}
	err   error
	timer *time.Timer
	after map[*afterFunc]struct{}
	// method is whose handler runs; nil before it does and when it has returned.
	method *method
	waits  int32 // goroutines of the handler that wait inside the sdk
}

type afterFunc struct{ f func() }

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) {
	return timeAt(c.deadline), c.deadline != 0
}

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
		c.watchLocked()
	}
	return c.done
}

// watchLocked starts the timer, now that somebody would notice.
func (c *callContext) watchLocked() {
	if c.timer == nil && c.err == nil && c.deadline != 0 {
		c.timer = time.AfterFunc(time.Duration(c.deadline-nanos()), func() { c.cancel(context.DeadlineExceeded) })
	}
}

// Err implements context.Context.
func (c *callContext) Err() error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err == nil && c.deadline != 0 && nanos() >= c.deadline {
		c.cancel(context.DeadlineExceeded)
		return context.DeadlineExceeded
	}
	return err
}

// ended reports whether the context was cancelled, without reading the clock.
func (c *callContext) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// enter notes that a handler begins that had to wait for its turn.
func (c *callContext) enter(m *method) {
	c.mu.Lock()
	c.method = m
	c.mu.Unlock()
}

// leave notes that the handler has returned, and ends the context. It reports
// whether a goroutine of the handler still waits.
func (c *callContext) leave() (waits bool) {
	c.mu.Lock()
	c.method, waits = nil, c.waits > 0
	c.cancelLocked(context.Canceled)
	return waits
}

// running returns the method whose handler runs, nil if none does.
func (c *callContext) running() *method {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.method
}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	switch key.(type) {
	case incomingKey:
		return c
	}
	if c.link.labels != nil {
		return c.link.labels.Value(key) // the profiler's: who adds some keeps ours
	}
	return nil
}

// AfterFunc lets contexts derived from this one be cancelled without a
// goroutine each (package context looks for this method).
func (c *callContext) AfterFunc(f func()) func() bool {
	a := &afterFunc{f}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = make(map[*afterFunc]struct{})
	}
	c.after[a] = struct{}{}
	c.watchLocked()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.after[a]
		delete(c.after, a)
		return ok
	}
}

// cancel ends the context. The first reason stays.
func (c *callContext) cancel(err error) {
	c.mu.Lock()
	c.cancelLocked(err)
}

// cancelLocked is cancel for a caller that holds mu. It unlocks.
func (c *callContext) cancelLocked(err error) {
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for a := range after {
		go a.f()
	}
}

type (
	incomingKey struct{}
	outgoingKey struct{}
)

// A Peer is the other side of a link.
type Peer struct {
	Node  sdk.NodeID // empty for a cell of this machine's kernel
	Cell  sdk.CellName
	Local bool // both ends belong to the same kernel
}

// Caller returns who made the call that ctx belongs to. It is what the
// kernels certified, not what the caller said of itself. The zero Peer means
// that ctx is not the context of a handler.
func Caller(ctx context.Context) Peer {
	if c, ok := ctx.Value(incomingKey{}).(*callContext); ok {
		return c.link.peer
	}
	return Peer{}
}

// Meta returns the value of a key of the metadata that came with the call
// ctx belongs to, and whether it was there.
func Meta(ctx context.Context, key string) (string, bool) {
	c, _ := ctx.Value(incomingKey{}).(*callContext)
	if c == nil {
		return "", false
	}
	for _, m := range c.meta {
		if m.Key == key {
			return m.Value, true
		}
	}
	return "", false
}

// WithMeta returns a context whose calls carry key and value as metadata: see
// wire.Meta for what is allowed. The keys "traceparent" and "tracestate" need
// not be set in handlers: calls made there carry on what came in.
func WithMeta(ctx context.Context, key, value string) context.Context {
	old, _ := ctx.Value(outgoingKey{}).([]wire.Meta)
	meta := append(old[:len(old):len(old)], wire.Meta{Key: key, Value: value})
	return context.WithValue(ctx, outgoingKey{}, meta)
}

// outgoingMeta collects what a call made under ctx carries.
func outgoingMeta(ctx context.Context) []wire.Meta {
	if ctx == context.Background() {
		return nil
	}
	meta, _ := ctx.Value(outgoingKey{}).([]wire.Meta)
	c := handlerOf(ctx)
	if c == nil {
		return meta
	}
	for _, m := range c.meta {
		if m.Key == "traceparent" || m.Key == "tracestate" {
			meta = append(meta[:len(meta):len(meta)], m)
		}
	}
	return meta
}
