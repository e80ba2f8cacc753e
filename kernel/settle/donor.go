package settle

import (
	"context"
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	leaseLife  = time.Second            // for which cells work while the kernel is silent
	helloWait  = 5 * time.Second        // for the payer's first words
	signWait   = 5 * time.Second        // for a signature, before the session is over
	freeEvery  = time.Minute            // between two bookings of work that is free
	idleEvery  = time.Second            // between two looks at the meters while nobody pays
	lastWait   = 2 * time.Second        // for what is booked at the end
	maxHellos  = 4                      // of one session: a side that lost its book says it twice
	maxRTT     = 250 * time.Millisecond // is believed of any payer
	slipsAhead = 16                     // of the other side, that wait to be read
)

// bill looks at the meters and wakes the sessions, until ctx is done.
func (s *Settle) bill(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	booked := time.Now()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.book.closed:
			return
		case <-ctx.Done():
			s.collect()
			s.giveAway(context.WithoutCancel(ctx))
			s.finish()
			return
		}
		s.collect()
		if time.Since(booked) >= freeEvery {
			booked = time.Now()
			s.giveAway(ctx)
			s.giveBack()
			s.forget()
		}
		timer.Reset(s.beat())
	}
}

// finish has the last work signed for, if that is soon done.
func (s *Settle) finish() {
	timer := time.NewTimer(lastWait)
	defer timer.Stop()
	for s.busy() {
		select {
		case <-s.wake:
		case <-s.book.closed:
			return
		case <-timer.C:
			return // the next life goes on with it
		}
	}
}

// busy reports whether a session has work that is not signed for, and tells it.
func (s *Settle) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	any := false
	for _, d := range s.debtors {
		if d.serves != nil && (len(d.open) > 0 || d.waits) {
			d.serves.poke()
			any = true
		}
	}
	return any
}

// beat tells the sessions to look, and says when to come again.
func (s *Settle) beat() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := idleEvery
	for _, d := range s.debtors {
		if d.serves != nil {
			d.serves.poke()
			pause = s.opt.Interval / 2
		}
	}
	return pause
}

// giveAway books what was done for nothing.
func (s *Settle) giveAway(ctx context.Context) {
	if s.opt.Donor {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastWait)
	defer cancel()
	s.mu.Lock()
	var list []books.Free
	for n, d := range s.debtors {
		for len(d.open) > 0 {
			k := books.Fit(d.open)
			list = append(list, books.Free{Peer: n, List: d.open[:k:k]})
			d.open = d.open[k:]
		}
		delete(s.debtors, n)
	}
	s.mu.Unlock()
	for _, f := range list {
		if _, err := s.book.do(ctx, newID(), f); err != nil {
			s.opt.Log.Warn("book free work", "node", f.Peer.Short(), "error", err)
		}
	}
}

// giveBack ends reservations for donors that an earlier life of this kernel
// used, and this one does not.
func (s *Settle) giveBack() {
	var list []sdk.NodeID
	if err := s.book.view(func(b *books.Book) {
		for _, p := range b.Peers() {
			if p.Reserved > 0 {
				list = append(list, p.Node)
			}
		}
	}); err != nil {
		return // closed: the next life sees to it
	}
	for _, n := range list {
		s.mu.Lock()
		if s.creditors[n] != nil || s.closed {
			s.mu.Unlock()
			continue
		}
		c := &creditor{s: s, node: n, changed: make(chan struct{}), err: errEnded}
		s.creditors[n] = c // who needs one waits
		s.mu.Unlock()
		c.leave()
	}
}

// terms are what a node is told that wants work done.
func (s *Settle) terms(n sdk.NodeID) (books.Terms, error) {
	if !s.opt.Donor || s.book == nil {
		return books.Terms{}, nil
	}
	t := books.Terms{
		Charges: true, Price: s.opt.Price, Cores: uint16(min(max(s.opt.Cores, 1), books.MaxCores)), Interval: uint16(s.opt.Interval.Milliseconds()),
	}
	err := s.book.view(func(b *books.Book) {
		p := b.Peer(n)
		t.Credit, t.Owed = s.creditOf(p), min(max(p.Balance(), 0), books.MaxAmount)
	})
	return t, err
}

// A donorSession is one stream of receipts with a node that pays.
type donorSession struct {
	s       *Settle
	d       *debtor
	stream  Stream
	payee   *books.Payee
	woken   chan struct{} // capacity 1
	stop    context.CancelCauseFunc
	last    time.Time     // of the last proposal
	asked   time.Time     // of the one that waits; zero if none does
	rtt     time.Duration // the shortest so far
	granted bool          // the payer has set something aside
	done    chan struct{} // closed when it touches nothing any more
}

func (d *donorSession) poke() {
	select {
	case d.woken <- struct{}{}:
	default: // it will look anyway
	}
}

// ServeNode agrees on receipts with a node that pays, until the stream ends.
func (s *Settle) ServeNode(ctx context.Context, n sdk.NodeID, stream Stream) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(sdk.Errorf(sdk.CodeUnavailable, "the kernel ends")) })()
	terms, err := s.terms(n)
	if err != nil {
		return err
	}
	slips := receive(ctx, stream)
	hello, err := firstHello(ctx, slips)
	if err != nil {
		return err
	}
	if !terms.Charges {
		return say(stream, books.Welcome{})
	}
	d := &donorSession{s: s, stream: stream, woken: make(chan struct{}, 1), stop: cancel, done: make(chan struct{})}
	if err := d.begin(ctx, n, terms); err != nil {
		return err
	}
	defer s.running.Done()
	defer d.end()
	if err := d.hear(hello); err != nil {
		return d.refuse(err)
	}
	return d.refuse(d.run(ctx, slips))
}

// begin takes the place of a session before it, when that has ended: both
// would bill the same lines.
func (d *donorSession) begin(ctx context.Context, n sdk.NodeID, t books.Terms) error {
	s := d.s
	for {
		old, err := d.enter(n)
		if err != nil {
			return err
		}
		if old == nil {
			break
		}
		old.stop(errReplaced)
		select {
		case <-old.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	side := books.Side{Mesh: s.opt.Mesh(), Peer: n, Signer: s.opt.Self, Nonce: newNonce()}
	if err := s.book.view(func(b *books.Book) { d.payee = books.NewPayee(side, t, b) }); err != nil {
		d.end()
		s.running.Done()
		return err
	}
	s.rouse()
	return nil
}

// rouse has bill look at the sessions.
func (s *Settle) rouse() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// enter makes this the session of a node, or returns the one that is.
func (d *donorSession) enter(n sdk.NodeID) (old *donorSession, err error) {
	s := d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.debtors[n] == nil && len(s.debtors) >= books.MaxPeers {
		return nil, sdk.Errorf(sdk.CodeOverloaded, "work for node %s: the kernel ends, or has %d others", n.Short(), len(s.debtors))
	}
	d.d = s.debtor(n)
	if d.d.serves == nil {
		d.d.serves = d
		s.running.Add(1)
		return nil, nil
	}
	return d.d.serves, nil
}

// end takes back what the cells were told.
func (d *donorSession) end() {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	defer close(d.done)
	d.d.serves, d.d.waits, d.d.seen = nil, false, time.Now()
	defer d.s.rouse()
	d.s.opt.Cells.Lease(d.d.node, 0, time.Now(), "its kernel has ended the session in which receipts are signed", true)
	if len(d.d.open) == 0 {
		delete(d.s.debtors, d.d.node)
	}
}

// refuse tells the other side why the session is over.
func (d *donorSession) refuse(err error) error {
	if err == nil || sdk.CodeOf(err) == sdk.CodeCancelled {
		return err
	}
	d.s.opt.Log.Info("session of receipts ended", "payer", d.d.node.Short(), "error", err)
	e := sdk.AsError(err)
	_ = say(d.stream, books.Refusal{Code: e.Code, Text: e.Text}) // it may be gone
	return err
}

func (d *donorSession) run(ctx context.Context, slips <-chan slip) error {
	for {
		select {
		case in, ok := <-slips:
			if !ok {
				return nil
			}
			if in.err != nil {
				return in.err
			}
			if err := d.hear(in.m); err != nil {
				return err
			}
		case <-d.woken:
		case <-d.s.book.closed:
			return d.s.book.why()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := d.propose(); err != nil {
			return err
		}
		if err := d.lease(); err != nil {
			return err
		}
	}
}

// hear takes one message of the payer.
func (d *donorSession) hear(m books.Message) error {
	var step books.Step
	var err error
	switch m := m.(type) {
	case books.Hello:
		for range maxHellos {
			if step, err = d.payee.Hello(m, time.Now()); err != nil {
				return err
			}
			if err = d.do(step); err != nil || step.Send != nil {
				return err
			}
		}
		return sdk.Errorf(sdk.CodeInternal, "no welcome for node %s", d.d.node.Short())
	case books.Grant:
		d.payee.Grant(m)
		d.granted = true
		if d.asked.IsZero() {
			step, err = d.payee.Resend(time.Now())
		}
	case books.Countersigned:
		if !d.asked.IsZero() {
			d.measure(time.Since(d.asked))
			d.last, d.asked = d.asked, time.Time{}
		}
		step, err = d.payee.Countersigned(m)
	case books.Refusal:
		return &sdk.Error{Code: m.Code, Text: fmt.Sprintf("node %s does not sign: %s", d.d.node.Short(), m.Text)}
	default:
		err = sdk.Errorf(sdk.CodeInvalid, "a payer said %T", m)
	}
	if err != nil {
		return err
	}
	return d.do(step)
}

// measure takes a round trip. Only the shortest counts: a payer that takes its
// time gets no more work for it.
func (d *donorSession) measure(rtt time.Duration) {
	if d.rtt == 0 || rtt < d.rtt {
		d.rtt = min(rtt, maxRTT)
		d.payee.SetRTT(d.rtt)
	}
}

// do logs, then sends. Whether something is logged has to be known before these
// lines are billed otherwise, so the end of the stream does not end the wait.
func (d *donorSession) do(step books.Step) error {
	if step.Log != nil {
		if _, err := d.s.book.do(d.s.life, newID(), step.Log); err != nil {
			return err
		}
		if err := d.s.book.view(d.payee.Refresh); err != nil {
			return err
		}
	}
	if step.Send == nil {
		return nil
	}
	if _, ok := step.Send.(books.Proposal); ok {
		d.asked = time.Now()
	}
	return say(d.stream, step.Send)
}

// propose asks for a signature for what was used, one at a time.
func (d *donorSession) propose() error {
	if d.payee.Waiting() {
		if d.asked.IsZero() && d.granted { // it was too early for a new epoch
			step, err := d.payee.Resend(time.Now())
			if err != nil {
				return err
			}
			return d.do(step)
		}
		if !d.asked.IsZero() && time.Since(d.asked) > signWait {
			return sdk.Errorf(sdk.CodeDeadline, "node %s did not sign for %s", d.d.node.Short(), signWait)
		}
		return nil
	}
	jobs := d.s.ready(d.d, d.last)
	if len(jobs) == 0 {
		return nil
	}
	step, err := d.payee.Propose(jobs, time.Now())
	if err != nil || step.Log == nil {
		return err
	}
	if err := d.do(books.Step{Log: step.Log}); err != nil {
		return err
	}
	d.s.proposed(d.d, jobs)
	return d.do(books.Step{Send: step.Send})
}

// lease tells the cells how much more they may do for this node.
func (d *donorSession) lease() error {
	s := d.s
	var p books.Peer
	if err := s.book.view(func(b *books.Book) { p = b.Peer(d.d.node) }); err != nil {
		return err
	}
	credit := s.creditOf(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if waits := d.payee.Waiting(); d.d.waits && !waits {
		d.s.rouse()
	}
	d.d.waits = d.payee.Waiting()
	open := d.d.price()
	room := d.payee.Room(open, p.Balance(), credit)
	why := "what it may use until the next receipt is used up, or that is late"
	if room == 0 || d.d.waits {
		why = fmt.Sprintf("work of %s is not signed for yet, at most %s may be: \"cellkernel wallet\" shows it, on either node", open+p.Claimed, d.payee.Bound())
	}
	more := !p.Blocked
	if owed := p.Balance() + p.Claimed + open; owed >= credit {
		more = false
		why = fmt.Sprintf("it owes %s, its credit is %s: earn some by \"up --donor\", or have it raised by \"wallet credit\"", owed, credit)
	}
	s.opt.Cells.Lease(d.d.node, room, time.Now().Add(leaseLife), why, more)
	return nil
}

// say sends one message.
func say(stream Stream, m books.Message) error {
	return stream.Send(&node.Slip{Body: books.Encode(m)})
}
