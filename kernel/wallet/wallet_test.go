package wallet_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
)

func newDeal(t *testing.T, receipts int) *deal {
	d := &deal{payer: newParty(t, "payer"), payee: newParty(t, "payee")}
	for i := range receipts {
		d.work(sdk.ATP(1000 + i))
	}
	return d
}

func entries(t *testing.T, b *wallet.Teller, q admin.EntryQuery) []admin.Entry {
	t.Helper()
	var list []admin.Entry
	if err := b.Entries(t.Context(), q, func(e admin.Entry) error { list = append(list, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

// Both wallets say the same, from either side.
func TestWalletsAgree(t *testing.T) {
	d := newDeal(t, 5)
	names := map[sdk.NodeID]sdk.CellName{d.payer.node(): "client", d.payee.node(): "donor"}
	mine, err := d.payer.teller(names).Wallet(t.Context())
	theirs, err2 := d.payee.teller(names).Wallet(t.Context())
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	const owed = 2 * (1000 + 1001 + 1002 + 1003 + 1004)
	if mine.Spent != owed || theirs.Earned != owed || mine.Balance != -owed || theirs.Balance != owed || mine.Peers[0].Name != "donor" ||
		theirs.Peers[0].Name != "client" || theirs.Peers[0].Balance != owed || !theirs.Peers[0].Default || theirs.Records != 10 {
		t.Errorf("payer %+v\npayee %+v", mine, theirs)
	}
}

// A node that is away is shown with the credit that it has when it is back; one
// that may not come back has none.
func TestCreditOfWhoIsAway(t *testing.T) {
	d := newDeal(t, 1)
	for _, denied := range [][]sdk.NodeID{nil, {d.payer.node()}} {
		w, err := d.payee.teller(nil, denied...).Wallet(t.Context())
		if err != nil || len(w.Peers) != 1 {
			t.Fatalf("%+v, %v", w, err)
		}
		want := standard
		if denied != nil {
			want = 0
		}
		if p := w.Peers[0]; p.Credit != want || !p.Default || p.Denied != (denied != nil) {
			t.Errorf("denied %v: %+v", denied, p)
		}
	}
}

func TestHistory(t *testing.T) {
	d := newDeal(t, 200) // more than is looked at first
	b := d.payee.teller(map[sdk.NodeID]sdk.CellName{d.payer.node(): "client"})
	if all := entries(t, b, admin.EntryQuery{}); len(all) != 400 || all[0].What != "claim" || all[399].What != "earn" || all[399].PeerName != "client" {
		t.Errorf("all: %d", len(all))
	}
	last := entries(t, b, admin.EntryQuery{Tail: 2, Receipts: true, Peer: "client"})
	if len(last) != 2 || last[0].Seq != 398 || last[1].Seq != 400 || len(last[1].Jobs) != 1 || last[1].Jobs[0].Method != "Worker.Work" || last[1].Amount != 2*1199 {
		t.Errorf("the last two receipts: %+v", last)
	}
	if early := entries(t, b, admin.EntryQuery{Tail: 3, Peer: string(d.payer.node())[:8]}); len(early) != 3 || early[2].Seq != 400 {
		t.Errorf("of the beginning of an id: %+v", early)
	}
	// One long ago: what it is for is in the entry before.
	one := entries(t, b, admin.EntryQuery{Seq: 2})
	if len(one) != 1 || one[0].What != "earn" || len(one[0].Jobs) != 1 || !one[0].Receipt.PayeeSigned || !one[0].Receipt.PayerSigned || one[0].Receipt.From != time.UnixMilli(5).UTC() {
		t.Errorf("why: %+v", one)
	}
	if since := entries(t, b, admin.EntryQuery{Since: d.payee.now}); len(since) != 1 {
		t.Errorf("since: %d", len(since))
	}
	err := b.Entries(t.Context(), admin.EntryQuery{Seq: 401}, nil)
	err2 := b.Entries(t.Context(), admin.EntryQuery{Peer: "nobody"}, nil)
	if sdk.CodeOf(err) != sdk.CodeNotFound || sdk.CodeOf(err2) != sdk.CodeNotFound {
		t.Errorf("what is not there: %v, %v", err, err2)
	}
	stop := errors.New("enough")
	if err := b.Entries(t.Context(), admin.EntryQuery{}, func(admin.Entry) error { return stop }); err != stop {
		t.Errorf("a reader that has enough: %v", err)
	}
}

func TestSetCredit(t *testing.T) {
	d := newDeal(t, 1)
	b := d.payee.teller(map[sdk.NodeID]sdk.CellName{d.payer.node(): "client"})
	p, err := b.SetCredit(t.Context(), "client", 7)
	if err != nil || p.Credit != 7 || p.Default || p.Node != d.payer.node() {
		t.Errorf("got %+v, %v", p, err)
	}
	for who, code := range map[string]sdk.Code{"x": sdk.CodeNotFound, "": sdk.CodeNotFound} {
		if _, err := b.SetCredit(t.Context(), who, 1); sdk.CodeOf(err) != code {
			t.Errorf("%q: %v", who, err)
		}
	}
	if _, err := b.SetCredit(t.Context(), "client", -1); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("less than nothing: %v", err)
	}
}

// file is what one side hands out, through JSON and back.
func file(t *testing.T, p *party, q admin.EntryQuery) *wallet.File {
	t.Helper()
	q.Receipts = true
	f := &wallet.File{Format: wallet.Format}
	for _, e := range entries(t, p.teller(nil), q) {
		f.Receipts = append(f.Receipts, wallet.NewFileReceipt(&e))
	}
	b, err := json.Marshal(f)
	out := &wallet.File{}
	if err = errors.Join(err, json.Unmarshal(b, out)); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReceiptsOfOthers(t *testing.T) {
	d := newDeal(t, 4)
	for _, p := range []*party{d.payer, d.payee} {
		got, err := wallet.Check(file(t, p, admin.EntryQuery{}))
		if err != nil || !got.OK || got.Receipts != 4 || len(got.Totals) != 1 || got.Totals[0].Amount != d.last.Amount || got.Totals[0].Gaps != 0 {
			t.Errorf("whole: %+v, %v", got, err)
		}
	}
	part, err := wallet.Check(file(t, d.payer, admin.EntryQuery{Tail: 2}))
	if err != nil || !part.OK || part.Totals[0].Gaps != 1 || part.Totals[0].Seq != 4 {
		t.Errorf("the last two: %+v, %v", part, err)
	}
	if _, err := wallet.Check(&wallet.File{Format: "another"}); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("another format: %v", err)
	}
	for want, spoil := range map[string]func(f *wallet.File){
		"payee's signature": func(f *wallet.File) { f.Receipts[1].Signed[200] ^= 1 },
		"payer's signature": func(f *wallet.File) { f.Receipts[1].Signed[books.SignedSize-1] ^= 1 },
		"jobs are not":      func(f *wallet.File) { f.Receipts[1].Jobs[0].Method = "Worker.Wark" },
		"malformed":         func(f *wallet.File) { f.Receipts[1].Signed = f.Receipts[1].Signed[:9] },
		"is behind":         func(f *wallet.File) { slices.Reverse(f.Receipts[:2]) },
	} {
		f := file(t, d.payer, admin.EntryQuery{})
		spoil(f)
		if got, err := wallet.Check(f); err != nil || got.OK || !strings.Contains(strings.Join(got.Problems, "\n"), want) {
			t.Errorf("%s: %+v, %v", want, got, err)
		}
	}
}

// Two receipts with one number are proof against whoever signed both.
func TestTwoReceiptsWithOneNumber(t *testing.T) {
	d := newDeal(t, 2)
	f := file(t, d.payer, admin.EntryQuery{})
	s, err := books.ParseSigned(f.Receipts[1].Signed)
	if err != nil {
		t.Fatal(err)
	}
	s.Calls++
	s.PayeeSig, s.PayerSig = d.payee.sign(s.Receipt), d.payer.sign(s.Receipt)
	f.Receipts = append(f.Receipts, wallet.FileReceipt{Signed: s.Bytes()})
	got, err := wallet.Check(f)
	if err != nil || got.OK || !slices.Contains(got.Cheats, d.payee.node()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAudit(t *testing.T) {
	d := newDeal(t, 3)
	for _, p := range []*party{d.payer, d.payee} {
		a, owned := wallet.NewAudit(p.node(), false), false
		for _, r := range p.records {
			if !a.Take(r) {
				t.Fatalf("record %d: %v", r.Seq, a.End().Err)
			}
			who, ok := wallet.Owner(r)
			owned = owned || ok
			if ok && who != p.node() {
				t.Errorf("record %d is of the book of %s", r.Seq, who)
			}
		}
		found := a.End()
		if found.Err != nil || !owned || found.Records != uint64(len(p.records)) || found.Checked != 6 || found.Covered != 0 || found.Bad != 0 {
			t.Errorf("a sound book: %+v", found)
		}
	}
	a := wallet.NewAudit(d.payer.node(), false)
	forged := d.payer.records[0]
	forged.Postings = slices.Clone(forged.Postings)
	forged.Postings[0].Amount++
	var v *books.Violation
	a.Take(forged)
	if found := a.End(); !errors.As(found.Err, &v) || v.Rule != "I1" || found.Records != 0 {
		t.Errorf("a forged record: %+v", found)
	}
}
