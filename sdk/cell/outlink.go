package cell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
	"golang.org/x/sys/cpu"
)

const (
	greetTimeout = 5 * time.Second // for the other side's settings
	pingAfter    = time.Second     // of silence with a call in flight
	silenceLimit = 5 * time.Second // of silence that end a link
	noNext       = math.MaxInt64   // nothing to look after
)

// An outLink is a link this cell opened: it sends requests.
type outLink struct {
	*link
	synapse  *Synapse
	endpoint string
	closing  atomic.Bool                  // no new calls: the other side drains, or this side has enough links
	tables   atomic.Pointer[[]*methodIDs] // by client number
	takeOver chan struct{}                // capacity 1: the keeper should read
	slots    slotTable

	// Callers and the reader run on several cores. What each call writes lies
	// apart from what it only reads, and what the reader writes from both.
	_        cpu.CacheLinePad
	inflight atomic.Int32
	errors   atomic.Uint64
	_        cpu.CacheLinePad
	score    score
	received atomic.Uint64
	_        cpu.CacheLinePad

	turn   atomic.Int32 // who reads
	next   atomic.Int64 // nanos: when the reaper must look at this link
	parts  int          // bytes of replies that have come in part; of the reader
	rested uint64       // received at the reaper's last look at a link without any call in flight
	look   silence
}

// openOut makes a link of f and waits for the other side's settings.
func openOut(s *Synapse, info channel.Link, f *os.File) (*outLink, error) {
	base, err := newLink(s.m, info, f)
	if err != nil {
		s.m.unused(info)
		return nil, err
	}
	if !info.Local {
		base.usage = &usage{at: nanos()}
	}
	if err = s.m.watch(base); err == nil {
		err = base.secure()
	}
	if err != nil {
		s.m.unwatch(base)
		base.abandon(err)
		e := sdk.AsError(err)
		return nil, &sdk.Error{Code: refused(e.Code), Executed: sdk.ExecutedNo, Text: fmt.Sprintf("secure link to %q: %s", info.Cell, e.Text)}
	}
	l := &outLink{link: base, synapse: s, endpoint: info.Endpoint, takeOver: make(chan struct{}, 1)}
	l.slots = slotTable{link: l, freed: make(chan struct{}, 1)}
	s.m.setRelease(base, l.giveUp)
	l.next.Store(noNext)
	l.turn.Store(turnKeeper)
	l.wg.Add(1)
	s.m.wg.Go(func() { defer l.wg.Done(); l.read() })
	if err := l.hello(nil); err != nil {
		l.close(err)
		return nil, err
	}
	timer := time.NewTimer(greetTimeout)
	defer timer.Stop()
	select {
	case <-l.ready:
		return l, nil
	case <-l.w.done:
		err = l.w.reason()
	case <-timer.C:
		err = fmt.Errorf("no settings within %s", greetTimeout)
	}
	l.close(err)
	return nil, sdk.Errorf(sdk.CodeUnavailable, "open link to %q: %v", info.Cell, err)
}

// giveUp has new calls take other links; this one ends with its last call.
func (l *outLink) giveUp() {
	l.closing.Store(true)
	l.synapse.lost(l)
	l.closeIfIdle()
}

// close ends the link and waits for its goroutines. Calls in flight fail.
func (l *outLink) close(err error) {
	l.w.fail(err)
	l.wg.Wait()
	l.w.wg.Wait()
}

// read is the link's own goroutine, the keeper. It never blocks but in reading.
func (l *outLink) read() {
	unlabel() // whoever made the first call does not pay for those of others
	l.w.fail(ended(l.keep()))
	l.m.unwatch(l.link)
	l.report()
	l.r.close()
	l.failCalls(l.w.reason()) // the first one, if this side ended the link
	l.synapse.lost(l)
}

// ended names the regular end of a link.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errLinkEnded
	}
	return err
}

// failCalls ends all calls of a dead link. What was sent may have been executed.
func (l *outLink) failCalls(err error) {
	l.slots.each(func(s *slot) {
		l.end(s, Vesicle{}, &sdk.Error{Code: sdk.CodeUnavailable, Text: fmt.Sprintf("route to %q: %v", l.peer.Cell, err)})
	})
}

func (l *outLink) handle(h wire.Header, body []byte) error {
	if h.Kind == wire.KindSettings || !l.greeted() {
		return l.settings(h, body)
	}
	switch h.Kind {
	case wire.KindReply, wire.KindError, wire.KindMessage, wire.KindFragment, wire.KindCredit:
		return l.handleCall(h, body)
	case wire.KindPing:
		l.control(wire.Header{Kind: wire.KindPong, Value: h.Value}, "")
	case wire.KindPong:
	case wire.KindGoAway:
		l.giveUp()
	default:
		return fmt.Errorf("unexpected %s", h.Kind)
	}
	return nil
}

// handleCall takes a frame that belongs to a call.
func (l *outLink) handleCall(h wire.Header, body []byte) error {
	s := l.slots.at(h.Call)
	if s == nil {
		return fmt.Errorf("%s for call %d, which is not in flight", h.Kind, h.Call)
	}
	switch s.state.Load() {
	case slotFree, slotDone, slotLate: // its result may be in somebody's hands
		return fmt.Errorf("%s for call %d, which is not in flight", h.Kind, h.Call)
	}
	switch h.Kind {
	case wire.KindError:
		e := &sdk.Error{Code: sdk.Code(h.Aux & 0xff), Executed: sdk.Executed(h.Aux >> 8), Text: string(body)}
		if e.Code == sdk.CodeOK || e.Executed > sdk.ExecutedYes {
			return fmt.Errorf("malformed error %#x", h.Aux)
		}
		l.end(s, Vesicle{}, e)
	case wire.KindReply:
		return l.reply(s, h, body)
	case wire.KindFragment:
		if s.parts == nil {
			if s.stream == nil {
				return fmt.Errorf("fragment for call %d without a beginning", h.Call)
			}
			return s.stream.take(h, body, l.r)
		}
		return l.replyPart(s, h, body)
	case wire.KindMessage:
		if s.stream == nil {
			return fmt.Errorf("stream message for call %d, which does not stream", h.Call)
		}
		return s.stream.take(h, body, l.r)
	case wire.KindCredit:
		if s.stream != nil {
			s.stream.grant(h.Value)
		}
	}
	return nil
}

// reply ends a call with a message, or begins to collect a long one.
func (l *outLink) reply(s *slot, h wire.Header, body []byte) error {
	switch {
	case h.Flags&wire.FlagMore != 0:
		if err := l.collect(len(body)); err != nil {
			return err
		}
		s.parts = append(make([]byte, 0, 2*len(body)), body...)
	case h.Flags&wire.FlagNone != 0:
		l.end(s, Vesicle{}, nil)
	case s.stream != nil:
		l.end(s, Vesicle{b: bytes.Clone(body)}, nil)
	case len(body) <= smallBody:
		s.small = append(s.small[:0], body...)
		l.end(s, Vesicle{s.small, s}, nil)
	default:
		l.end(s, l.r.lease(body), nil)
	}
	return nil
}

func (l *outLink) replyPart(s *slot, h wire.Header, body []byte) error {
	if len(s.parts)+len(body) > l.m.maxMessage {
		return fmt.Errorf("reply of more than %d bytes", l.m.maxMessage)
	}
	if err := l.collect(len(body)); err != nil {
		return err
	}
	s.parts = append(s.parts, body...)
	if h.Flags&wire.FlagMore == 0 {
		l.end(s, Vesicle{b: s.parts}, nil)
	}
	return nil
}

// collect counts bytes of replies that are not whole. The other side begins
// none when it has sent the budget, so beyond one more it has lost count.
func (l *outLink) collect(n int) error {
	if l.parts += n; l.parts > maxBudget+l.m.maxMessage {
		return fmt.Errorf("replies of more than %d bytes have come in part", maxBudget+l.m.maxMessage)
	}
	return nil
}

// end gives a call its result. Only the reader calls it.
func (l *outLink) end(s *slot, v Vesicle, err *sdk.Error) {
	if s.parts != nil {
		l.parts -= len(s.parts)
		s.parts = nil
	}
	for {
		switch st := s.state.Load(); st {
		case slotWaiting:
			s.reply, s.err = v, err
			if s.stream != nil {
				s.reply = Vesicle{}
			} else if err == nil {
				l.score.sample(l.r.now-s.begun, l.r.now)
			}
			if s.state.CompareAndSwap(st, slotDone) {
				l.landed(err)
				if s.stream != nil {
					s.stream.finish(v, err)
				}
				s.done <- struct{}{}
				return
			}
		case slotExpired:
			if s.state.CompareAndSwap(st, slotLate) {
				if v.lease != s { // else the caller frees the slot, and may have by now
					v.Release()
				}
				return
			}
		case slotLeft:
			if s.state.CompareAndSwap(st, slotDone) {
				v.Release()
				if v.lease != s {
					l.slots.put(s)
				}
				l.landed(err)
				l.closeIfIdle()
				return
			}
		default:
			return
		}
	}
}

// begin takes a slot for a call. Its error says that it was not executed.
func (l *outLink) begin(ctx context.Context, at *moment, st *Stream) (*slot, error) {
	for waited := false; ; waited = true {
		if s := l.slots.get(l.theirs.Calls); s != nil {
			s.begun = at.now
			s.deadline.Store(at.deadline)
			s.stream = st
			if st != nil {
				st.id, st.slot = s.id, s
			}
			if l.inflight.Add(1) <= 0 { // closeIfIdle was faster
				l.inflight.Add(-1)
				l.slots.put(s)
				return nil, sdk.Errorf(sdk.CodeUnavailable, "route to %q: %v", l.peer.Cell, errLinkClosed)
			}
			s.state.Store(slotWaiting)
			if l.usage != nil {
				l.usage.begin(at.now)
				l.m.touchUsage()
			}
			if waited {
				wakeUp(l.slots.freed) // two may have come back and left one mark
			}
			return s, nil
		}
		if err := await(l.slots.freed, ctx.Done(), l.w.done, timeAt(at.deadline)); err != nil {
			return nil, notExecuted(err)
		}
		at.now = nanos()
		if err := l.w.reason(); err != nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "route to %q: %v", l.peer.Cell, err)
		}
	}
}

func notExecuted(err error) *sdk.Error {
	e := *sdk.AsError(err)
	e.Executed = sdk.ExecutedNo
	return &e
}

// request sends the request of s. After an error the slot is not the caller's
// any more.
func (l *outLink) request(ctx context.Context, s *slot, h wire.Header, in flat.Message, at *moment) error {
	h.Kind, h.Call = wire.KindRequest, s.id
	if at.deadline != 0 {
		h.Value = wire.PutTime(time.Duration(at.deadline - at.now))
	}
	how := alone
	if l.inflight.Load() > 1 {
		how = crowd
	}
	sent, err := l.sendHow(h, in, outgoingMeta(ctx), bound{stop: ctx.Done(), until: at.deadline}, how)
	if err == nil {
		l.expect(at)
		return nil
	}
	e := notExecuted(err)
	if reason := l.w.reason(); reason != nil {
		e = sdk.Errorf(sdk.CodeUnavailable, "route to %q: %v", l.peer.Cell, reason)
	}
	if !sent && s.state.CompareAndSwap(slotWaiting, slotFree) {
		l.landed(nil)
		l.slots.put(s) // the other side never heard of it
		l.closeIfIdle()
		return e
	}
	l.leave(s)
	return e
}

// leave gives up a call in flight and tells the other side.
func (l *outLink) leave(s *slot) {
	for {
		switch st := s.state.Load(); st {
		case slotWaiting, slotExpired:
			if s.state.CompareAndSwap(st, slotLeft) {
				if st == slotExpired {
					<-s.done
				}
				if l.usage != nil {
					l.usage.linger(nanos())
				}
				l.control(wire.Header{Kind: wire.KindCancel, Call: s.id}, "")
				return
			}
		case slotDone:
			<-s.done
			v := s.reply
			s.reply = Vesicle{}
			v.Release()
			if v.lease != s {
				l.slots.put(s)
			}
			l.closeIfIdle()
			return
		case slotLate:
			<-s.done
			l.landed(nil)
			l.slots.put(s)
			l.closeIfIdle()
			return
		}
	}
}

// wait blocks until the call of s ended, and takes its result.
func (l *outLink) wait(ctx context.Context, s *slot) (Vesicle, error) {
	if l.turn.Load() == turnFree && l.turn.CompareAndSwap(turnFree, turnCaller) {
		l.lead(ctx, s)
	}
	if stop := ctx.Done(); stop != nil {
		select {
		case <-s.done:
		case <-stop:
			l.leave(s)
			return Vesicle{}, &sdk.Error{Code: sdk.AsError(ctx.Err()).Code, Text: "wait for reply: " + ctx.Err().Error()}
		}
	} else {
		<-s.done
	}
	switch s.state.Load() {
	case slotExpired, slotLate:
		s.done <- struct{}{} // leave takes it
		l.leave(s)
		return Vesicle{}, &sdk.Error{Code: sdk.CodeDeadline, Text: fmt.Sprintf("wait for reply of %q: deadline passed", l.peer.Cell)}
	}
	v, err := s.reply, s.err
	s.reply, s.err = Vesicle{}, nil
	if v.lease != s {
		l.slots.put(s)
	}
	if l.closing.Load() {
		l.closeIfIdle()
	}
	if err != nil {
		return Vesicle{}, err
	}
	return v, nil
}

// closeIfIdle ends a link that takes no new calls once the last has ended.
func (l *outLink) closeIfIdle() {
	if l.closing.Load() && l.inflight.CompareAndSwap(0, math.MinInt32/2) {
		l.w.fail(errLinkClosed)
	}
}
