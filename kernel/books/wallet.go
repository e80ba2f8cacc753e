package books

import (
	"maps"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Wallet is what a node has, in CPU-microseconds.
type Wallet struct {
	Balance   sdk.ATP // Earned less Spent
	Available sdk.ATP // to be reserved: Balance less Reserved, and the debt it may make
	Earned    sdk.ATP // by receipts with both signatures
	Spent     sdk.ATP // the same
	Reserved  sdk.ATP // set aside for work that goes on
	Claimed   sdk.ATP // asked for, not signed yet
	Disputed  sdk.ATP // asked of nodes that were caught cheating
	Free      sdk.ATP // CPU time given away
}

// A Peer is the same for one other node.
type Peer struct {
	Node      sdk.NodeID
	Earned    sdk.ATP
	Spent     sdk.ATP
	Reserved  sdk.ATP
	Claimed   sdk.ATP
	Disputed  sdk.ATP
	Free      sdk.ATP
	Credit    sdk.ATP // it may owe so much; meaningful if CreditSet
	CreditSet bool    // somebody has said so
	Blocked   bool
	Paid      Signed // the last receipt this node has signed for it
	Earning   Signed // the last that it has signed for this node
}

// Balance is what it owes this node, negative if it is the other way round.
func (p Peer) Balance() sdk.ATP { return p.Earned - p.Spent }

func (b *Book) balance() sdk.ATP {
	v := b.accounts[accountSelf]
	for n := range b.peers {
		v += b.accounts[reserved(n)]
	}
	return v
}

// Wallet returns what the book comes to. Debt is how much this node may owe.
func (b *Book) Wallet(debt sdk.ATP) Wallet {
	w := Wallet{Available: b.accounts[accountSelf] + debt, Free: -b.accounts[accountFree]}
	for n := range b.peers {
		p := b.Peer(n)
		w.Earned += p.Earned
		w.Spent += p.Spent
		w.Reserved += p.Reserved
		w.Claimed += p.Claimed
		w.Disputed += p.Disputed
	}
	w.Balance = w.Earned - w.Spent
	return w
}

// Peer returns what there is with a node; zeros if there is nothing.
func (b *Book) Peer(n sdk.NodeID) Peer {
	r := b.relation(n)
	return Peer{
		Node: n, Earned: -b.accounts[earned(n)], Spent: b.accounts[spent(n)], Reserved: b.accounts[reserved(n)],
		Claimed: -b.accounts[claimed(n)], Disputed: -b.accounts[disputed(n)], Free: b.accounts[free(n)],
		Credit: r.credit, CreditSet: r.creditSet, Blocked: r.blocked, Paid: r.payer.last, Earning: r.payee.last,
	}
}

// Peers returns all nodes with which there is any business, by id.
func (b *Book) Peers() []Peer {
	var list []Peer
	for _, n := range slices.Sorted(maps.Keys(b.peers)) {
		list = append(list, b.Peer(n))
	}
	return list
}

// An Entry is a record, for people.
type Entry struct {
	Seq    uint64
	Time   time.Time // of its id
	ID     sdk.RecordID
	What   string // "credit", "reserve", "void", "claim", "earn", "spend", "adopt", "block", "free", "snapshot"
	Peer   sdk.NodeID
	Amount sdk.ATP // what it moved; of a receipt that follows from List
	List   []Job   // what it is for
	// Receipt is the one it is about, nil if it is about none; the two verdicts
	// are about its signatures.
	Receipt            *Signed
	PayeeSig, PayerSig bool
	Proof              *Proof // of a block
	Postings           []sdk.Posting
}

// whats are what kinds are called.
var whats = [...]string{
	kindCredit: "credit", kindReserve: "reserve", kindVoid: "void", kindPropose: "claim", kindSettle: "earn",
	kindCountersign: "spend", kindAdopt: "adopt", kindBlock: "block", kindFree: "free", kindSnapshot: "snapshot",
}

// Explain takes a record of the book of self apart. It checks signatures, and
// nothing against other records: of an "earn" the jobs are in the "claim" of
// the same number before it.
func Explain(self sdk.NodeID, rec sdk.Record) (Entry, error) {
	op, err := ParseBody(rec.Body)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{
		Seq: rec.Seq, Time: time.UnixMilli(idTime(rec.ID)).UTC(), ID: rec.ID, What: whats[op.kind()],
		Peer: op.peer(self), Postings: rec.Postings,
	}
	for _, p := range rec.Postings {
		if p.Account != accountClaims && p.Amount > 0 {
			e.Amount = max(e.Amount, p.Amount)
		}
	}
	switch o := op.(type) {
	case Credit:
		e.Amount = o.Amount
	case Propose:
		e.about(o.Signed, o.List)
	case Settle:
		e.about(o.Signed, nil)
	case Countersign:
		e.about(o.Signed, o.List)
	case Adopt:
		e.about(o.Signed, nil)
	case Free:
		e.List = o.List
	case Block:
		e.Proof = &o.Proof
	}
	return e, nil
}

func (e *Entry) about(s Signed, list []Job) {
	e.Receipt, e.List = &s, list
	e.PayeeSig, e.PayerSig = s.Verify()
	if len(list) > 0 {
		if v, err := sum(list); err == nil {
			e.Amount = v.Amount
		}
	}
}
