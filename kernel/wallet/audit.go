package wallet

import (
	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// An Audit holds the records of a book, all of them in order, against the rules
// of money: what is stored soundly may still be something no kernel has made.
type Audit struct{ book *books.Book }

// NewAudit begins with the first record of the book of self.
func NewAudit(self sdk.NodeID) *Audit { return &Audit{books.New(self)} }

// Take takes the next record. An error is a [books.Violation]. That no id is
// there twice is for who reads the records.
func (a *Audit) Take(rec sdk.Record) error {
	if rec.Seq%4096 == 0 {
		a.book.Forget()
	}
	return a.book.Apply(rec)
}

// End checks what it all comes to.
func (a *Audit) End() error { return a.book.Check() }

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
