package books

import (
	"github.com/cellkernel/cellkernel/sdk"
)

// The accounts that belong to no single peer.
const (
	accountSelf   sdk.Account = "self"
	accountClaims sdk.Account = "claims"
	accountFree   sdk.Account = "free"
)

func reserved(n sdk.NodeID) sdk.Account { return sdk.Account("reserved/" + n) }
func spent(n sdk.NodeID) sdk.Account    { return sdk.Account("spent/" + n) }
func earned(n sdk.NodeID) sdk.Account   { return sdk.Account("earned/" + n) }
func claimed(n sdk.NodeID) sdk.Account  { return sdk.Account("claimed/" + n) }
func disputed(n sdk.NodeID) sdk.Account { return sdk.Account("disputed/" + n) }
func free(n sdk.NodeID) sdk.Account     { return sdk.Account("free/" + n) }

// A relation is what a book knows of another node besides accounts.
type relation struct {
	credit    sdk.ATP // it may owe this much; meaningful if creditSet
	creditSet bool
	blocked   bool
	payee     payeeState // this node works for it
	payer     payerState // it works for this node
}

type payeeState struct {
	last     Signed // settled
	lastSeq  uint64 // its record
	minEpoch uint64
	pending  *Propose // its fields are not changed
	asked    uint64   // the record of pending
}

type payerState struct {
	last     Signed
	lastSeq  uint64
	minEpoch uint64
}

// relation returns that of a node, for reading: the zero one where there is none.
func (b *Book) relation(n sdk.NodeID) relation {
	if r := b.peers[n]; r != nil {
		return *r
	}
	return relation{}
}

// Knows reports whether there ever was any business with a node.
func (b *Book) Knows(n sdk.NodeID) bool { return b.peers[n] != nil }

// open returns the relation with a node, to be changed.
func (b *Book) open(n sdk.NodeID) *relation {
	if b.peers[n] == nil {
		b.peers[n] = &relation{}
	}
	return b.peers[n]
}

// known finds an op that carries a number of its own.
func (b *Book) known(op Op) (seq uint64, ok bool) {
	r := b.relation(op.peer(b.self))
	switch o := op.(type) {
	case Propose:
		return r.payee.asked, r.payee.pending != nil && r.payee.pending.Signed == o.Signed
	case Settle:
		return r.payee.lastSeq, r.payee.last == o.Signed && r.payee.lastSeq > 0
	case Countersign:
		return r.payer.lastSeq, r.payer.last == o.Signed && r.payer.lastSeq > 0
	}
	return 0, false
}

// checkSignatures is left out when a book is loaded: the last receipts are
// checked then, and those name the ones before.
func (b *Book) checkSignatures(op Op) error {
	var s Signed
	needPayer := true
	switch o := op.(type) {
	case Propose:
		s, needPayer = o.Signed, false
	case Settle:
		s = o.Signed
	case Countersign:
		s = o.Signed
	case Adopt:
		s = o.Signed
	default:
		return nil
	}
	payee, payer := s.Verify()
	if !payee || needPayer != payer {
		return sdk.Errorf(sdk.CodeDenied, "receipt %d.%d: signatures: payee's %s, payer's %s", s.Epoch, s.Seq, verdict(payee), verdict(payer))
	}
	return nil
}

func verdict(ok bool) string {
	if ok {
		return "holds"
	}
	return "does not hold"
}

// plan checks an op against the state and returns the postings that follow.
func (b *Book) plan(op Op) ([]sdk.Posting, error) {
	if s, ok := op.(Snapshot); ok {
		return nil, b.planSnapshot(s)
	}
	peer := op.peer(b.self)
	if peer.Key() == nil || peer == b.self {
		return nil, sdk.Errorf(sdk.CodeInvalid, "book with node %.60q: it is not another node", string(peer))
	}
	if b.peers[peer] == nil && len(b.peers) >= MaxPeers {
		return nil, sdk.Errorf(sdk.CodeOverloaded, "book with node %s: there are %d already", peer.Short(), MaxPeers)
	}
	switch o := op.(type) {
	case Credit:
		if o.Amount < 0 || o.Amount > MaxAmount {
			return nil, sdk.Errorf(sdk.CodeInvalid, "credit of %s: want 0 to %s", o.Amount, MaxAmount)
		}
		return nil, nil
	case Reserve:
		return b.planReserve(o)
	case Void:
		if o.Amount <= 0 || o.Amount > b.accounts[reserved(peer)] {
			return nil, sdk.Errorf(sdk.CodeInvalid, "void %s: %s are reserved", o.Amount, b.accounts[reserved(peer)])
		}
		return move(o.Amount, reserved(peer), accountSelf), nil
	case Propose:
		return b.planPropose(o)
	case Settle:
		return b.planSettle(o)
	case Countersign:
		return b.planCountersign(o)
	case Adopt:
		return b.planAdopt(o)
	case Block:
		return b.planBlock(o)
	case Free:
		s, err := sum(o.List)
		if err == nil && len(o.List) == 0 {
			err = sdk.Errorf(sdk.CodeInvalid, "book free work: no jobs")
		}
		return move(s.CPU, accountFree, free(peer)), err
	}
	return nil, sdk.Errorf(sdk.CodeInvalid, "book an op of kind %d", op.kind())
}

// move moves amount, if there is any.
func move(amount sdk.ATP, from, to sdk.Account) []sdk.Posting {
	if amount == 0 {
		return nil
	}
	return []sdk.Posting{{Account: from, Amount: -amount}, {Account: to, Amount: amount}}
}

func (b *Book) planReserve(o Reserve) ([]sdk.Posting, error) {
	if o.Amount <= 0 || o.Amount > MaxAmount || o.Limit < 0 || o.Limit > MaxAmount {
		return nil, sdk.Errorf(sdk.CodeInvalid, "reserve %s of a credit of %s: want amounts up to %s", o.Amount, o.Limit, MaxAmount)
	}
	if b.relation(o.Peer).blocked {
		return nil, errBlocked(o.Peer)
	}
	left, ok := add(b.accounts[accountSelf], o.Limit)
	if !ok || left < o.Amount {
		return nil, sdk.Errorf(sdk.CodeNoATP, "reserve %s for node %s: %s are available (balance %s, credit %s): earn some by \"up --donor\", or raise \"kernel.debt\"",
			o.Amount, o.Peer.Short(), max(left, 0), b.balance(), o.Limit)
	}
	return move(o.Amount, accountSelf, reserved(o.Peer)), nil
}

func errBlocked(n sdk.NodeID) error {
	return sdk.Errorf(sdk.CodeDenied, "node %s is blocked: it has signed two receipts with one number: \"receipts %s\" shows them", n.Short(), n.Short())
}

func (b *Book) planPropose(o Propose) ([]sdk.Posting, error) {
	s := b.relation(o.Payer).payee
	if b.relation(o.Payer).blocked {
		return nil, errBlocked(o.Payer)
	}
	asked := s.last.Amount
	if s.pending != nil {
		if asked = s.pending.Amount; o.Epoch <= s.pending.Epoch {
			return nil, sdk.Errorf(sdk.CodeInvalid, "propose receipt %d.%d: %d.%d waits for its signature", o.Epoch, o.Seq, s.pending.Epoch, s.pending.Seq)
		}
	}
	switch {
	case o.Payee != b.self || o.PayerSig != (Signature{}):
		return nil, sdk.Errorf(sdk.CodeInvalid, "propose receipt %d.%d: it is not this node's to propose", o.Epoch, o.Seq)
	case o.Epoch < s.minEpoch:
		return nil, sdk.Errorf(sdk.CodeInvalid, "propose receipt %d.%d: epochs begin with %d", o.Epoch, o.Seq, s.minEpoch)
	case o.Amount < asked:
		return nil, sdk.Errorf(sdk.CodeInvalid, "propose receipt %d.%d: %s were asked for already", o.Epoch, o.Seq, asked)
	}
	if err := o.follows(&s.last.Receipt, o.List); err != nil {
		return nil, err
	}
	return move(o.Amount-asked, claimed(o.Payer), accountClaims), nil
}

func (b *Book) planSettle(o Settle) ([]sdk.Posting, error) {
	s := b.relation(o.Payer).payee
	if s.pending == nil || s.pending.Receipt != o.Receipt || s.pending.PayeeSig != o.PayeeSig {
		return nil, sdk.Errorf(sdk.CodeInvalid, "settle receipt %d.%d: it is not the one that waits for a signature", o.Epoch, o.Seq)
	}
	delta := o.Amount - s.last.Amount
	from := claimed(o.Payer)
	if b.relation(o.Payer).blocked {
		from = disputed(o.Payer)
	}
	return append(move(delta, accountClaims, from), move(delta, earned(o.Payer), accountSelf)...), nil
}

func (b *Book) planCountersign(o Countersign) ([]sdk.Posting, error) {
	r := b.relation(o.Payee)
	switch {
	case r.blocked:
		return nil, errBlocked(o.Payee)
	case o.Payer != b.self:
		return nil, sdk.Errorf(sdk.CodeInvalid, "sign receipt %d.%d: somebody else is to pay", o.Epoch, o.Seq)
	case o.Epoch < r.payer.minEpoch:
		return nil, sdk.Errorf(sdk.CodeInvalid, "sign receipt %d.%d: epochs begin with %d", o.Epoch, o.Seq, r.payer.minEpoch)
	}
	if err := o.follows(&r.payer.last.Receipt, o.List); err != nil {
		return nil, err
	}
	delta := o.Amount - r.payer.last.Amount
	if have := b.accounts[reserved(o.Payee)]; delta > have {
		return nil, sdk.Errorf(sdk.CodeNoATP, "sign receipt %d.%d: %s for work, %s are reserved for node %s", o.Epoch, o.Seq, delta, have, o.Payee.Short())
	}
	return move(delta, reserved(o.Payee), spent(o.Payee)), nil
}

// planAdopt takes what is proved, whatever the limits say.
func (b *Book) planAdopt(o Adopt) ([]sdk.Posting, error) {
	peer := o.peer(b.self)
	r := b.relation(peer)
	last := &r.payer.last
	if o.Payee == b.self {
		last = &r.payee.last
	}
	switch {
	case o.Payee != b.self && o.Payer != b.self || o.Payee == o.Payer:
		return nil, sdk.Errorf(sdk.CodeInvalid, "adopt receipt %d.%d: it is between other nodes", o.Epoch, o.Seq)
	case o.compare(&last.Receipt) <= 0 || o.Amount < last.Amount || o.CPU < last.CPU || o.Calls < last.Calls || o.MinEpoch <= o.Epoch:
		return nil, sdk.Errorf(sdk.CodeInvalid, "adopt receipt %d.%d: the book has %d.%d", o.Epoch, o.Seq, last.Epoch, last.Seq)
	}
	delta := o.Amount - last.Amount
	if o.Payee == b.self {
		from := claimed(peer)
		if r.blocked {
			from = disputed(peer)
		}
		return append(move(r.payee.waiting(), accountClaims, from), move(delta, earned(peer), accountSelf)...), nil
	}
	set := min(b.accounts[reserved(peer)], delta)
	return append(move(set, reserved(peer), spent(peer)), move(delta-set, accountSelf, spent(peer))...), nil
}

// waiting is what is asked for and not signed.
func (s *payeeState) waiting() sdk.ATP {
	if s.pending == nil {
		return 0
	}
	return s.pending.Amount - s.last.Amount
}

func (b *Book) planBlock(o Block) ([]sdk.Posting, error) {
	caught := false
	for _, n := range o.Proof.Cheats() {
		if n == b.self {
			return nil, sdk.Errorf(sdk.CodeInvalid, "block node %s: this node has signed both receipts, too", o.Peer.Short())
		}
		caught = caught || n == o.Peer
	}
	if !caught || b.relation(o.Peer).blocked {
		return nil, sdk.Errorf(sdk.CodeInvalid, "block node %s: the proof proves nothing, or it is blocked already", o.Peer.Short())
	}
	r := b.relation(o.Peer)
	waiting := r.payee.waiting()
	return append(move(waiting, disputed(o.Peer), claimed(o.Peer)), move(b.accounts[reserved(o.Peer)], reserved(o.Peer), accountSelf)...), nil
}
