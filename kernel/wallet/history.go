package wallet

import (
	"context"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// window is how many records are looked at first for the last few.
const window = 256

// Entries implements [admin.Banker]. The end of the book is found by looking at
// more and more of it.
func (t *Teller) Entries(ctx context.Context, q admin.EntryQuery, yield func(admin.Entry) error) error {
	s := search{q: q}
	if q.Peer != "" {
		var err error
		if s.peer, err = t.find(q.Peer); err != nil {
			return err
		}
	}
	w, err := t.book.Wallet()
	if err != nil {
		return err
	}
	if q.Seq > w.Head.Seq {
		return sdk.Errorf(sdk.CodeNotFound, "find entry %d: the book has %d", q.Seq, w.Head.Seq)
	}
	s.self, s.last = w.Node, w.Head.Seq
	if q.Seq > 0 {
		s.last = q.Seq
	}
	from := uint64(1)
	if q.Tail > 0 || q.Seq > 0 {
		var err error
		if from, err = t.begin(ctx, &s); err != nil {
			return err
		}
	}
	return t.walk(ctx, &s, from, yield)
}

// A search is a query that is being answered.
type search struct {
	q     admin.EntryQuery
	self  sdk.NodeID
	peer  sdk.NodeID // that was asked for
	last  uint64     // no record behind it
	first uint64     // no entry before it
}

func (s *search) wants(e *admin.Entry) bool {
	return e.Seq >= s.first && (s.q.Seq == 0 || e.Seq == s.q.Seq) && (s.peer == "" || e.Peer == s.peer) &&
		(!s.q.Receipts || settled(e)) && !e.Time.Before(s.q.Since)
}

// begin finds from where on to read: far enough back for so many entries, or for
// the jobs of the one.
func (t *Teller) begin(ctx context.Context, s *search) (uint64, error) {
	for n := uint64(window); ; n *= 4 {
		from := s.last - min(n, s.last) + 1
		var found []uint64
		whole := false
		err := t.walk(ctx, s, from, func(e admin.Entry) error {
			found = append(found, e.Seq)
			if most := max(s.q.Tail, 1); len(found) > 2*most { // the last ones are wanted
				found = append(found[:0], found[len(found)-most:]...)
			}
			whole = e.What != "earn" || len(e.Jobs) > 0
			return nil
		})
		if err != nil {
			return 0, err
		}
		if most := max(s.q.Tail, 1); from > 1 && (len(found) < most || s.q.Seq > 0 && !whole) {
			continue
		} else if len(found) >= most {
			s.first = found[len(found)-most]
		}
		return from, nil
	}
}

// walk yields what s wants of the records from a number on.
func (t *Teller) walk(ctx context.Context, s *search, from uint64, yield func(admin.Entry) error) error {
	r, names := NewReader(s.self), t.seen()
	var stopped error
	err := t.book.Records(ctx, from, func(rec sdk.Record) bool {
		if rec.Seq > s.last {
			return false
		}
		e, err := r.Entry(rec)
		if err == nil && s.wants(&e) {
			e.PeerName = string(names[e.Peer])
			err = yield(e)
		}
		stopped = err
		return err == nil
	})
	if stopped != nil {
		return stopped
	}
	return err
}
