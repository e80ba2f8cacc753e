package books

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// Limits of a book.
const (
	MaxPeers = 4096           // nodes with which there is any business
	maxIDs   = 1 << 16        // ids remembered
	idLife   = 24 * time.Hour // for which they are

	pruneEvery = time.Minute // between two looks at all of them
)

// A Violation is an invariant that does not hold. It is a bug, a damaged ledger
// or a forged record: nothing is booked any more.
type Violation struct {
	Rule string // "I1"; docs/billing.md lists them
	Text string
}

// Error names the rule.
func (v *Violation) Error() string { return "books: " + v.Rule + " is violated: " + v.Text }

func violated(rule, format string, args ...any) *Violation {
	return &Violation{rule, fmt.Sprintf(format, args...)}
}

// A Result is what came of an op.
type Result struct {
	Seq uint64 // of the record
}

// stored is an op that may be asked for again under the same id.
type stored struct {
	seq uint64
	op  Op
}

// A Book is the state of the book of one node. It is not safe for concurrent
// use, and does not store anything: whoever makes a record stores it.
type Book struct {
	self     sdk.NodeID
	head     sdk.Head
	tail     bool // loaded from a snapshot: head has no hash but the ledger's
	accounts map[sdk.Account]sdk.ATP
	peers    map[sdk.NodeID]*relation
	ids      map[sdk.RecordID]stored
	pruned   int64      // Unix milliseconds of the last look at all ids
	floor    int64      // Unix milliseconds: ids of before were forgotten
	parts    []Snapshot // of a snapshot that is being applied
	since    uint64     // records since the last snapshot
	due      uint64     // so many of them make the next worth its size
	broken   error
}

// New makes the empty book of a node.
func New(self sdk.NodeID) *Book {
	return &Book{
		self: self, accounts: make(map[sdk.Account]sdk.ATP), peers: make(map[sdk.NodeID]*relation),
		ids: make(map[sdk.RecordID]stored),
	}
}

// Clone returns a copy that changes by itself.
func (b *Book) Clone() *Book {
	c := *b
	c.accounts, c.ids = maps.Clone(b.accounts), maps.Clone(b.ids)
	c.parts = slices.Clone(b.parts)
	c.peers = make(map[sdk.NodeID]*relation, len(b.peers))
	for id, r := range b.peers {
		copied := *r
		c.peers[id] = &copied
	}
	return &c
}

// Self is whose book it is.
func (b *Book) Self() sdk.NodeID { return b.self }

// Head is where the book is.
func (b *Book) Head() sdk.Head { return b.head }

// Broken returns the violation that ended this book, or nil.
func (b *Book) Broken() error { return b.broken }

// NewID makes an id of the time now and random bytes.
func NewID(now time.Time, random [10]byte) (id sdk.RecordID) {
	binary.BigEndian.PutUint64(id[:], uint64(now.UnixMilli())<<16)
	copy(id[6:], random[:])
	return id
}

func idTime(id sdk.RecordID) int64 { return int64(binary.BigEndian.Uint64(id[:8]) >> 16) }

// Make applies op and returns the record to store behind the head. An op that
// is in the book already returns no record, and what came of it then. An error
// with a code changes nothing; a [Violation] ends the book.
func (b *Book) Make(now time.Time, id sdk.RecordID, op Op) (*sdk.Record, Result, error) {
	if b.broken != nil {
		return nil, Result{}, b.broken
	}
	if was, ok := b.ids[id]; ok {
		if bytes.Equal(body(was.op), body(op)) {
			return nil, Result{was.seq}, nil
		}
		return nil, Result{}, sdk.Errorf(sdk.CodeInvalid, "record %s is stored with a different %s", id, differs(was.op, op))
	}
	if seq, ok := b.known(op); ok {
		return nil, Result{seq}, nil
	}
	if err := b.checkID(now, id); err != nil {
		return nil, Result{}, err
	}
	if err := b.checkSignatures(op); err != nil {
		return nil, Result{}, err
	}
	postings, err := b.plan(op)
	if err != nil {
		return nil, Result{}, err
	}
	rec := sdk.Record{ID: id, Postings: postings, Body: body(op)}
	if len(rec.Body) > sdk.MaxRecord {
		return nil, Result{}, sdk.Errorf(sdk.CodeTooLarge, "record of %d bytes: at most %d", len(rec.Body), sdk.MaxRecord)
	}
	rec.Seq = b.head.Seq + 1
	if err := b.commit(rec, op); err != nil {
		return nil, Result{}, err
	}
	return &rec, Result{rec.Seq}, nil
}

// checkID refuses ids whose time is not of today, and makes room for one more.
func (b *Book) checkID(now time.Time, id sdk.RecordID) error {
	at, ms := idTime(id), now.UnixMilli()
	if at < ms-idLife.Milliseconds() || at < b.floor {
		return sdk.Errorf(sdk.CodeInvalid, "record %s: its id is older than %s: whether it is stored is not known any more", id, idLife)
	}
	if at > ms+idLife.Milliseconds() {
		return sdk.Errorf(sdk.CodeInvalid, "record %s: its id is of the future", id)
	}
	if len(b.ids) >= maxIDs/2 && ms-b.pruned >= pruneEvery.Milliseconds() {
		b.prune(ms)
	}
	if len(b.ids) >= maxIDs {
		return sdk.Errorf(sdk.CodeOverloaded, "book a record: %d are remembered of the last %s", maxIDs, idLife)
	}
	return nil
}

// prune forgets ids that are refused by their age.
func (b *Book) prune(ms int64) {
	b.pruned = ms
	for old := range b.ids {
		if t := idTime(old); t < ms-idLife.Milliseconds() {
			delete(b.ids, old)
			b.floor = max(b.floor, t+1)
		}
	}
}

// remembered are the ops that people ask for, and so may ask for twice. Receipts
// have numbers of their own; and what the kernel books for itself, like
// reservations, it books once: it makes a new id each time, many a second.
func remembered(op Op) bool {
	_, asked := op.(Credit)
	return asked
}

// Apply takes a record that is stored. Anything that is not what this book
// would have made is a violation, but for signatures: see [Book.Take].
func (b *Book) Apply(rec sdk.Record) error {
	_, err := b.Take(rec)
	return err
}

// Take is Apply, and returns what the record says: whoever has all records
// checks its signatures.
func (b *Book) Take(rec sdk.Record) (Op, error) {
	if b.broken != nil {
		return nil, b.broken
	}
	if rec.Seq != b.head.Seq+1 {
		return nil, b.fail(violated("I2", "record %d behind %d", rec.Seq, b.head.Seq))
	}
	op, err := ParseBody(rec.Body)
	if err != nil {
		return nil, b.fail(violated("I3", "record %d: %v", rec.Seq, err))
	}
	if _, ok := b.ids[rec.ID]; ok {
		return nil, b.fail(violated("I3", "record %d has an id that is there already: %s", rec.Seq, rec.ID))
	}
	postings, err := b.plan(op)
	if err != nil {
		return nil, b.fail(violated("I5", "record %d: %v", rec.Seq, err))
	}
	if !slices.Equal(postings, rec.Postings) {
		return nil, b.fail(violated("I1", "record %d moves other amounts than it says", rec.Seq))
	}
	return op, b.commit(rec, op)
}

// Forget drops the ids that are remembered. It is for who only reads a book and
// makes nothing: a long one has many.
func (b *Book) Forget() { clear(b.ids) }

func (b *Book) fail(v *Violation) error {
	if b.broken == nil {
		b.broken = v
	}
	return b.broken
}

// commit changes the state by a record whose postings were planned.
func (b *Book) commit(rec sdk.Record, op Op) error {
	sum := sdk.ATP(0)
	for _, p := range rec.Postings {
		var ok, fine bool
		sum, ok = add(sum, p.Amount)
		b.accounts[p.Account], fine = add(b.accounts[p.Account], p.Amount)
		if !ok || !fine {
			return b.fail(violated("I6", "record %d: account %s overflows", rec.Seq, p.Account))
		}
	}
	if sum != 0 {
		return b.fail(violated("I1", "record %d: its postings sum to %s", rec.Seq, sum))
	}
	if b.tail {
		b.head.Seq++ // the hash is the ledger's: see Load
	} else {
		b.head = b.head.Next(&rec)
	}
	if remembered(op) {
		b.ids[rec.ID] = stored{rec.Seq, op}
	}
	b.since++
	if err := b.change(rec, op); err != nil {
		return b.fail(err)
	}
	return b.check(op.peer(b.self))
}
