package books

import (
	"bytes"
	"maps"
	"slices"

	"github.com/cellkernel/cellkernel/sdk"
)

// A snapshot is state that does not follow from balances, cut into records:
//
//	u32  relations, by node id, of each:
//	     32 node, flag credit + u64, flag blocked,
//	     payee: signed receipt, u64 record, u64 epoch, flag pending + proposal and u64 record
//	     payer: signed receipt, u64 record, u64 epoch
//	u64  floor of ids
//	u32  ids that are remembered, sorted, of each: 16 id, u64 record, u16 + body
const (
	chunkSize     = 3500
	maxParts      = 1 << 14
	snapshotEvery = 8192 // records, or 16 for each of its parts
)

// Due returns the parts of a snapshot, if it is time for one: records with
// nothing between them.
func (b *Book) Due() []Op {
	if b.since < max(snapshotEvery, b.due) {
		return nil
	}
	list := b.snapshot()
	if b.due = uint64(16 * len(list)); b.since < b.due || len(list) > maxParts {
		return nil
	}
	return list
}

// snapshot returns the parts of one of the state now.
func (b *Book) snapshot() []Op {
	blob := b.encodeIDs(b.encodePeers(nil))
	parts := (len(blob) + chunkSize - 1) / chunkSize
	var list []Op
	for chunk := range slices.Chunk(blob, chunkSize) {
		list = append(list, Snapshot{Part: uint32(len(list)), Parts: uint32(parts), Chunk: chunk})
	}
	return list
}

func appendU32(b []byte, v int) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func (b *Book) encodePeers(buf []byte) []byte {
	buf = appendU32(buf, len(b.peers))
	for _, n := range slices.Sorted(maps.Keys(b.peers)) {
		r := b.peers[n]
		buf = appendNode(buf, n)
		buf = appendATP(appendFlag(buf, r.creditSet), r.credit)
		buf = appendFlag(buf, r.blocked)
		buf = r.payee.last.append(buf)
		buf = appendU64(appendU64(buf, r.payee.lastSeq), r.payee.minEpoch)
		buf = appendFlag(buf, r.payee.pending != nil)
		if r.payee.pending != nil {
			buf = appendU64(r.payee.pending.append(buf), r.payee.asked)
		}
		buf = r.payer.last.append(buf)
		buf = appendU64(appendU64(buf, r.payer.lastSeq), r.payer.minEpoch)
	}
	return buf
}

func (b *Book) encodeIDs(buf []byte) []byte {
	buf = appendU32(appendU64(buf, uint64(b.floor)), len(b.ids))
	ids := slices.SortedFunc(maps.Keys(b.ids), func(x, y sdk.RecordID) int { return bytes.Compare(x[:], y[:]) })
	for _, id := range ids {
		s := b.ids[id]
		text := body(s.op)
		buf = appendU64(append(buf, id[:]...), s.seq)
		buf = append(append(buf, byte(len(text)>>8), byte(len(text))), text...)
	}
	return buf
}

func (r *reader) relations() map[sdk.NodeID]*relation {
	m := make(map[sdk.NodeID]*relation)
	n := r.u32()
	r.bad = r.bad || n > MaxPeers
	for range n {
		if r.bad {
			return nil
		}
		node, rel := r.node(), &relation{}
		rel.creditSet, rel.credit = r.flag(), r.amount()
		rel.blocked = r.flag()
		rel.payee.last, rel.payee.lastSeq, rel.payee.minEpoch = r.lastSigned(), r.u64(), r.u64()
		if r.flag() {
			rel.payee.pending = &Propose{r.signed(), r.jobs()}
			rel.payee.asked = r.u64()
		}
		rel.payer.last, rel.payer.lastSeq, rel.payer.minEpoch = r.lastSigned(), r.u64(), r.u64()
		m[node] = rel
	}
	return m
}

// lastSigned reads a receipt or, as all zeros, that there is none.
func (r *reader) lastSigned() Signed {
	b := r.bytes(SignedSize)
	if b == nil || bytes.Count(b, []byte{0}) == len(b) {
		return Signed{}
	}
	in := reader{b: b}
	s := in.signed()
	r.bad = r.bad || in.bad
	return s
}

func (r *reader) ids() map[sdk.RecordID]stored {
	m := make(map[sdk.RecordID]stored)
	n := r.u32()
	r.bad = r.bad || n > maxIDs
	for range n {
		id := sdk.RecordID{}
		copy(id[:], r.bytes(len(id)))
		seq := r.u64()
		op, err := ParseBody(r.bytes(int(r.u16())))
		if r.bad = r.bad || err != nil; r.bad {
			return nil
		}
		if remembered(op) { // older books have others, too
			m[id] = stored{seq, op}
		}
	}
	return m
}

func (b *Book) planSnapshot(s Snapshot) error {
	if !follows(b.parts, s) || s.Parts == 0 || s.Parts > maxParts || s.Part >= s.Parts || len(s.Chunk) == 0 || len(s.Chunk) > chunkSize {
		return sdk.Errorf(sdk.CodeInvalid, "snapshot: part %d of %d behind %d others", s.Part, s.Parts, len(b.parts))
	}
	return nil
}

// follows reports whether s goes on with the parts that are there. The first
// part always begins anew: a life that ended in the middle of a snapshot has
// left one that is never to be whole.
func follows(parts []Snapshot, s Snapshot) bool {
	return s.Part == 0 || int(s.Part) == len(parts) && s.Parts == parts[0].Parts
}

// gather takes one more part, and returns what all say when it was the last.
func gather(parts []Snapshot, s Snapshot) (more []Snapshot, blob []byte) {
	if s.Part == 0 {
		parts = nil
	}
	if parts = append(parts, s); s.Part+1 < s.Parts {
		return parts, nil
	}
	for _, p := range parts {
		blob = append(blob, p.Chunk...)
	}
	return nil, blob
}

// takeSnapshot has one more part; the last must say what the state is.
func (b *Book) takeSnapshot(s Snapshot) *Violation {
	var blob []byte
	if b.parts, blob = gather(b.parts, s); blob == nil {
		return nil
	}
	b.since = 0
	if want := b.encodePeers(nil); !bytes.HasPrefix(blob, want) {
		return violated("I3", "a snapshot says something else than the records before it")
	}
	return nil
}

// restore makes the state that of a snapshot.
func (b *Book) restore(blob []byte) error {
	r := reader{b: blob}
	peers, floor, ids := r.relations(), int64(r.u64()), r.ids()
	if err := r.err(); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "decode snapshot: %v", err)
	}
	b.peers, b.floor, b.ids = peers, floor, ids
	return nil
}
