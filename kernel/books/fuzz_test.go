package books_test

import (
	"bytes"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

func FuzzParseBody(f *testing.F) {
	client, donor := newParty(f, "client"), newParty(f, "donor")
	todo := [][]books.Job{work(70_000), work(1)}
	if err := meet(client, donor, &todo, 1).run(f); err != nil {
		f.Fatal(err)
	}
	for _, p := range []*party{client, donor} {
		for _, r := range p.ledger.records {
			f.Add(r.Body)
		}
	}
	f.Add(books.Body(books.Snapshot{Part: 1, Parts: 2, Chunk: []byte{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		op, err := books.ParseBody(b)
		if err != nil {
			return
		}
		if again := books.Body(op); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %#v, which is %x", b, op, again)
		}
		p := newParty(t, "self")
		if rec, _, err := p.book.Make(p.now, books.NewID(p.now, [10]byte{}), op); rec != nil && err == nil {
			if err := p.book.Check(); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = books.Explain(p.Node(), sdk.Record{Body: b})
	})
}

func FuzzParseMessage(f *testing.F) {
	f.Add(books.Encode(books.Hello{MinEpoch: 1}))
	f.Add(books.Encode(books.Welcome{Terms: terms}))
	f.Add(books.Encode(books.Grant{Limit: 5}))
	f.Add(books.Encode(books.Proposal{List: work(5)}))
	f.Add(books.Encode(books.Countersigned{Epoch: 5}))
	f.Add(books.Encode(books.Refusal{Code: sdk.CodeDenied, Text: "no"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := books.ParseMessage(b)
		if err == nil && !bytes.Equal(books.Encode(m), b) {
			t.Fatalf("%x decodes to %#v, which is %x", b, m, books.Encode(m))
		}
	})
}

func FuzzParseProof(f *testing.F) {
	p := books.Proof{}
	f.Add(p.Bytes())
	f.Add(p.A.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := books.ParseProof(b); err == nil && !bytes.Equal(p.Bytes(), b) {
			t.Fatalf("%x", b)
		}
		if s, err := books.ParseSigned(b); err == nil && !bytes.Equal(s.Bytes(), b) {
			t.Fatalf("%x", b)
		}
	})
}

func FuzzRestore(f *testing.F) {
	client, donor := newParty(f, "client"), newParty(f, "donor")
	todo := [][]books.Job{work(70_000), work(1)}
	if err := meet(client, donor, &todo, 1).run(f); err != nil {
		f.Fatal(err)
	}
	f.Add(donor.book.Blob())
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := books.Restore(b)
		if err != nil {
			return
		}
		// Ids that older books remember may be dropped; nothing else, and once.
		if again, err := books.Restore(once); err != nil || !bytes.Equal(again, once) || len(once) > len(b) {
			t.Fatalf("%x becomes %x, then %x: %v", b, once, again, err)
		}
	})
}
