package books

import (
	"context"

	"github.com/cellkernel/cellkernel/sdk"
)

// Body encodes an op as a record stores it.
func Body(op Op) []byte { return body(op) }

// Blob is what a snapshot would have now.
func (b *Book) Blob() []byte { return b.encodeIDs(b.encodePeers(nil)) }

// Restore decodes a snapshot and encodes it again.
func Restore(blob []byte) ([]byte, error) {
	b := New(sdk.FormatNodeID(make([]byte, 32)))
	if err := b.restore(blob); err != nil {
		return nil, err
	}
	return b.Blob(), nil
}

// Snapshot returns the parts of a snapshot, whether it is time for one or not.
func (b *Book) Snapshot() []Op { return b.snapshot() }

// LoadFrom loads a book without reading what is before a record. It returns nil
// if no whole snapshot is behind that.
func LoadFrom(ctx context.Context, l sdk.Ledger, self sdk.NodeID, from uint64) (*Book, error) {
	head, sums, err := l.Balances(ctx)
	if err != nil {
		return nil, err
	}
	return loadFrom(ctx, l, self, loading{from, head, sums})
}
