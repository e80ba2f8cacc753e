package wallet

import (
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// A Reader makes entries of the records of one book, in order. An "earn" has no
// jobs of its own: it is given those of its "claim", if the Reader saw that.
type Reader struct {
	self   sdk.NodeID
	claims map[sdk.NodeID]claim // the last of each node
}

type claim struct {
	epoch, seq uint64
	jobs       []books.Job
}

// NewReader returns one for the book of self.
func NewReader(self sdk.NodeID) *Reader {
	return &Reader{self, map[sdk.NodeID]claim{}}
}

// Entry takes the next record apart. A record that is none of a book is an error.
func (r *Reader) Entry(rec sdk.Record) (admin.Entry, error) {
	e, err := books.Explain(r.self, rec)
	if err != nil {
		return admin.Entry{}, sdk.Errorf(sdk.CodeOf(err), "record %d: %v", rec.Seq, err)
	}
	switch {
	case e.What == "claim":
		r.claims[e.Peer] = claim{e.Receipt.Epoch, e.Receipt.Seq, e.List}
	case e.What == "earn" && len(e.List) == 0:
		if c := r.claims[e.Peer]; c.epoch == e.Receipt.Epoch && c.seq == e.Receipt.Seq {
			e.List = c.jobs
		}
	}
	return show(e, rec), nil
}

// show is an entry as the admin API has it.
func show(e books.Entry, rec sdk.Record) admin.Entry {
	out := admin.Entry{
		Seq: e.Seq, ID: e.ID.String(), Time: e.Time, What: e.What, Peer: e.Peer, Amount: e.Amount,
		Postings: []admin.EntryPosting{}, Body: rec.Body,
	}
	for _, p := range e.Postings {
		out.Postings = append(out.Postings, admin.EntryPosting{Account: p.Account, Amount: p.Amount})
	}
	for _, j := range e.List {
		out.Jobs = append(out.Jobs, admin.EntryJob{
			From: j.From, Cell: j.Cell, Method: j.Method, Calls: j.Calls, CPU: j.CPU, Meter: j.Source, Price: uint32(j.Price), Amount: j.Amount,
		})
	}
	if s := e.Receipt; s != nil {
		out.Receipt = &admin.EntryReceipt{
			Payer: s.Payer, Payee: s.Payee, Epoch: s.Epoch, Seq: s.Seq, CPU: s.CPU, Amount: s.Receipt.Amount, Calls: s.Calls,
			From: clock(s.From), To: clock(s.To), PayeeSigned: e.PayeeSig, PayerSigned: e.PayerSig, Signed: s.Bytes(),
		}
	}
	return out
}

// clock is Unix milliseconds as a time; what the other side wrote can be any number.
func clock(ms uint64) time.Time { return time.UnixMilli(int64(min(ms, 1<<47))).UTC() }

// settled reports whether an entry is a receipt with both signatures.
func settled(e *admin.Entry) bool {
	return e.Receipt != nil && e.Receipt.PayeeSigned && e.Receipt.PayerSigned
}
