package wallet

import (
	"math"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// An Audit holds the records of a book, all of them in order, against the rules
// of money: what is stored soundly may still be something no kernel has made. It
// works beside whoever reads them.
type Audit struct {
	book    *books.Book
	notary  *notary
	records chan sdk.Record
	wrong   chan struct{} // closed when there is no use in going on
	done    chan struct{}
	finding Audited // of run's, until done is closed
}

// An Audited is what an audit has found.
type Audited struct {
	Records uint64 // that can be believed
	Signatures
	Err error // what is wrong, nil if nothing is
}

// NewAudit begins with the first record of the book of self. All says that every
// signature is to be checked by itself, however many there are. Call End.
func NewAudit(self sdk.NodeID, all bool) *Audit {
	if all {
		return newAudit(self, math.MaxUint64/2)
	}
	return newAudit(self, eachSignature)
}

func newAudit(self sdk.NodeID, each uint64) *Audit {
	a := &Audit{
		book: books.New(self), notary: newNotary(each), records: make(chan sdk.Record, 1024), wrong: make(chan struct{}), done: make(chan struct{}),
	}
	go a.run() // until End
	return a
}

// Take takes the next record, and reports whether there is use in another. That
// no id is there twice is for who reads the records.
func (a *Audit) Take(rec sdk.Record) bool {
	select {
	case a.records <- rec:
		return true
	case <-a.wrong:
		return false
	}
}

func (a *Audit) run() {
	defer close(a.done)
	for rec := range a.records {
		if a.finding.Err == nil {
			a.apply(rec)
		}
	}
	s := a.notary.end()
	f := &a.finding
	f.Signatures = s
	if f.Err == nil {
		f.Err = a.book.Check()
	}
	if s.Bad > 0 { // it comes before what the rules have found, if that is anything
		f.Records, f.Err = s.Bad-1, s.check()
	}
}

func (a *Audit) apply(rec sdk.Record) {
	if rec.Seq%4096 == 0 {
		a.book.Forget()
	}
	op, err := a.book.Take(rec)
	if err != nil {
		a.finding.Err = err
		close(a.wrong)
		return
	}
	a.notary.take(rec.Seq, op)
	a.finding.Records = rec.Seq
}

// End says what was found of all records together. An error in it is a
// [books.Violation], or of a signature.
func (a *Audit) End() Audited {
	close(a.records)
	<-a.done
	return a.finding
}

// Owner says whose book has this record, if that can be seen: whoever asks for
// a signature is the payee, whoever countersigns the payer.
func Owner(rec sdk.Record) (sdk.NodeID, bool) {
	op, err := books.ParseBody(rec.Body)
	if err != nil {
		return "", false
	}
	switch o := op.(type) {
	case books.Propose:
		return o.Payee, true
	case books.Settle:
		return o.Payee, true
	case books.Countersign:
		return o.Payer, true
	}
	return "", false
}
