package books

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
)

// Load reads the book of self out of an open ledger: the sums of its accounts,
// and as many of its last records as there are since the last snapshot. What it
// finds has to be a book; it changes nothing.
func Load(ctx context.Context, l sdk.Ledger, self sdk.NodeID) (*Book, error) {
	head, sums, err := l.Balances(ctx)
	if err != nil {
		return nil, fmt.Errorf("load book: %w", err)
	}
	for window := uint64(2 * snapshotEvery); ; window *= 4 {
		from := uint64(1)
		if head.Seq > window {
			from = head.Seq - window + 1
		}
		b, err := loadFrom(ctx, l, self, loading{from, head, sums})
		if err != nil {
			return nil, fmt.Errorf("load book: %w", err)
		}
		if b != nil {
			if err := b.Check(); err != nil {
				return nil, err
			}
			return b, b.checkLast()
		}
	}
}

// checkLast checks the signatures of the last receipts with every node. Each has
// the hash of the one before it, so these two signatures are for all of them.
func (b *Book) checkLast() error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	nodes := slices.Collect(maps.Keys(b.peers))
	for part := range slices.Chunk(nodes, max(1, (len(nodes)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))) {
		wg.Go(func() {
			for _, n := range part {
				if bad := b.peers[n].forged(); bad != nil {
					mu.Lock()
					_ = b.fail(violated("I7", "receipt %d.%d with node %s: its signatures do not hold", bad.Epoch, bad.Seq, n.Short()))
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return b.broken
}

// forged returns a last receipt whose signatures do not hold, nil if all do.
func (r *relation) forged() *Signed {
	for _, s := range []*Signed{&r.payee.last, &r.payer.last} {
		if *s != (Signed{}) && !s.complete() {
			return s
		}
	}
	if p := r.payee.pending; p != nil && !p.signedBy(p.Payee, p.PayeeSig) {
		return &p.Signed
	}
	return nil
}

type loading struct {
	from uint64
	head sdk.Head
	sums map[sdk.Account]sdk.ATP
}

// loadFrom loads a book whose records before from are not read. It returns nil
// if there is no whole snapshot behind that.
func loadFrom(ctx context.Context, l sdk.Ledger, self sdk.NodeID, o loading) (*Book, error) {
	var tail []sdk.Record
	start := -1
	var parts []Snapshot
	var blob []byte
	err := l.Read(ctx, o.from, func(r sdk.Record) bool {
		if r.Seq > o.head.Seq {
			return false
		}
		tail = append(tail, r)
		if s, ok := snapshotOf(r); !ok || !follows(parts, s) {
			parts = nil
		} else if more, whole := gather(parts, s); whole != nil {
			start, blob, parts = len(tail), whole, nil
		} else {
			parts = more
		}
		if start > 0 && o.from > 1 { // what is before a snapshot is not needed
			tail, start = append(tail[:0], tail[start:]...), 0
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	b := New(self)
	switch {
	case o.from > 1 && blob == nil:
		return nil, nil
	case o.from > 1:
		if err := b.restore(blob); err != nil {
			return nil, err
		}
		if err := b.begin(tail, o); err != nil {
			return nil, err
		}
	}
	return b, b.replay(tail, o)
}

func snapshotOf(r sdk.Record) (Snapshot, bool) {
	if len(r.Body) < 2 || r.Body[1] != kindSnapshot {
		return Snapshot{}, false
	}
	op, err := ParseBody(r.Body)
	if err != nil {
		return Snapshot{}, false
	}
	s, ok := op.(Snapshot)
	return s, ok
}

// begin sets the accounts to what they were before tail.
func (b *Book) begin(tail []sdk.Record, o loading) error {
	b.tail, b.head = true, sdk.Head{Seq: o.head.Seq - uint64(len(tail))}
	for a, v := range o.sums {
		b.accounts[a] = v
	}
	for _, r := range tail {
		for _, p := range r.Postings {
			var ok bool
			if b.accounts[p.Account], ok = add(b.accounts[p.Account], -p.Amount); !ok {
				return b.fail(violated("I6", "record %d: account %s overflows", r.Seq, p.Account))
			}
		}
	}
	return nil
}

// replay applies tail and compares what comes of it with the ledger's own sums.
func (b *Book) replay(tail []sdk.Record, o loading) error {
	for _, r := range tail {
		if err := b.Apply(r); err != nil {
			return err
		}
	}
	if b.tail {
		b.tail, b.head.Hash = false, o.head.Hash
	}
	if b.head != o.head {
		return b.fail(violated("I2", "the book ends at %d %x, the ledger at %d %x", b.head.Seq, b.head.Hash[:4], o.head.Seq, o.head.Hash[:4]))
	}
	for a, v := range o.sums {
		if b.accounts[a] != v {
			return b.fail(violated("I1", "account %s is %s, the ledger says %s", a, b.accounts[a], v))
		}
	}
	return nil
}
