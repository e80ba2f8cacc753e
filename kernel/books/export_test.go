package books

import "github.com/cellkernel/cellkernel/sdk"

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
