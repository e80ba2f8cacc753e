package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A Stream is one side of a streaming call. One goroutine may send while
// another receives. The client's side must be read to its end or closed.
type Stream struct {
	link *link
	id   uint32
	out  *outLink // on the client's side
	slot *slot    // on the client's side
	json *MethodDesc
	stop <-chan struct{} // of the caller's context
	held *atomic.Int64   // on the server's side: the link's bytes of requests
	who  *callContext    // of the handler that uses it, on either side; nil if it is none

	sendMu  sync.Mutex // guards scratch and the order of sends
	scratch bytesMessage

	mu       sync.Mutex // guards all below
	queue    []Vesicle
	taken    int // bytes received by user code and not yet granted again
	unread   int // bytes received and not yet granted again
	over     int // those beyond the window, which are counted in held
	roomed   int // bytes counted in the Membrane's room
	part     []byte
	partial  bool // part is the beginning of a message
	inEnd    bool // the other side sent its last message
	outEnd   bool // this side did
	finished bool // the call has ended
	err      *sdk.Error
	final    Vesicle
	credit   int64 // bytes that may be sent; one message may take it below zero
	news     chan struct{}
	room     chan struct{}
	unstop   func() bool
	once     sync.Once
}

func newStream(l *link, id uint32, receives bool) *Stream {
	return &Stream{
		link: l, id: id, credit: int64(l.theirs.Window), inEnd: !receives,
		news: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
}

// open begins a streaming call on this link.
func (l *outLink) open(ctx context.Context, h wire.Header, first flat.Message, at *moment) (*Stream, error) {
	st := newStream(l.link, 0, true)
	st.out, st.stop, st.outEnd, st.who = l, ctx.Done(), first != nil, handlerOf(ctx)
	s, err := l.begin(ctx, at, st)
	if err != nil {
		return nil, err
	}
	if err := l.request(ctx, s, h, first, at); err != nil {
		return nil, err
	}
	wakeUp(l.takeOver) // nobody leads for a stream
	if ctx.Done() != nil {
		st.mu.Lock()
		st.unstop = context.AfterFunc(ctx, func() { st.abandon(ctx.Err()) })
		st.mu.Unlock()
	}
	return st, nil
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take takes a message, or more of one, from the other side. Only the reader
// calls it. An *[sdk.Error] ends the call, any other the link.
func (s *Stream) take(h wire.Header, body []byte, r *reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return nil // crossed the end of the call
	}
	if h.Kind == wire.KindFragment {
		return s.fragment(h, body)
	}
	return s.message(h, body, r)
}

// message takes a message or its beginning. The caller holds mu.
func (s *Stream) message(h wire.Header, body []byte, r *reader) error {
	defer wakeUp(s.news)
	if s.inEnd || s.partial {
		return fmt.Errorf("stream message for call %d out of order", s.id)
	}
	s.inEnd = h.Flags&wire.FlagEnd != 0
	if h.Flags&wire.FlagNone != 0 {
		return nil
	}
	if s.unread >= window {
		return fmt.Errorf("stream message for call %d beyond the window", s.id)
	}
	if err := s.hold(len(body) + overhead); err != nil {
		return err
	}
	switch {
	case h.Flags&wire.FlagMore != 0:
		s.part, s.partial = appendTight(nil, body), true
	case len(body) <= smallBody:
		s.queue = append(s.queue, Vesicle{b: append([]byte(nil), body...)})
	default:
		s.queue = append(s.queue, r.lease(body))
	}
	return nil
}

// hold counts n more bytes as received, or as used if n is negative. What the
// window promised is always taken; one long message may go beyond it, and all
// of those together only as far as requests may. The caller holds mu.
func (s *Stream) hold(n int) error {
	s.unread += n
	over := max(0, s.unread-window)
	more := int64(over - s.over)
	s.over = over
	if s.held != nil && more != 0 && s.held.Add(more) > maxBudget && more > 0 {
		return &sdk.Error{Code: sdk.CodeOverloaded, Executed: sdk.ExecutedYes, Text: fmt.Sprintf("stream: %d bytes of long messages are in flight", maxBudget)}
	}
	return s.occupy()
}

// occupy counts what waits here in the Membrane's room, if that is more than a
// little: on the server's side, where strangers send. The caller holds mu.
func (s *Stream) occupy() error {
	if s.held == nil {
		return nil
	}
	waits, room, node := s.unread-s.taken, &s.link.m.room, s.link.peer.Node
	switch {
	case waits <= streamFree && s.roomed > 0:
		room.give(node, s.roomed)
		s.roomed = 0
	case waits > s.roomed+streamFree:
		more := (waits - s.roomed + streamStep - 1) / streamStep * streamStep
		if e := room.take(node, more); e != nil {
			e.Executed = sdk.ExecutedYes
			return e
		}
		s.roomed += more
	}
	return nil
}

// fragment takes more of a long message. The caller holds mu.
func (s *Stream) fragment(h wire.Header, body []byte) error {
	if !s.partial || len(s.part)+len(body) > s.link.m.maxMessage {
		return fmt.Errorf("fragment for call %d: without a beginning, or over %d bytes", s.id, s.link.m.maxMessage)
	}
	if err := s.hold(len(body)); err != nil {
		return err
	}
	s.part = appendTight(s.part, body)
	if h.Flags&wire.FlagMore == 0 {
		s.queue = append(s.queue, Vesicle{b: s.part})
		s.part, s.partial = nil, false
		wakeUp(s.news)
	}
	return nil
}

// losePart ends the call of a stream because the rest of a message does not
// come, and frees what has come of it.
func (s *Stream) losePart(e *sdk.Error) {
	e.Executed = sdk.ExecutedYes
	s.mu.Lock()
	if s.partial {
		_ = s.hold(-len(s.part) - overhead) // only more can be too much
		s.part, s.partial = nil, false
	}
	s.mu.Unlock()
	s.finish(Vesicle{}, e)
}

// grant adds credit.
func (s *Stream) grant(n uint32) {
	s.mu.Lock()
	s.credit = min(s.credit+int64(n), 1<<40)
	s.mu.Unlock()
	wakeUp(s.room)
}

// finish ends the call: with err, or well with the reply v. The first end stays.
func (s *Stream) finish(v Vesicle, err *sdk.Error) {
	s.mu.Lock()
	if !s.finished {
		s.finished, s.err, s.final = true, err, v
	}
	s.mu.Unlock()
	wakeUp(s.news)
	wakeUp(s.room)
}

// drop releases what nobody will receive.
func (s *Stream) drop() {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.part = nil, nil
	_ = s.hold(-s.unread) // only more can be too much
	s.mu.Unlock()
	for _, v := range queue {
		v.Release()
	}
}

// Send encodes m and sends it. It blocks until the other side grants room.
// io.EOF means that the call has ended and Recv tells how.
func (s *Stream) Send(m flat.Message) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	h := wire.Header{Kind: wire.KindMessage, Call: s.id}
	if s.json != nil {
		b, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode stream message: %w", err)
		}
		h.Flags, s.scratch = wire.FlagJSON, b
	} else {
		s.scratch = m.AppendFlat(s.scratch[:0])
	}
	if len(s.scratch) > s.link.theirs.Message {
		return sdk.Errorf(sdk.CodeTooLarge, "send message of %d bytes: other side accepts %d", len(s.scratch), s.link.theirs.Message)
	}
	if err := s.awaitCredit(int64(len(s.scratch) + overhead)); err != nil {
		return err
	}
	err := s.link.send(h, &s.scratch, bound{stop: s.stop, who: s.who})
	if cap(s.scratch) > keepWater {
		s.scratch = nil
	}
	return s.sendError(err)
}

// sendError replaces the error of a link that broke by the stream's own end.
func (s *Stream) sendError(err error) error {
	if err != nil && s.link.w.reason() != nil {
		return io.EOF
	}
	return err
}

// awaitCredit waits until a message may be begun, and pays n for it.
func (s *Stream) awaitCredit(n int64) error {
	for {
		s.mu.Lock()
		switch {
		case s.finished:
			s.mu.Unlock()
			return io.EOF
		case s.outEnd:
			s.mu.Unlock()
			return sdk.Errorf(sdk.CodeInvalid, "send after the end of the stream")
		case s.credit > 0:
			s.credit -= n
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		h := s.who.wait()
		select {
		case <-s.room:
			h.resume()
		case <-s.link.w.done:
			h.resume()
			return io.EOF
		}
	}
}

// CloseSend tells the other side that no more messages follow. Sending after
// it is an error; closing twice is not.
func (s *Stream) CloseSend() error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.mu.Lock()
	done := s.outEnd || s.finished
	s.outEnd = true
	s.mu.Unlock()
	if done {
		return nil
	}
	err := s.link.send(wire.Header{Kind: wire.KindMessage, Flags: wire.FlagEnd, Call: s.id}, nil, bound{stop: s.stop, who: s.who})
	return s.sendError(err)
}

// Recv returns the next message. It blocks until there is one; io.EOF is the
// regular end. The caller releases the Vesicle.
func (s *Stream) Recv() (Vesicle, error) {
	for {
		v, ok, err := s.poll()
		if ok && err == nil && s.json != nil {
			b, err := fromJSON(s.json.NewIn, v.b)
			v.Release()
			if err != nil {
				return Vesicle{}, Invalid(err)
			}
			return Vesicle{b: b}, nil
		}
		if ok || err != nil {
			return v, err
		}
		h := s.who.wait()
		<-s.news // finish, message and fragment all wake it; a broken link finishes
		h.resume()
	}
}

// poll takes what is there: a message, the end, or neither.
func (s *Stream) poll() (v Vesicle, ok bool, err error) {
	s.mu.Lock()
	switch {
	case len(s.queue) > 0:
		v, ok = s.queue[0], true
		s.queue[0] = Vesicle{}
		s.queue = s.queue[1:]
		s.taken += len(v.b) + overhead
		if s.taken >= window/2 && !s.finished {
			s.grantTaken()
		}
		_ = s.occupy() // only more can be too much
	case s.err != nil:
		err = s.err
	case s.finished, s.inEnd && s.out == nil:
		err = io.EOF
	}
	s.mu.Unlock()
	if err != nil {
		s.settle()
	}
	return v, ok, err
}

// grantTaken lets the other side send as much again as was received. The
// caller holds mu, so that no credit follows the end of the call.
func (s *Stream) grantTaken() {
	s.link.control(wire.Header{Kind: wire.KindCredit, Call: s.id, Value: uint32(s.taken)}, "")
	taken := s.taken
	s.taken = 0
	_ = s.hold(-taken) // only more can be too much
}

// settle gives the client's slot back, or gives the call up if it still runs.
func (s *Stream) settle() {
	if s.out == nil {
		return
	}
	s.once.Do(func() {
		s.mu.Lock()
		unstop := s.unstop
		s.mu.Unlock()
		if unstop != nil {
			unstop()
		}
		if s.sendMu.TryLock() {
			s.retire()
			return
		}
		// Somebody is in the middle of a message, and nothing of it may follow
		// once the id is free. Not here: the other side may not be reading.
		s.link.m.wg.Go(func() {
			s.sendMu.Lock()
			s.retire()
		})
	})
}

// retire leaves the call. The caller holds sendMu, which is unlocked.
func (s *Stream) retire() {
	defer s.sendMu.Unlock()
	s.out.leave(s.slot)
	s.drop()
}

// abandon ends the stream for the caller's reason.
func (s *Stream) abandon(err error) {
	s.finish(Vesicle{}, &sdk.Error{Code: sdk.AsError(err).Code, Text: "stream: " + err.Error()})
	s.settle()
}

// Close gives the stream up, if it has not ended yet. On the server's side it
// does nothing: there the handler's return ends the stream.
func (s *Stream) Close() error {
	if s.out != nil {
		s.abandon(context.Canceled)
	}
	return nil
}

// result waits for the call's end and returns its reply: of client streams.
func (s *Stream) result() (Vesicle, error) {
	for {
		v, err := s.Recv()
		if err == io.EOF {
			return s.final, nil
		}
		if err != nil {
			return Vesicle{}, err
		}
		v.Release() // a client stream has no messages back
	}
}
