package cell

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A Call is the serving side of one call. It belongs to the handler it was
// given to and must not be used after that returned.
type Call struct {
	link    *inLink
	id      uint32
	flags   wire.Flags
	method  *method
	ctx     *callContext
	request Vesicle
	small   []byte // holds short requests; kept when the Call is used again
	long    []byte // a request that came in fragments
	partDue int64  // nanos: when more of it must have come
	held    int64  // bytes counted in link.held
	roomed  int    // bytes counted in the Membrane's room
	ended   bool   // Reply was called
	owed    bool   // Reply took the call, and has not ended it
	inline  uint64 // not 0: the reader runs it, as this word says, and writes the reply with others
}

// newCall returns a Call for a request.
func (m *Membrane) newCall() *Call {
	c, _ := m.calls.Get().(*Call)
	if c == nil {
		c = &Call{small: make([]byte, 0, smallBody)}
	}
	return c
}

// recycle gives the request's buffer back, and the Call.
func (c *Call) recycle() {
	l := c.link
	l.held.Add(-c.held)
	if c.roomed > 0 {
		l.m.room.give(l.peer.Node, c.roomed)
	}
	c.request.Release()
	*c = Call{small: c.small}
	l.m.calls.Put(c)
}

// Request returns the encoded request, empty for shapes without one. It is
// valid until the handler returns, and not verified.
func (c *Call) Request() []byte { return c.request.b }

// Stream returns the messages of a streaming call. It panics for unary calls.
func (c *Call) Stream() *Stream {
	if c.ctx.stream == nil {
		panic("cell: Stream of a unary call")
	}
	return c.ctx.stream
}

// Reply ends the call with m, which is encoded straight into the link's write
// buffer. If the caller gave up meanwhile nothing is sent and that is no
// error. Calling Reply twice is one.
func (c *Call) Reply(m flat.Message) error {
	if c.ended {
		return &sdk.Error{Code: sdk.CodeInternal, Executed: sdk.ExecutedYes, Text: "reply twice"}
	}
	c.ended = true
	h := wire.Header{Kind: wire.KindReply, Call: c.id}
	if c.flags&wire.FlagJSON != 0 && m != nil {
		b, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode reply: %w", err)
		}
		h.Flags, m = wire.FlagJSON, new(bytesMessage(b))
	}
	l := c.link
	c.seal()
	if !l.take(c.id, c.ctx) {
		return nil
	}
	c.owed = true // should encoding panic
	how := alone
	if c.inline != 0 {
		how = corked
	} else if l.active.Load() > 1 {
		how = crowd
	}
	until := bound{until: c.ctx.deadline, who: c.ctx}
	long, err := l.sendShort(h, m, nil, until, how)
	c.owed = false
	if long != nil {
		err = c.replyLong(h, long, until)
	}
	if how == corked && l.inline.word.Load() != c.inline {
		l.w.uncork(0) // another goroutine reads since, and has uncorked already
	}
	c.undelivered(err)
	return nil
}

// undelivered ends a call whose reply could not be sent, if err is not nil.
func (c *Call) undelivered(err error) {
	if err == nil || c.link.w.reason() != nil {
		return // a link that broke has no reader for an error either
	}
	e := *sdk.AsError(err)
	e.Executed = sdk.ExecutedYes
	c.link.refuse(c.id, &e)
}

// replyLong sends a reply in fragments, when the other side has room for it.
func (c *Call) replyLong(h wire.Header, long []byte, until bound) error {
	l := c.link
	if !l.replies.try(len(long), l.theirs.Budget) {
		l.w.uncork(0) // what is written already does not wait with it
		if c.inline != 0 {
			l.handOver(c.inline, l.inline.since.Load()) // nor what comes
		}
		if err := l.replies.take(len(long), l.theirs.Budget, l.w, until); err != nil {
			return err
		}
	}
	defer l.replies.give(len(long)) // once the other side knows that no more of it comes
	_, err := l.sendLong(h, long, nil, until)
	c.undelivered(err)
	return nil
}

// run serves the call from beginning to end, and returns how long that took, in
// ns. It begins at begun.
func (c *Call) run(begun int64) (took int64) {
	l, ctx := c.link, c.ctx
	err := error(nil)
	if ctx.deadline != 0 && begun >= ctx.deadline {
		err = sdk.Errorf(sdk.CodeDeadline, "route to %q: deadline passed before a handler was free", l.m.welcome.Cell)
	} else if ctx.ended() {
		err = c.given()
	} else {
		if l.m.workers.limit > 0 {
			ctx.enter(c.method)
		}
		err = c.serve(ctx)
	}
	if err == nil && !c.ended {
		err = c.Reply(nil) // sends nothing if the caller has given up
	}
	if err != nil {
		c.fail(err)
	}
	waits := ctx.leave()
	c.seal()
	if ctx.stream != nil {
		ctx.stream.drop()
	}
	t := l.tallyOf(c.method)
	c.recycle()
	t.calls.Add(1)
	took = nanos() - begun
	if waits {
		t.enter(begun + took) // nobody else ends that wait
	}
	return took
}

// away is told when a call has ended and its time is counted.
func (l *inLink) away() {
	l.lease.run(-1)
	if l.active.Add(-1) == 0 && l.over.Load() == overSilent {
		l.m.sayClosed(l)
	}
	l.m.called()
}

// given is why a call that never ran is over already.
func (c *Call) given() error {
	if s := c.ctx.stream; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err != nil {
			return s.err
		}
	}
	return sdk.Errorf(sdk.CodeCancelled, "cancelled by the caller")
}

// fail ends the call with an error, if nothing has ended it yet.
func (c *Call) fail(err error) {
	e := sdk.AsError(err)
	c.seal()
	if c.owed || c.link.take(c.id, c.ctx) {
		c.link.refuse(c.id, e)
	}
}

// seal ends the handler's use of its stream, if it has one: the frame that
// ends the call is the last.
func (c *Call) seal() {
	if s := c.ctx.stream; s != nil {
		s.finish(Vesicle{}, sdk.Errorf(sdk.CodeCancelled, "stream: the call has ended"))
		s.sendMu.Lock() // a message that is being sent goes first
		s.scratch = nil
		s.sendMu.Unlock()
	}
}

// serve calls the handler. A panic becomes a typed error; its stack goes to
// the log.
func (c *Call) serve(ctx *callContext) (err error) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("handler panicked", "method", c.method.name(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &sdk.Error{Code: sdk.CodeInternal, Executed: sdk.ExecutedYes, Text: fmt.Sprintf("%s panicked: %.200v", c.method.name(), p)}
		}
	}()
	if c.flags&wire.FlagJSON != 0 {
		if err := c.decodeJSON(); err != nil {
			return Invalid(err)
		}
	}
	if err := c.method.handle(ctx, c); err != nil {
		return ran(err)
	}
	if !c.ended && c.method.desc.Shape == Unary {
		return &sdk.Error{Code: sdk.CodeInternal, Executed: sdk.ExecutedYes, Text: c.method.name() + " returned without a reply"}
	}
	return nil
}

// ran returns a handler's error as its caller may see it. What a call that the
// handler made says of itself, that it was not executed, is not true of the
// handler's own.
func ran(err error) error {
	e := sdk.AsError(err)
	if e.Executed != sdk.ExecutedNo || e.Code != sdk.CodeUnavailable && e.Code != sdk.CodeOverloaded {
		return err
	}
	return &sdk.Error{Code: e.Code, Executed: sdk.ExecutedYes, Text: e.Text}
}

// decodeJSON turns a request in JSON into the encoding that handlers know.
func (c *Call) decodeJSON() error {
	md := c.method.desc
	if c.ctx.stream != nil {
		c.ctx.stream.json = md
	}
	if c.flags&wire.FlagNone != 0 {
		return nil
	}
	b, err := fromJSON(md.NewIn, c.request.b)
	if err != nil {
		return err
	}
	c.request.Release()
	c.request = Vesicle{b: b}
	return nil
}

func fromJSON(newMessage func() flat.Message, b []byte) ([]byte, error) {
	m := newMessage()
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, err
	}
	return m.AppendFlat(nil), nil
}
