package cell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// An inLink is a link another cell opened: it brings requests.
type inLink struct {
	*link
	// running holds the context of every call the other side has in flight, by
	// call id. Whoever takes a context out, the handler that ends or the reader
	// that sees a cancel, sends the frame that ends the call.
	running [slotBlocks]atomic.Pointer[[slotBlock]atomic.Pointer[callContext]]
	parts   partials // requests that come in fragments
	own     *Call    // to be run by the reader itself; of the reader
	inline  inline
	next    atomic.Int64 // nanos: when the reaper must look at this link
	visited uint64       // bytes read at its last look
	greetBy int64        // nanos: when settings must have come, 0 once they have; of the reaper
	lingers lingers
	active  atomic.Int32
	held    atomic.Int64 // bytes of requests
	replies replyBudget  // of the other side, for long replies

	tallies []tally // by method; made when the link is opened
	errors  atomic.Uint64
	over    atomic.Int32 // what the kernel heard of the link's end
	account linkAccount
	lease   *allowance      // of the other side's node; nil if that is this one
	labels  context.Context // holds the profiler's labels of this link; nil without a meter
}

// newIn makes a link of f that is not yet read.
func newIn(m *Membrane, info channel.Link, f *os.File) (*inLink, error) {
	base, err := newLink(m, info, f)
	if err != nil {
		return nil, err
	}
	l := &inLink{link: base}
	l.parts.clear()
	l.next.Store(noNext)
	return l, nil
}

// open greets the other side and serves the link until it ends.
func (l *inLink) open() error {
	l.tallies = make([]tally, len(l.m.methods))
	l.meter()
	if err := l.hello(l.m.table); err != nil {
		l.abandon(err)
		return err
	}
	l.greetBy = nanos() + int64(greetTimeout)
	l.m.reaper.add(l)
	l.m.wg.Go(l.read)
	return nil
}

// abandon ends a link that nobody has begun to read.
func (l *link) abandon(err error) {
	l.w.fail(err)
	l.r.close()
}

// read is the link's reader. It never blocks but in reading, and in a handler
// that it runs itself.
func (l *inLink) read() {
	l.label()
	var err error
	for err == nil {
		var h wire.Header
		var body []byte
		if !l.r.buffered() {
			l.w.uncork(0)
			l.r.eager = l.inline.shun == 0 && l.active.Load() == 0
		}
		if h, body, err = l.r.next(); err == nil {
			err = l.handle(h, body)
		}
		if l.own != nil && !l.runInline() {
			return // another goroutine reads since
		}
	}
	l.w.fail(err)
	l.report()
	l.r.close()
	for _, c := range l.parts.clear() {
		c.recycle()
	}
	l.eachRunning(func(id uint32, ctx *callContext) {
		if l.take(id, ctx) {
			l.stop(ctx, context.Canceled)
		}
	})
	l.w.wg.Wait()
	l.m.reaper.remove(l)
	l.m.ended(l)
}

// stop ends a call whose other side is gone or has given up.
func (l *inLink) stop(ctx *callContext, err error) {
	l.lingers.watch(l.link, ctx)
	ctx.cancel(err)
	if ctx.stream != nil {
		ctx.stream.finish(Vesicle{}, sdk.AsError(err))
	}
}

func (l *inLink) handle(h wire.Header, body []byte) error {
	if h.Kind == wire.KindSettings || !l.greeted() {
		return l.settings(h, body)
	}
	switch h.Kind {
	case wire.KindRequest:
		return l.request(h, body)
	case wire.KindFragment, wire.KindMessage, wire.KindCredit, wire.KindCancel:
		return l.handleCall(h, body)
	case wire.KindPing:
		l.control(wire.Header{Kind: wire.KindPong, Value: h.Value}, "")
	case wire.KindPong:
	default:
		return fmt.Errorf("unexpected %s", h.Kind)
	}
	return nil
}

// handleCall takes a frame of a call that has begun. Frames for a call that
// this side has ended already crossed its end on the way, and are dropped.
func (l *inLink) handleCall(h wire.Header, body []byte) error {
	if l.parts.n.Load() > 0 {
		if was, err := l.requestPart(h, body); was {
			return err
		}
	}
	p := l.at(h.Call)
	if p == nil {
		return fmt.Errorf("%s for call %d: ids are below %d", h.Kind, h.Call, maxCalls)
	}
	ctx := p.Load()
	if ctx == nil {
		return nil
	}
	switch h.Kind {
	case wire.KindCancel:
		if ctx.stream != nil {
			l.stop(ctx, context.Canceled) // its handler may be in the middle of a message: it sends the end
		} else if l.take(h.Call, ctx) {
			l.stop(ctx, context.Canceled)
			l.refuse(h.Call, &sdk.Error{Code: sdk.CodeCancelled, Text: "cancelled by the caller"})
		}
		return nil
	case wire.KindCredit:
		if ctx.stream != nil {
			ctx.stream.grant(h.Value)
		}
		return nil
	}
	if ctx.stream == nil {
		return fmt.Errorf("%s for call %d, which does not stream", h.Kind, h.Call)
	}
	err := ctx.stream.take(h, body, l.r)
	if err == nil {
		l.streamed(h, ctx)
	}
	if e := (*sdk.Error)(nil); errors.As(err, &e) {
		ctx.stream.finish(Vesicle{}, e)
		l.stop(ctx, context.Canceled)
		return nil
	}
	return err
}

// request begins a call, or refuses it. A refusal means it was not executed.
func (l *inLink) request(h wire.Header, body []byte) error {
	p := l.at(h.Call)
	if p == nil || p.Load() != nil || l.parts.has(h.Call) {
		return fmt.Errorf("request with id %d: want a free id below %d", h.Call, maxCalls)
	}
	var meta []wire.Meta
	if h.Flags&wire.FlagMeta != 0 {
		raw, message, err := wire.SplitMeta(body)
		if err != nil {
			return err
		}
		if meta, err = wire.ParseMeta(raw); err != nil {
			return err
		}
		body = message
	}
	if h.Flags&wire.FlagNone != 0 && len(body) > 0 || len(body) > wire.MaxPayload {
		return fmt.Errorf("request with a message of %d bytes", len(body))
	}
	if e := l.admit(h, len(body)); e != nil {
		l.refuse(h.Call, e)
		return nil
	}
	c := l.newCall(h, meta)
	if h.Flags&wire.FlagMore != 0 {
		l.beginPart(c, body)
		return nil
	}
	l.hold(c, len(body))
	if len(body) <= smallBody {
		c.small = append(c.small[:0], body...)
		c.request = Vesicle{b: c.small}
	} else {
		c.request = l.r.lease(body)
	}
	l.start(c)
	return nil
}

// admit decides whether a request may run at all.
func (l *inLink) admit(h wire.Header, size int) *sdk.Error {
	switch {
	case l.m.draining.Load():
		return sdk.Errorf(sdk.CodeUnavailable, "route to %q: it is shutting down", l.m.welcome.Cell)
	case l.lease.over(l.r.now) && !l.lease.more.Load():
		return l.lease.refusal(l.peer.Node)
	case l.lease.full(l.m.nodeCalls):
		return sdk.Errorf(sdk.CodeOverloaded, "route to %q: %d handlers run for node %s, which pays for them", l.m.welcome.Cell, l.m.nodeCalls, l.peer.Node.Short())
	case int(h.Aux) >= len(l.m.methods):
		return sdk.Errorf(sdk.CodeNotFound, "route to %q: no method %d", l.m.welcome.Cell, h.Aux)
	case l.held.Load()+int64(size) > maxBudget:
		return sdk.Errorf(sdk.CodeOverloaded, "route to %q: %d bytes of requests are in flight", l.m.welcome.Cell, l.held.Load())
	case l.active.Load() >= maxRunning:
		return sdk.Errorf(sdk.CodeOverloaded, "route to %q: %d handlers run for this caller", l.m.welcome.Cell, maxRunning)
	}
	return nil
}

func (l *inLink) newCall(h wire.Header, meta []wire.Meta) *Call {
	c := l.m.newCall()
	c.link, c.id, c.flags, c.method = l, h.Call, h.Flags, l.m.methods[h.Aux]
	c.ctx = &callContext{link: l, meta: meta}
	if l.m.workers.limit == 0 {
		c.ctx.method = c.method // no call waits for its turn
	}
	if left := wire.Time(h.Value); left != 0 {
		c.ctx.deadline = l.r.now + int64(left)
	}
	if c.method.desc.Shape != Unary {
		c.ctx.stream = newStream(l.link, h.Call, c.method.desc.Shape.streamsIn())
		c.ctx.stream.held, c.ctx.stream.who = &l.held, c.ctx
	}
	return c
}

func (l *inLink) hold(c *Call, n int) {
	c.held += int64(n)
	l.held.Add(int64(n))
}

// start hands a complete request to a handler.
func (l *inLink) start(c *Call) {
	l.m.inflight.Add(1)
	if l.m.draining.Load() { // looked at again, now that the drain would wait for this call
		l.refuse(c.id, l.admit(wire.Header{}, 0))
		c.recycle()
		l.m.called()
		return
	}
	l.m.touch() // it may run for long
	l.at(c.id).Store(c.ctx)
	l.active.Add(1)
	l.lease.run(1)
	if l.lease.over(l.r.now) {
		c.ctx.parked.Store(true)
		l.m.wg.Go(func() { l.park(c) })
		return
	}
	if l.mayInline(c) {
		l.own = c
		return
	}
	l.m.workers.do(c)
}

// refuse ends a call with an error. The reader may call it.
func (l *inLink) refuse(id uint32, e *sdk.Error) {
	l.errors.Add(1)
	l.control(errorHeader(id, e), e.Text[:min(len(e.Text), maxErrorText)])
}

// maxErrorText bounds the text of an error on the wire, in bytes.
const maxErrorText = 4 << 10

func errorHeader(id uint32, e *sdk.Error) wire.Header {
	return wire.Header{Kind: wire.KindError, Call: id, Aux: uint16(e.Code) | uint16(e.Executed)<<8}
}

// at returns where the context of a call id is kept, or nil if the id is too
// large. Only the reader makes blocks.
func (l *inLink) at(id uint32) *atomic.Pointer[callContext] {
	if id >= maxCalls {
		return nil
	}
	b := l.running[id/slotBlock].Load()
	if b == nil {
		b = new([slotBlock]atomic.Pointer[callContext])
		l.running[id/slotBlock].Store(b)
	}
	return &b[id%slotBlock]
}

// take removes a call from those in flight and reports whether it was there.
func (l *inLink) take(id uint32, ctx *callContext) bool {
	return l.running[id/slotBlock].Load()[id%slotBlock].CompareAndSwap(ctx, nil)
}

func (l *inLink) eachRunning(f func(id uint32, ctx *callContext)) {
	for i := range l.running {
		b := l.running[i].Load()
		if b == nil {
			continue
		}
		for j := range b {
			if ctx := b[j].Load(); ctx != nil {
				f(uint32(i*slotBlock+j), ctx)
			}
		}
	}
}

// goAway tells the other side that new calls will be refused.
func (l *inLink) goAway() { l.control(wire.Header{Kind: wire.KindGoAway}, "draining") }

var errCellGone = errors.New("cell is shutting down")
