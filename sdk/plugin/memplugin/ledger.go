package memplugin

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
)

// A ledger is a book in memory.
type ledger struct {
	mu       sync.Mutex // guards the fields below
	head     sdk.Head
	records  []sdk.Record
	byID     map[sdk.RecordID]int
	balances map[sdk.Account]sdk.ATP
}

func newLedger() *ledger {
	return &ledger{byID: map[sdk.RecordID]int{}, balances: map[sdk.Account]sdk.ATP{}}
}

// Open returns the head.
func (l *ledger) Open(ctx context.Context) (sdk.Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head, ctx.Err()
}

// Append looks for the batch first, so that one that was stored is success
// whatever the fence says.
func (l *ledger) Append(_ context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stored, err := l.stored(batch)
	switch {
	case err != nil:
		return sdk.Head{}, err
	case len(batch) > 0 && stored == len(batch):
		return l.head, nil
	case after != l.head:
		return sdk.Head{}, sdk.Errorf(sdk.CodeFenced, "the book ends at %d, not at %d", l.head.Seq, after.Seq)
	case stored > 0:
		return sdk.Head{}, sdk.Errorf(sdk.CodeInvalid, "%d of %d records are stored already", stored, len(batch))
	}
	sums, err := l.sums(batch)
	if err != nil {
		return sdk.Head{}, err
	}
	maps.Copy(l.balances, sums)
	for i := range batch {
		r := batch[i]
		r.Body, r.Postings = bytes.Clone(r.Body), slices.Clone(r.Postings)
		l.head = l.head.Next(&r)
		r.Seq = l.head.Seq
		l.byID[r.ID] = len(l.records)
		l.records = append(l.records, r)
	}
	return l.head, nil
}

// sums returns what the accounts of batch come to.
func (l *ledger) sums(batch []sdk.Record) (map[sdk.Account]sdk.ATP, error) {
	sums := map[sdk.Account]sdk.ATP{}
	for _, r := range batch {
		for _, p := range r.Postings {
			was, ok := sums[p.Account]
			if !ok {
				was = l.balances[p.Account]
			}
			sum := was + p.Amount
			if (sum > was) != (p.Amount > 0) && p.Amount != 0 {
				return nil, sdk.Errorf(sdk.CodeInvalid, "append: account %q overflows", string(p.Account))
			}
			sums[p.Account] = sum
		}
	}
	return sums, nil
}

// stored counts the records of batch that are in the book, with their bytes.
func (l *ledger) stored(batch []sdk.Record) (int, error) {
	seen := map[sdk.RecordID]bool{}
	n := 0
	for _, r := range batch {
		if seen[r.ID] {
			return 0, sdk.Errorf(sdk.CodeInvalid, "record %s twice in one batch", r.ID)
		}
		seen[r.ID] = true
		at, ok := l.byID[r.ID]
		if !ok {
			continue
		}
		if old := l.records[at]; !bytes.Equal(old.Body, r.Body) || !slices.Equal(old.Postings, r.Postings) {
			return 0, sdk.Errorf(sdk.CodeInvalid, "record %s is stored with other bytes", r.ID)
		}
		n++
	}
	return n, nil
}

// Read yields a snapshot's records.
func (l *ledger) Read(ctx context.Context, from uint64, yield func(sdk.Record) bool) error {
	l.mu.Lock()
	records := l.records // appended to, never changed
	l.mu.Unlock()
	from = max(from, 1)
	if from > uint64(len(records)) {
		return nil
	}
	for _, r := range records[from-1:] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !yield(r) {
			return nil
		}
	}
	return nil
}

// Balances returns a copy.
func (l *ledger) Balances(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head, maps.Clone(l.balances), ctx.Err()
}
