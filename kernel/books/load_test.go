package books_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// Nothing that is in a record can be changed without being noticed, but for
// what the ledger's chain guards: bytes of signatures and texts.
func TestTamperedRecords(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	todo := [][]books.Job{work(70_000), work(1), work(299_999)}
	if err := meet(client, donor, &todo, 1).run(t); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*party{client, donor} {
		for i := range p.ledger.records {
			for what, change := range map[string]func(*sdk.Record){
				"amount":   func(r *sdk.Record) { r.Postings[0].Amount++ },
				"account":  func(r *sdk.Record) { r.Postings[0].Account += "x" },
				"postings": func(r *sdk.Record) { r.Postings = r.Postings[1:] },
				"body":     func(r *sdk.Record) { r.Body = r.Body[1:] },
				"longer":   func(r *sdk.Record) { r.Body = append(r.Body, 0) },
				"kind":     func(r *sdk.Record) { r.Body[1]++ },
			} {
				changed := forge(p.ledger, i, change)
				if _, err := books.Load(t.Context(), changed, p.Node()); err == nil {
					t.Errorf("record %d: a changed %s is not noticed", i+1, what)
				}
			}
		}
	}
}

// A book whose last receipt was not signed by both, or whose proposal not by this
// node, is no book: what it says of all before is not believed.
func TestForgedLastSignature(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	todo := [][]books.Job{work(70_000), work(1)}
	m := meet(client, donor, &todo, 1)
	if err := m.run(t); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*party{client, donor} {
		last := len(p.ledger.records) - 1
		for _, at := range []int{books.ReceiptSize + 2 + 10, books.ReceiptSize + 2 + 64 + 10} {
			forged := forge(p.ledger, last, func(r *sdk.Record) { r.Body[at] ^= 1 })
			if _, err := books.Load(t.Context(), forged, p.Node()); err == nil || !strings.Contains(err.Error(), "signatures do not hold") && !strings.Contains(err.Error(), "waits for a signature") {
				t.Errorf("byte %d: %v", at, err)
			}
		}
	}
	s, err := m.payee.Propose(work(5), donor.now)
	if err != nil {
		t.Fatal(err)
	}
	donor.must(t, s.Log)
	forged := forge(donor.ledger, len(donor.ledger.records)-1, func(r *sdk.Record) { r.Body[books.ReceiptSize+2+10] ^= 1 })
	if _, err := books.Load(t.Context(), forged, donor.Node()); err == nil || !strings.Contains(err.Error(), "I7") {
		t.Errorf("a proposal: %v", err)
	}
}

// forge returns a ledger that is right in itself and has one record changed.
func forge(m *memory, i int, change func(*sdk.Record)) *memory {
	c := newMemory()
	for j, r := range m.records {
		r.Postings, r.Body = append([]sdk.Posting(nil), r.Postings...), append([]byte(nil), r.Body...)
		if j == i {
			change(&r)
		}
		r.Seq = c.head.Seq + 1
		c.head = c.head.Next(&r)
		c.records = append(c.records, r)
	}
	c.sums = maps.Clone(m.sums)
	return c
}

// A long book is loaded from its last snapshot and comes to the same.
func TestSnapshots(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	todo := [][]books.Job{work(70_000), work(1)}
	m := meet(client, donor, &todo, 1)
	if err := m.run(t); err != nil {
		t.Fatal(err)
	}
	s, err := m.payee.Propose(work(5), donor.now)
	if err != nil {
		t.Fatal(err)
	}
	donor.must(t, s.Log)
	snapshots := 0
	for i := range 40_000 {
		donor.now = donor.now.Add(5 * time.Second)
		donor.must(t, books.Reserve{Peer: client.Node(), Amount: sdk.ATP(i%7 + 1), Limit: 1 << 40})
		for _, part := range donor.book.Due() {
			donor.must(t, part)
			snapshots++
		}
	}
	// Of the ids only those of credits are remembered: see TestADayOfReservations.
	last, credit := books.NewID(donor.now, [10]byte{1}), books.Credit{Peer: client.Node(), Amount: 3}
	rec, _, err := donor.book.Make(donor.now, last, credit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := donor.ledger.Append(t.Context(), donor.ledger.head, []sdk.Record{*rec}); err != nil {
		t.Fatal(err)
	}
	reads := &counted{memory: donor.ledger}
	b, err := books.Load(t.Context(), reads, donor.Node())
	if err != nil {
		t.Fatal(err)
	}
	if b.Head() != donor.book.Head() || b.Wallet(0) != donor.book.Wallet(0) || b.Peer(client.Node()) != donor.book.Peer(client.Node()) {
		t.Errorf("loaded: %+v\nwas:    %+v", b.Peer(client.Node()), donor.book.Peer(client.Node()))
	}
	if rec, _, err := b.Make(donor.now, last, credit); rec != nil || err != nil {
		t.Errorf("a record of before: %v, %v", rec, err)
	}
	if !books.NewPayee(side(donor, client, 9), terms, b).Waiting() {
		t.Error("the proposal that waited is forgotten")
	}
	t.Logf("%d records, %d parts of snapshots, %d records read", donor.ledger.head.Seq, snapshots, reads.n)
	if reads.n > 40_000 || snapshots == 0 {
		t.Errorf("read %d records", reads.n)
	}
}

type counted struct {
	*memory
	n int
}

func (c *counted) Read(ctx context.Context, from uint64, yield func(sdk.Record) bool) error {
	return c.memory.Read(ctx, from, func(r sdk.Record) bool { c.n++; return yield(r) })
}

// Ids say when they were made, and are refused when nobody can know any more
// whether they were used.
func TestIDs(t *testing.T) {
	p, o := newParty(t, "self"), newParty(t, "other")
	op := books.Credit{Peer: o.Node(), Amount: 7}
	for age, ok := range map[time.Duration]bool{0: true, 23 * time.Hour: true, 25 * time.Hour: false, -23 * time.Hour: true, -25 * time.Hour: false} {
		_, _, err := p.book.Make(p.now, books.NewID(p.now.Add(-age), [10]byte{byte(age.Hours())}), op)
		if (err == nil) != ok {
			t.Errorf("an id of %s ago: %v", age, err)
		}
	}
}

// A kernel that reserves and gives back ten times a second does so for longer
// than a day, and its book does not grow by it. Before, all of these ids were
// remembered for 24 h, and after less than two hours nothing was booked any more.
func TestADayOfReservations(t *testing.T) {
	p, o := newParty(t, "self"), newParty(t, "other")
	book := func(i int, op books.Op) {
		var random [10]byte
		binary.BigEndian.PutUint64(random[:], uint64(i))
		if rec, _, err := p.book.Make(p.now, books.NewID(p.now, random), op); err != nil || rec == nil {
			t.Fatalf("after %d: %v", i, err)
		}
	}
	const each = 10 * 25 * 60 * 60 // of the reservations, and of what gives them back
	for i := range each {
		p.now = p.now.Add(100 * time.Millisecond)
		book(2*i, books.Reserve{Peer: o.Node(), Amount: 5, Limit: 10})
		book(2*i+1, books.Void{Peer: o.Node(), Amount: 5})
	}
	t.Logf("%d records in %s; a snapshot has %d bytes", p.book.Head().Seq, time.Duration(each)*100*time.Millisecond, len(p.book.Blob()))
	if len(p.book.Blob()) > 2000 {
		t.Errorf("a snapshot has %d bytes: one relation and no id", len(p.book.Blob()))
	}
}

// A life that ends in the middle of a snapshot leaves one that is never taken
// for whole, also when parts of others are behind it: the next life may begin
// another at once, and whoever loads the book, from wherever, finds the last
// that is.
func TestSnapshotThatWasCut(t *testing.T) {
	names := make([]sdk.NodeID, 30)
	for i := range names {
		names[i] = newKey(fmt.Sprint(i)).Node()
	}
	rapid.Check(t, func(r *rapid.T) {
		p := newParty(t, "self")
		for i, n := range names {
			p.must(t, books.Credit{Peer: n, Amount: sdk.ATP(i)})
		}
		whole := uint64(0) // the first record of the last snapshot that is
		for range rapid.IntRange(1, 6).Draw(r, "lives") {
			parts := p.book.Snapshot()
			cut := rapid.IntRange(0, len(parts)).Draw(r, "parts")
			first := p.book.Head().Seq + 1
			for _, part := range parts[:cut] {
				p.must(t, part)
			}
			if cut == len(parts) {
				whole = first
			} else if skipped := cut + 1; cut > 0 && skipped < len(parts) {
				if _, _, err := p.book.Make(p.now, books.NewID(p.now, [10]byte{9}), parts[skipped]); err == nil {
					t.Fatalf("part %d behind %d others was taken", skipped, cut)
				}
			}
			p.restart(t)
			if rapid.Bool().Draw(r, "credit") {
				p.must(t, books.Credit{Peer: names[0], Amount: sdk.ATP(p.ids)})
			}
		}
		from := rapid.Uint64Range(2, p.book.Head().Seq).Draw(r, "from")
		b, err := books.LoadFrom(t.Context(), p.ledger, p.Node(), from)
		if err != nil || (b != nil) != (from <= whole) {
			t.Fatalf("from %d, the last whole snapshot begins at %d: %v, %v", from, whole, b, err)
		}
		if b != nil && (b.Head() != p.book.Head() || !slices.Equal(b.Peers(), p.book.Peers())) {
			t.Fatalf("from %d: another book", from)
		}
	})
}
