package settle

import (
	"context"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// A Wallet is what this node has, for people. Amounts are in CPU-microseconds.
type Wallet struct {
	books.Wallet
	Node   sdk.NodeID
	Donor  bool        // it charges for its work
	Price  books.Price // so much
	Credit sdk.ATP     // a member may owe it, unless something else was said
	Debt   sdk.ATP     // it may owe in all
	Head   sdk.Head    // of the book
	Peers  []Peer      // with which there is any business, by id
}

// A Peer is what there is between this node and another.
type Peer struct {
	books.Peer         // Credit is what holds, said or not
	Open       sdk.ATP // used by it, and not asked for yet
	Serving    bool    // it holds a session and is worked for
	Calling    bool    // this node holds one with it
	Refused    string  // why its last claim was not signed; empty if it was
}

// Wallet returns what the book comes to, as far as it is durable.
func (s *Settle) Wallet() (Wallet, error) {
	w := Wallet{Node: s.opt.Self.Node(), Donor: s.opt.Donor, Price: s.opt.Price, Credit: s.opt.Credit, Debt: s.opt.Debt}
	if s.book == nil {
		return w, errNoLedger
	}
	err := s.book.view(func(b *books.Book) {
		w.Wallet, w.Head = b.Wallet(s.opt.Debt), b.Head()
		for _, p := range b.Peers() {
			w.Peers = append(w.Peers, Peer{Peer: p})
		}
	})
	if err != nil {
		return w, err
	}
	for i := range w.Peers { // without the book's lock: the others have locks of their own
		p := &w.Peers[i]
		p.Credit = s.creditOf(p.Peer)
		s.mu.Lock()
		if d := s.debtors[p.Node]; d != nil {
			p.Open, p.Serving = d.price(), d.serves != nil
		}
		if c := s.creditors[p.Node]; c != nil {
			p.Calling = c.ready && !c.free
		}
		if t := s.trusts[p.Node]; t != nil {
			p.Refused = t.refused
		}
		s.mu.Unlock()
	}
	return w, nil
}

// SetCredit says how much a node may owe this one. Asked for twice under one id
// it is said once.
func (s *Settle) SetCredit(ctx context.Context, id sdk.RecordID, n sdk.NodeID, amount sdk.ATP) error {
	if s.book == nil {
		return errNoLedger
	}
	_, err := s.book.do(ctx, id, books.Credit{Peer: n, Amount: amount})
	return err
}

// NewID makes an id for [Settle.SetCredit].
func NewID() sdk.RecordID { return newID() }

// Records reads the book from a number on (0 and 1 both mean the first), until
// yield is false.
func (s *Settle) Records(ctx context.Context, from uint64, yield func(sdk.Record) bool) error {
	if err := s.Opened(ctx); err != nil {
		return err
	}
	return s.book.ledger.Read(ctx, from, yield)
}
