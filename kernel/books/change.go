package books

import (
	"github.com/cellkernel/cellkernel/sdk"
)

// change takes an op that was planned into what is known of a peer.
func (b *Book) change(rec sdk.Record, op Op) *Violation {
	if s, ok := op.(Snapshot); ok {
		return b.takeSnapshot(s)
	}
	b.parts = nil // a snapshot that ends in the middle is none
	r := b.open(op.peer(b.self))
	switch o := op.(type) {
	case Credit:
		r.credit, r.creditSet = o.Amount, true
	case Propose:
		r.payee.pending, r.payee.asked = &o, rec.Seq
	case Settle:
		r.payee.last, r.payee.lastSeq, r.payee.pending = o.Signed, rec.Seq, nil
	case Countersign:
		r.payer.last, r.payer.lastSeq = o.Signed, rec.Seq
	case Adopt:
		if o.Payee == b.self {
			r.payee = payeeState{last: o.Signed, lastSeq: rec.Seq, minEpoch: o.MinEpoch}
		} else {
			r.payer = payerState{last: o.Signed, lastSeq: rec.Seq, minEpoch: o.MinEpoch}
		}
	case Block:
		r.blocked = true
	}
	return nil
}

// check asserts what holds of a peer at all times.
func (b *Book) check(peer sdk.NodeID) error {
	if peer == "" {
		return nil
	}
	r := b.relation(peer)
	waiting, where := r.payee.waiting(), claimed(peer)
	if r.blocked {
		where = disputed(peer)
	}
	for _, c := range []struct {
		rule      string
		account   sdk.Account
		got, want sdk.ATP
	}{
		{"I7", earned(peer), b.accounts[earned(peer)], -r.payee.last.Amount},
		{"I7", spent(peer), b.accounts[spent(peer)], r.payer.last.Amount},
		{"I7", where, b.accounts[where], -waiting},
	} {
		if c.got != c.want {
			return b.fail(violated(c.rule, "account %s is %s, its receipts say %s", c.account, c.got, c.want))
		}
	}
	if v := b.accounts[reserved(peer)]; v < 0 {
		return b.fail(violated("I4", "account %s is %s", reserved(peer), v))
	}
	if waiting < 0 {
		return b.fail(violated("I10", "receipts of node %s fall by %s", peer.Short(), -waiting))
	}
	return nil
}

// Check asserts what holds of the whole book. It takes a while: it is for the
// start and for who verifies.
func (b *Book) Check() error {
	if b.broken != nil {
		return b.broken
	}
	sum, have := sdk.ATP(0), sdk.ATP(0)
	for a, v := range b.accounts {
		var ok bool
		if sum, ok = add(sum, v); !ok {
			return b.fail(violated("I6", "the sum of all accounts overflows at %s", a))
		}
	}
	if sum != 0 {
		return b.fail(violated("I1", "all accounts sum to %s", sum))
	}
	for n := range b.peers {
		if err := b.check(n); err != nil {
			return err
		}
		r := b.peers[n]
		have += r.payee.last.Amount - r.payer.last.Amount - b.accounts[reserved(n)]
	}
	if got := b.accounts[accountSelf]; got != have {
		return b.fail(violated("I7", "account %s is %s, all receipts and reservations say %s", accountSelf, got, have))
	}
	return nil
}
