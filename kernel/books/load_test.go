package books_test

import (
	"context"
	"maps"
	"testing"
	"time"

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
	last := books.NewID(donor.now, [10]byte{1})
	rec, _, err := donor.book.Make(donor.now, last, books.Void{Peer: client.Node(), Amount: 3})
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
	if rec, _, err := b.Make(donor.now, last, books.Void{Peer: client.Node(), Amount: 3}); rec != nil || err != nil {
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
