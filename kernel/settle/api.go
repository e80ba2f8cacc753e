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

// A Query chooses entries of the book.
type Query struct {
	From uint64     // the first, 0 for the beginning
	Last uint64     // only so many before the end; 0 for all
	Node sdk.NodeID // only of business with it; empty for all
	// Receipts are only those about one: claims, what was earned and spent,
	// and what was adopted.
	Receipts bool
}

// History yields entries in order, until yield is false.
func (s *Settle) History(ctx context.Context, q Query, yield func(books.Entry) bool) error {
	if err := s.Opened(ctx); err != nil {
		return err
	}
	var end uint64
	if err := s.book.view(func(b *books.Book) { end = b.Head().Seq }); err != nil {
		return err
	}
	from := max(q.From, 1)
	if q.Last > 0 && end > q.Last {
		from = max(from, end-q.Last+1)
	}
	var bad error
	err := s.Records(ctx, from, func(r sdk.Record) bool {
		e, err := books.Explain(s.opt.Self.Node(), r)
		switch {
		case err != nil:
			bad = err
			return false
		case r.Seq > end:
			return false
		case q.Node != "" && e.Peer != q.Node, q.Receipts && e.Receipt == nil:
			return true
		}
		return yield(e)
	})
	if bad != nil {
		return bad
	}
	return err
}

// A Reason is an entry and, where it has none of its own, the one before it
// that says what for: the claim of what was earned.
type Reason struct {
	books.Entry
	Claim *books.Entry
}

// Why says what an entry is for.
func (s *Settle) Why(ctx context.Context, seq uint64) (Reason, error) {
	e, err := s.entry(ctx, seq, func(e books.Entry) bool { return e.Seq == seq }, seq)
	if err != nil || e == nil {
		return Reason{}, orElse(err, sdk.Errorf(sdk.CodeNotFound, "find entry %d: the book does not have it", seq))
	}
	r := Reason{Entry: *e}
	if e.What != "earn" {
		return r, nil
	}
	for window := uint64(256); ; window *= 8 { // it is near: one waits at a time
		from := uint64(1)
		if seq > window {
			from = seq - window
		}
		r.Claim, err = s.entry(ctx, from, func(c books.Entry) bool {
			return c.What == "claim" && c.Peer == e.Peer && c.Receipt.Receipt == e.Receipt.Receipt
		}, seq)
		if err != nil || r.Claim != nil || from == 1 {
			return r, err
		}
	}
}

// entry finds one between two numbers.
func (s *Settle) entry(ctx context.Context, from uint64, is func(books.Entry) bool, to uint64) (found *books.Entry, err error) {
	err = s.History(ctx, Query{From: from}, func(e books.Entry) bool {
		if e.Seq <= to && is(e) {
			found = &e
		}
		return found == nil && e.Seq < to
	})
	return found, err
}
