package cell

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// partTimeout is how long a message that has come in part may wait for more:
// a request, or a message of a stream.
const partTimeout = 30 * time.Second

// partials are the requests of a link that have come in part, and the streams
// that wait for the rest of a message. The reader adds to them; the reaper
// drops those of which no more comes.
type partials struct {
	n atomic.Int32 // of calls and streams: a reader of whole requests takes no lock

	mu      sync.Mutex // guards all below, and the Calls in it
	calls   map[uint32]*Call
	streams map[uint32]streamPart
}

// A streamPart is a stream that has the beginning of a message.
type streamPart struct {
	ctx *callContext
	due int64 // nanos: when more of it must have come
}

// has reports whether the request of a call has come in part.
func (p *partials) has(id uint32) bool {
	if p.n.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[id] != nil
}

// set adds a request, or removes one if c is nil. The caller holds mu.
func (p *partials) set(id uint32, c *Call) {
	if c == nil {
		delete(p.calls, id)
	} else {
		p.calls[id] = c
	}
	p.count()
}

func (p *partials) count() { p.n.Store(int32(len(p.calls) + len(p.streams))) }

// clear removes and returns all.
func (p *partials) clear() map[uint32]*Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.calls
	p.calls, p.streams = make(map[uint32]*Call), make(map[uint32]streamPart)
	p.n.Store(0)
	return all
}

// streamed notes that a stream has taken a message, or more of one.
func (l *inLink) streamed(h wire.Header, ctx *callContext) {
	p := &l.parts
	if h.Flags&wire.FlagMore == 0 {
		if p.n.Load() > 0 {
			p.mu.Lock()
			delete(p.streams, h.Call)
			p.count()
			p.mu.Unlock()
		}
		return
	}
	due := l.r.now + int64(partTimeout)
	p.mu.Lock()
	p.streams[h.Call] = streamPart{ctx, due}
	p.count()
	p.mu.Unlock()
	l.m.reaper.lower(&l.next, due)
}

// expireStreams ends the calls whose streams wait for the rest of a message
// for too long, and returns when to look again.
func (l *inLink) expireStreams(now int64) int64 {
	next := int64(noNext)
	var late []*callContext
	l.parts.mu.Lock()
	for id, s := range l.parts.streams {
		if s.due > now {
			next = min(next, s.due)
			continue
		}
		delete(l.parts.streams, id)
		if l.at(id).Load() == s.ctx { // else the call has ended meanwhile
			late = append(late, s.ctx)
		}
	}
	l.parts.count()
	l.parts.mu.Unlock()
	for _, ctx := range late {
		ctx.stream.losePart(sdk.Errorf(sdk.CodeDeadline, "receive stream message: no more of it came within %s", partTimeout))
		l.stop(ctx, context.Canceled)
	}
	return next
}

// beginPart takes the first part of a request, or refuses the call.
func (l *inLink) beginPart(c *Call, body []byte) {
	if e := l.extend(c, body, partCost); e != nil {
		id := c.id
		c.recycle()
		l.refuse(id, e)
		return
	}
	due := c.partDue
	l.parts.mu.Lock()
	l.parts.set(c.id, c)
	l.parts.mu.Unlock()
	l.m.reaper.lower(&l.next, due)
}

// requestPart takes one more fragment of a request, or its cancellation, and
// reports whether the frame belongs to one that has come in part.
func (l *inLink) requestPart(h wire.Header, body []byte) (bool, error) {
	p := &l.parts
	p.mu.Lock()
	c := p.calls[h.Call]
	if c == nil {
		p.mu.Unlock()
		return false, nil
	}
	var e *sdk.Error
	switch h.Kind {
	case wire.KindFragment:
		e = l.extend(c, body, 0)
	case wire.KindCancel:
		e = sdk.Errorf(sdk.CodeCancelled, "cancelled by the caller")
	default:
		p.mu.Unlock()
		return true, fmt.Errorf("%s inside the request of call %d", h.Kind, h.Call)
	}
	whole := h.Flags&wire.FlagMore == 0
	if e != nil || whole {
		p.set(h.Call, nil)
	}
	p.mu.Unlock()
	if e != nil {
		c.recycle()
		l.refuse(h.Call, e)
	} else if whole {
		c.request = Vesicle{b: c.long}
		l.start(c)
	}
	return true, nil
}

// extend adds body to a request, which costs so much more than its length.
func (l *inLink) extend(c *Call, body []byte, cost int) *sdk.Error {
	switch {
	case len(c.long)+len(body) > l.m.maxMessage:
		return sdk.Errorf(sdk.CodeTooLarge, "receive request of more than %d bytes", l.m.maxMessage)
	case l.held.Load()+int64(len(body)) > maxBudget:
		return sdk.Errorf(sdk.CodeOverloaded, "route to %q: %d bytes of requests are in flight", l.m.welcome.Cell, l.held.Load())
	}
	cost += len(body)
	if e := l.m.room.take(l.peer.Node, cost); e != nil {
		return e
	}
	c.roomed += cost
	c.long = appendTight(c.long, body)
	c.partDue = l.r.now + int64(partTimeout)
	l.hold(c, len(body))
	return nil
}

// expire is the reaper's: it refuses the requests of which no more has come
// for long, or whose time is over, and returns when to look again.
func (l *inLink) expire(now int64) int64 {
	next := int64(noNext)
	if l.parts.n.Load() == 0 {
		return next
	}
	next = l.expireStreams(now)
	var late []*Call
	l.parts.mu.Lock()
	for id, c := range l.parts.calls {
		due := c.partDue
		if c.ctx.deadline != 0 {
			due = min(due, c.ctx.deadline)
		}
		if due > now {
			next = min(next, due)
			continue
		}
		late = append(late, c)
		l.parts.set(id, nil)
	}
	l.parts.mu.Unlock()
	for _, c := range late { // its id is not free before it is refused
		id, got := c.id, len(c.long)
		c.recycle()
		l.refuse(id, sdk.Errorf(sdk.CodeDeadline, "receive request: no more than %d bytes of it came in time", got))
	}
	return next
}
