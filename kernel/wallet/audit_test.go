package wallet_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
)

// forge returns records of which one has another last byte of a signature.
func forge(records []sdk.Record, i int, sig books.Signature) []sdk.Record {
	list := append([]sdk.Record(nil), records...)
	list[i].Body = bytes.Clone(list[i].Body)
	at := bytes.Index(list[i].Body, sig[:])
	list[i].Body[at+len(sig)-2] ^= 1
	return list
}

func audit(a *wallet.Audit, records []sdk.Record) wallet.Audited {
	for _, r := range records {
		if !a.Take(r) {
			break
		}
	}
	return a.End()
}

// A signature that does not hold is found in whichever record it is, also where
// the book is sound in all else, and the first is named. Where only the last ones
// are checked by themselves, they stand for those before: what a receipt says can
// not be changed without them.
func TestSignaturesOfABook(t *testing.T) {
	d := newDeal(t, 4)
	for name, p := range map[string]*party{"payer": d.payer, "payee": d.payee} {
		receipts := 0
		last := 0
		for i, r := range p.records {
			op, err := books.ParseBody(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			var s books.Signed
			switch o := op.(type) {
			case books.Countersign:
				s = o.Signed
			case books.Settle:
				s = o.Signed
			default:
				continue
			}
			receipts, last = receipts+1, i
			got := audit(wallet.NewAudit(p.node(), false), forge(p.records, i, s.PayerSig))
			want := fmt.Sprintf("record %d, receipt 1.%d: the signature of the payer", i+1, receipts)
			if got.Err == nil || got.Bad != uint64(i+1) || got.Records != uint64(i) || !strings.Contains(got.Err.Error(), want) {
				t.Errorf("%s: record %d forged: %+v", name, i+1, got)
			}
			few := audit(wallet.NewAuditOf(p.node(), 0), forge(p.records, i, s.PayerSig))
			if (few.Err != nil) != (receipts == 4) || few.Checked != 2 || few.Covered != 6 {
				t.Errorf("%s: record %d forged, the last checked alone: %+v", name, i+1, few)
			}
		}
		if got := audit(wallet.NewAuditOf(p.node(), 0), p.records); got.Err != nil || last == 0 {
			t.Errorf("%s: a sound book: %+v", name, got)
		}
	}
}
