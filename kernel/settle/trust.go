package settle

import (
	"context"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	claimWait = 2 * time.Second // for what cells count of their calls, before a claim is refused: less than signWait
	trustLife = 24 * time.Hour  // for which a donor that is not called any more is remembered
)

// A trust is what this node allows a donor to claim, over all sessions of this
// life of its kernel.
type trust struct {
	allowed books.Allowance // of the one session there is
	// Guarded by Settle.mu.
	refused string // why its last claim is not signed; empty if it is
	seen    time.Time
}

// trust returns that of a donor. It is asked when a session begins.
func (s *Settle) trust(n sdk.NodeID) (*trust, error) {
	s.mu.Lock()
	t := s.trusts[n]
	s.mu.Unlock()
	if t == nil {
		before := false
		if err := s.book.view(func(b *books.Book) { before = b.Knows(n) }); err != nil {
			return nil, err
		}
		own, _ := s.opt.Nodes.Own(n)
		t = &trust{allowed: books.NewAllowance(own, before)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.seen = time.Now()
	s.trusts[n] = t
	return t, nil
}

// forget drops what is not needed any more: donors that were not called for a
// day, who has used this node and owes nothing, and who has used it without any
// session and does not come. A donor that is called again begins with what cells
// have counted by then.
func (s *Settle) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, t := range s.trusts {
		if s.creditors[n] == nil && time.Since(t.seen) > trustLife {
			delete(s.trusts, n)
		}
	}
	for n, d := range s.debtors {
		if d.serves != nil || len(d.open) > 0 && time.Since(d.seen) < trustLife {
			continue
		}
		if delete(s.debtors, n); len(d.open) > 0 {
			s.opt.Log.Warn("work is not billed: its node has held no session for a day", "node", n.Short(), "amount", d.price().String())
		}
	}
}

// covered waits until a claim is covered by what cells have counted, at most for
// as long as their counters may take to come. It returns what they are then.
func (p *payerSession) covered(ctx context.Context, o books.Proposal) (books.Own, error) {
	timer := time.NewTimer(claimWait)
	defer timer.Stop()
	for {
		own, changed := p.c.s.opt.Nodes.Own(p.c.node)
		if p.payer.Covers(o, own) {
			return own, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			own, _ = p.c.s.opt.Nodes.Own(p.c.node)
			return own, nil // it is refused, with the reason
		case <-p.c.s.book.closed:
			return own, p.c.s.book.why()
		case <-ctx.Done():
			return own, ctx.Err()
		}
	}
}

// verdict notes whether a claim was signed, and tells people when one is not.
func (p *payerSession) verdict(err error) error {
	s := p.c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	before := p.trust.refused
	p.trust.seen = time.Now()
	if p.trust.refused = ""; err == nil {
		return nil
	}
	p.trust.refused = err.Error()
	s.opt.Log.Warn("a claim is not signed", "payee", p.c.node.Short(), "error", err)
	if before == "" {
		s.opt.Note("node " + p.c.node.Short() + " asks for money and gets none: " + err.Error())
	}
	return err
}
