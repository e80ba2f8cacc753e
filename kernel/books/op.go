package books

import (
	"github.com/cellkernel/cellkernel/sdk"
)

// opVersion begins the body of every record.
const opVersion = 1

// The kinds of ops, as they are in bodies: never reorder or reuse one.
const (
	kindCredit uint8 = iota + 1
	kindReserve
	kindVoid
	kindPropose
	kindSettle
	kindCountersign
	kindAdopt
	kindBlock
	kindFree
	kindSnapshot
)

// An Op is one thing that happens to a book. Its encoding is the body of the
// record.
type Op interface {
	kind() uint8
	append(b []byte) []byte
	peer(self sdk.NodeID) sdk.NodeID // whose relation it changes
}

// A Credit says how much a node may owe this one.
type Credit struct {
	Peer   sdk.NodeID
	Amount sdk.ATP
}

// A Reserve sets an amount aside for work that Peer is going to do.
type Reserve struct {
	Peer   sdk.NodeID
	Amount sdk.ATP
	Limit  sdk.ATP // how deep in debt this node may be, reservations included
}

// A Void gives back what was set aside and is not needed.
type Void struct {
	Peer   sdk.NodeID
	Amount sdk.ATP
}

// A Propose is a receipt that this node asks its payer to sign.
type Propose struct {
	Signed // by the payee
	List   []Job
}

// A Settle is the proposed receipt with the payer's signature.
type Settle struct{ Signed }

// A Countersign is a receipt that this node signs as the payer.
type Countersign struct {
	Signed
	List []Job
}

// An Adopt is a receipt with both signatures that this book does not have: it
// was lost, with the records before it.
type Adopt struct {
	Signed
	MinEpoch uint64 // no receipt of an earlier epoch is signed from now on
}

// A Block ends all business with a node that has cheated.
type Block struct {
	Peer  sdk.NodeID
	Proof Proof
}

// A Free is work done for a node that pays nothing for it.
type Free struct {
	Peer sdk.NodeID
	List []Job
}

// A Snapshot is a part of the state that does not follow from balances. A book
// is loaded from the last one that is whole.
type Snapshot struct {
	Part, Parts uint32
	Chunk       []byte
}

func (Credit) kind() uint8      { return kindCredit }
func (Reserve) kind() uint8     { return kindReserve }
func (Void) kind() uint8        { return kindVoid }
func (Propose) kind() uint8     { return kindPropose }
func (Settle) kind() uint8      { return kindSettle }
func (Countersign) kind() uint8 { return kindCountersign }
func (Adopt) kind() uint8       { return kindAdopt }
func (Block) kind() uint8       { return kindBlock }
func (Free) kind() uint8        { return kindFree }
func (Snapshot) kind() uint8    { return kindSnapshot }

func (o Credit) peer(sdk.NodeID) sdk.NodeID      { return o.Peer }
func (o Reserve) peer(sdk.NodeID) sdk.NodeID     { return o.Peer }
func (o Void) peer(sdk.NodeID) sdk.NodeID        { return o.Peer }
func (o Propose) peer(sdk.NodeID) sdk.NodeID     { return o.Payer }
func (o Settle) peer(sdk.NodeID) sdk.NodeID      { return o.Payer }
func (o Countersign) peer(sdk.NodeID) sdk.NodeID { return o.Payee }
func (o Block) peer(sdk.NodeID) sdk.NodeID       { return o.Peer }
func (o Free) peer(sdk.NodeID) sdk.NodeID        { return o.Peer }
func (o Snapshot) peer(sdk.NodeID) sdk.NodeID    { return "" }

func (o Adopt) peer(self sdk.NodeID) sdk.NodeID {
	if o.Payee == self {
		return o.Payer
	}
	return o.Payee
}

func (o Credit) append(b []byte) []byte { return appendATP(appendNode(b, o.Peer), o.Amount) }

func (o Reserve) append(b []byte) []byte {
	return appendATP(appendATP(appendNode(b, o.Peer), o.Amount), o.Limit)
}

func (o Void) append(b []byte) []byte        { return appendATP(appendNode(b, o.Peer), o.Amount) }
func (o Propose) append(b []byte) []byte     { return appendJobs(o.Signed.append(b), o.List) }
func (o Settle) append(b []byte) []byte      { return o.Signed.append(b) }
func (o Countersign) append(b []byte) []byte { return appendJobs(o.Signed.append(b), o.List) }
func (o Adopt) append(b []byte) []byte       { return appendU64(o.Signed.append(b), o.MinEpoch) }
func (o Block) append(b []byte) []byte       { return o.Proof.append(appendNode(b, o.Peer)) }
func (o Free) append(b []byte) []byte        { return appendJobs(appendNode(b, o.Peer), o.List) }

func (o Snapshot) append(b []byte) []byte {
	b = appendU64(b, uint64(o.Part)<<32|uint64(o.Parts))
	return append(b, o.Chunk...)
}

// body encodes an op as a record stores it.
func body(o Op) []byte { return o.append([]byte{opVersion, o.kind()}) }

// ParseBody decodes the body of a record.
func ParseBody(b []byte) (Op, error) {
	r := reader{b: b}
	if len(b) > sdk.MaxRecord || r.u8() != opVersion {
		return nil, sdk.Errorf(sdk.CodeInvalid, "decode record: not of a book of version %d", opVersion)
	}
	op := r.op(r.u8())
	if err := r.err(); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "decode record: %v", err)
	}
	return op, nil
}

func (r *reader) op(kind uint8) Op {
	switch kind {
	case kindCredit:
		return Credit{r.node(), r.amount()}
	case kindReserve:
		return Reserve{r.node(), r.amount(), r.amount()}
	case kindVoid:
		return Void{r.node(), r.amount()}
	case kindPropose:
		return Propose{r.signed(), r.jobs()}
	case kindSettle:
		return Settle{r.signed()}
	case kindCountersign:
		return Countersign{r.signed(), r.jobs()}
	case kindAdopt:
		return Adopt{r.signed(), r.u64()}
	case kindBlock:
		return Block{r.node(), r.proof()}
	case kindFree:
		return Free{r.node(), r.jobs()}
	case kindSnapshot:
		n := r.u64()
		return Snapshot{uint32(n >> 32), uint32(n), r.bytes(len(r.b))}
	}
	r.bad = true
	return nil
}

// differs names the first field in which two ops are not the same. The one that
// is remembered is a Credit.
func differs(a, b Op) string {
	switch {
	case a.kind() != b.kind():
		return "kind"
	case a.peer("") != b.peer(""):
		return "peer"
	}
	return "amount"
}
