package books_test

import (
	"context"
	"maps"

	"github.com/cellkernel/cellkernel/sdk"
)

// A memory is a ledger in memory, which outlives a party.
type memory struct {
	head    sdk.Head
	records []sdk.Record
	sums    map[sdk.Account]sdk.ATP
}

func newMemory() *memory { return &memory{sums: make(map[sdk.Account]sdk.ATP)} }

func (m *memory) Open(context.Context) (sdk.Head, error) { return m.head, nil }

func (m *memory) Append(_ context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	if after != m.head {
		return m.head, sdk.Errorf(sdk.CodeFenced, "the book ends at %d", m.head.Seq)
	}
	for _, r := range batch {
		m.head = m.head.Next(&r)
		r.Seq = m.head.Seq
		m.records = append(m.records, r)
		for _, p := range r.Postings {
			m.sums[p.Account] += p.Amount
		}
	}
	return m.head, nil
}

func (m *memory) Read(_ context.Context, from uint64, yield func(sdk.Record) bool) error {
	for _, r := range m.records[max(from, 1)-1:] {
		if !yield(r) {
			break
		}
	}
	return nil
}

func (m *memory) Balances(context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	return m.head, maps.Clone(m.sums), nil
}
