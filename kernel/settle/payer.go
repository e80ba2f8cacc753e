package settle

import (
	"context"
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	ensureWait = 4 * time.Second        // for a session to be agreed on: less than either end of a link waits
	keepIdle   = time.Minute            // for which one without links is kept
	lookEvery  = 5 * time.Second        // whether there are any
	againFirst = 200 * time.Millisecond // after a session broke, while there are
	againLast  = 5 * time.Second        // and at most
	refusedFor = time.Second            // for which a refusal is not tried again
	reserveMin = 20 * sdk.OneATP        // set aside for a donor, at least
	reserveMax = 2_000 * sdk.OneATP     // and at most, whatever it says of itself
)

// A creditor is a donor whose cells this node calls.
type creditor struct {
	s    *Settle
	node sdk.NodeID
	at   string // its id, or its address
	// changed is closed and replaced when what follows changes. Guarded by
	// Settle.mu, like it.
	changed chan struct{}
	ready   bool // it knows what it may do
	free    bool // it does not charge
	err     error
	used    time.Time // when somebody last wanted it
}

// Link is asked before calls go over a link to another node, which was dialled
// at host, or over one that came in, without host.
func (s *Settle) Link(ctx context.Context, n sdk.NodeID, host string) error {
	if host != "" {
		return s.Ensure(ctx, n, host)
	}
	if !s.opt.Donor || s.book == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.debtors[n]; d == nil || d.serves == nil {
		s.opt.Cells.Lease(n, 0, time.Now(), "its kernel holds no session in which receipts are signed", true)
	}
	return nil
}

// Ensure returns when node, if it charges, knows that this node will pay for
// what it does: a session is open, and what may be done on trust is reserved.
// addr is where it was found, for a node nobody has announced.
func (s *Settle) Ensure(ctx context.Context, n sdk.NodeID, addr string) error {
	donor, known := s.opt.Nodes.Donor(n)
	if known && !donor || n == s.opt.Self.Node() {
		return nil
	}
	if s.book == nil {
		if !known {
			return nil // it refuses the calls, if it charges
		}
		return sdk.Errorf(sdk.CodeNoATP, "call cells of node %s, which charges for its work: %v", n.Short(), errNoLedger)
	}
	at := string(n)
	if !known && addr != "" {
		at = addr
	}
	ctx, cancel := context.WithTimeout(ctx, ensureWait)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		c, err := s.creditor(n, at)
		if err != nil {
			return err
		}
		if c.used = time.Now(); c.ready {
			return nil
		}
		if s.book.stuck() {
			return sdk.Errorf(sdk.CodeUnavailable, "call cells of node %s, which charges for its work: the ledger does not answer", n.Short())
		}
		changed := c.changed
		if c.err == nil || sdk.CodeOf(c.err) == sdk.CodeUnavailable {
			s.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			s.mu.Lock()
		}
		switch {
		case c.err != nil && sdk.CodeOf(c.err) != sdk.CodeUnavailable:
			return fmt.Errorf("call cells of node %s: %w", n.Short(), c.err)
		case ctx.Err() != nil:
			return sdk.Errorf(sdk.CodeUnavailable, "call cells of node %s: no session with its kernel: %v", n.Short(), orElse(c.err, ctx.Err()))
		}
	}
}

func orElse(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// creditor returns that of a node, and has its session begun. The caller holds mu.
func (s *Settle) creditor(n sdk.NodeID, at string) (*creditor, error) {
	if c := s.creditors[n]; c != nil {
		return c, nil
	}
	if s.closed || len(s.creditors) >= books.MaxPeers {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "call cells of node %s: the kernel ends, or has %d sessions", n.Short(), len(s.creditors))
	}
	c := &creditor{s: s, node: n, at: at, changed: make(chan struct{})}
	s.creditors[n] = c
	s.running.Go(c.run)
	return c, nil
}

// set says how it stands.
func (c *creditor) set(ready, free bool, err error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.ready, c.free, c.err = ready, free, err
	close(c.changed)
	c.changed = make(chan struct{})
}

// run holds a session, again and again, while there is use for it.
func (c *creditor) run() {
	defer c.leave()
	for pause := againFirst; ; pause = min(2*pause, againLast) {
		began := time.Now()
		err := c.session(c.s.life)
		if c.s.life.Err() != nil {
			return
		}
		c.set(false, false, orElse(err, errEnded))
		if err != nil {
			c.s.opt.Log.Info("session of receipts ended", "payee", c.node.Short(), "error", err)
		}
		if code := sdk.CodeOf(err); code == sdk.CodeNoATP || code == sdk.CodeDenied || code == sdk.CodeInvalid || !c.wanted(2*lookEvery) {
			c.rest(refusedFor) // the answer to those who ask meanwhile
			return
		}
		if time.Since(began) > againLast {
			pause = againFirst
		}
		c.rest(pause)
	}
}

// rest waits, at most until all ends.
func (c *creditor) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.s.life.Done():
	}
}

var errEnded = sdk.Errorf(sdk.CodeUnavailable, "the session has ended")

// wanted reports whether there are links to the node, or were not long ago.
func (c *creditor) wanted(keep time.Duration) bool {
	if c.s.opt.Nodes.Used(c.node) {
		c.s.mu.Lock()
		c.used = time.Now()
		c.s.mu.Unlock()
		return true
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return time.Since(c.used) < keep
}

// leave gives back what was reserved and not used, and forgets the creditor.
func (c *creditor) leave() {
	c.set(false, false, orElse(c.err, errEnded))
	c.giveBack()
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	delete(c.s.creditors, c.node)
	close(c.changed)
}

func (c *creditor) giveBack() {
	left := c.reserved()
	if left == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastWait)
	defer cancel()
	if _, err := c.s.book.do(ctx, newID(), books.Void{Peer: c.node, Amount: left}); err != nil {
		c.s.opt.Log.Warn("give back what was reserved", "payee", c.node.Short(), "amount", left.String(), "error", err)
	}
}

// reserved is what is set aside for the node: zero while that is not known.
func (c *creditor) reserved() (v sdk.ATP) {
	if err := c.s.book.view(func(b *books.Book) { v = b.Peer(c.node).Reserved }); err != nil {
		return 0
	}
	return v
}

// A payerSession is one stream of receipts with a donor.
type payerSession struct {
	c      *creditor
	stream Stream
	slips  <-chan slip
	payer  *books.Payer
	trust  *trust
	target sdk.ATP       // to be reserved
	busy   time.Duration // that cells had counted when it was, for the last time
}

// session holds one session. It returns nil when there is no use for it.
func (c *creditor) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.s.Opened(ctx); err != nil {
		return err
	}
	stream, err := c.s.opt.Nodes.Receipts(ctx, c.at)
	if err != nil {
		return err
	}
	defer stream.Close()
	t, err := c.s.trust(c.node)
	if err != nil {
		return err
	}
	side := books.Side{Mesh: c.s.opt.Mesh(), Peer: c.node, Signer: c.s.opt.Self, Nonce: newNonce()}
	p := &payerSession{c: c, stream: stream, slips: receive(ctx, stream), trust: t}
	if err := c.s.book.view(func(b *books.Book) { p.payer = books.NewPayer(side, b, &t.allowed) }); err != nil {
		return err
	}
	p.payer.MaxPrice = c.s.opt.MaxPrice
	err = p.greet(ctx)
	if code := sdk.CodeOf(err); code == sdk.CodeNotFound { // an older kernel: it charges nothing
		err = nil
	}
	if err != nil {
		return p.refuse(err)
	}
	if t, ok := p.payer.Terms(); !ok || !t.Charges {
		c.set(true, true, nil)
		return c.idle(ctx)
	}
	return p.refuse(p.run(ctx))
}

// idle waits until nobody uses a node that charges nothing.
func (c *creditor) idle(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for c.wanted(keepIdle) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// refuse tells the donor why it gets no signature.
func (p *payerSession) refuse(err error) error {
	if err == nil || sdk.CodeOf(err) == sdk.CodeCancelled || sdk.CodeOf(err) == sdk.CodeUnavailable {
		return err
	}
	e := sdk.AsError(err)
	_ = say(p.stream, books.Refusal{Code: e.Code, Text: e.Text}) // it may be gone
	return err
}

// greet agrees on where both books are, and on the terms.
func (p *payerSession) greet(ctx context.Context) error {
	for range maxHellos {
		hello, err := p.payer.Hello(time.Now())
		if err != nil {
			return err
		}
		asked := time.Now()
		if err := say(p.stream, hello.Send); err != nil {
			return err
		}
		m, err := next(ctx, p.slips, helloWait)
		if err != nil {
			return err
		}
		w, ok := m.(books.Welcome)
		if !ok {
			return unexpected(m)
		}
		p.payer.RTT = min(time.Since(asked), maxRTT)
		step, err := p.payer.Welcome(w, time.Now())
		if err != nil {
			return err
		}
		if step.Log == nil {
			return nil
		}
		if err := p.do(ctx, step); err != nil {
			return err
		}
	}
	return sdk.Errorf(sdk.CodeInternal, "no agreement with node %s on where the books are", p.c.node.Short())
}

// unexpected is the error of a message that is out of place.
func unexpected(m books.Message) error {
	if r, ok := m.(books.Refusal); ok {
		return &sdk.Error{Code: r.Code, Executed: sdk.ExecutedNo, Text: r.Text}
	}
	return sdk.Errorf(sdk.CodeInvalid, "a donor said %T", m)
}

func (p *payerSession) run(ctx context.Context) error {
	t, _ := p.payer.Terms()
	p.target = min(max(reserveMin, 2*t.Price.Of(p.payer.Bound())), reserveMax)
	if left := t.Credit - t.Owed; left <= 0 {
		return sdk.Errorf(sdk.CodeNoATP, "node %s gives this node a credit of %s, and it owes %s: earn some there by \"up --donor\", or have it raised by \"wallet credit\"", p.c.node.Short(), t.Credit, t.Owed)
	}
	if err := p.reserve(ctx); err != nil {
		return err
	}
	p.c.set(true, false, nil)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case in, ok := <-p.slips:
			if !ok {
				return errEnded
			}
			if in.err != nil {
				return in.err
			}
			if err := p.hear(ctx, in.m); err != nil {
				return err
			}
		case <-tick.C:
			if !p.c.wanted(keepIdle) {
				return nil
			}
		case <-p.c.s.book.closed:
			return p.c.s.book.why()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reserve sets aside what is missing, as far as there is any, and says so.
func (p *payerSession) reserve(ctx context.Context) error {
	have := p.c.reserved()
	missing := p.target - have
	for ; missing > 0; missing /= 2 {
		_, err := p.c.s.book.do(ctx, newID(), books.Reserve{Peer: p.c.node, Amount: missing, Limit: p.c.s.opt.Debt})
		if err == nil {
			break
		}
		if sdk.CodeOf(err) != sdk.CodeNoATP || have == 0 && missing == 1 {
			return err
		}
	}
	return say(p.stream, p.payer.Granted(p.c.reserved()))
}

// hear judges a proposal.
func (p *payerSession) hear(ctx context.Context, m books.Message) error {
	o, ok := m.(books.Proposal)
	if !ok {
		return unexpected(m)
	}
	own, err := p.covered(ctx, o)
	if err != nil {
		return err
	}
	// Work that ran on while this kernel was stopped may be more than was set
	// aside: it is paid all the same, as far as the rest of the judgement goes.
	if more := p.payer.Missing(o, p.c.reserved(), own, time.Now()); more > 0 {
		if _, err := p.c.s.book.do(ctx, newID(), books.Reserve{Peer: p.c.node, Amount: more, Limit: p.c.s.opt.Debt}); err != nil {
			return p.verdict(err)
		}
	}
	step, err := p.payer.Propose(o, p.c.reserved(), own, time.Now())
	if p.verdict(err) != nil {
		return err
	}
	if err := p.do(ctx, step); err != nil {
		return err
	}
	if r, ok := step.Send.(books.Refusal); ok {
		return &sdk.Error{Code: r.Code, Text: fmt.Sprintf("node %s has cheated: %s", p.c.node.Short(), r.Text)}
	}
	if own.Busy > p.busy && p.c.reserved() < p.target/2 { // no call, no money
		p.busy = own.Busy
		return p.reserve(ctx)
	}
	return nil
}

// do logs, then sends.
func (p *payerSession) do(ctx context.Context, step books.Step) error {
	if step.Log != nil {
		if _, err := p.c.s.book.do(ctx, newID(), step.Log); err != nil {
			return err
		}
		if err := p.c.s.book.view(p.payer.Refresh); err != nil {
			return err
		}
	}
	if step.Send == nil {
		return nil
	}
	return say(p.stream, step.Send)
}
