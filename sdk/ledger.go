package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// ATP is an amount of CPU time, the unit of account: 1 is one
// CPU-microsecond, [OneATP] is one ATP.
type ATP int64

// OneATP is 100 ms of CPU time.
const OneATP ATP = 100_000

// String formats a in ATP with as many decimals as it needs: "12.5 ATP".
func (a ATP) String() string {
	sign, v := "", uint64(a)
	if a < 0 {
		sign, v = "-", -v // right for the smallest int64, too
	}
	s := fmt.Sprintf("%s%d.%05d", sign, v/uint64(OneATP), v%uint64(OneATP))
	for s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	return s + " ATP"
}

// An Account names one side of a posting, for example "peer/<node id>".
// At most [MaxAccount] bytes of printable ASCII.
type Account string

// Limits of what a ledger stores.
const (
	MaxAccount  = 128     // bytes of an account's name
	MaxRecord   = 4 << 10 // bytes of a record's body
	MaxPostings = 8       // postings of one record
	MaxBatch    = 1024    // records of one append
)

// A RecordID makes appends idempotent. Its first six bytes are the time in
// Unix milliseconds, big endian; the rest is random.
type RecordID [16]byte

// String returns the id in lower-case hexadecimal.
func (id RecordID) String() string { return fmt.Sprintf("%x", id[:]) }

// A Posting moves Amount onto an account; the postings of a record sum to 0.
type Posting struct {
	Account Account
	Amount  ATP
}

// A Record is one entry of a book. The ledger stores it and keeps the sums of
// its postings; what a record means is decided in the kernel's books.
type Record struct {
	Seq      uint64 // position, from 1 without gaps; 0 in appends: the ledger assigns it
	ID       RecordID
	Postings []Posting
	Body     []byte // opaque to the ledger, at most [MaxRecord] bytes
}

// A Head is the end of a chain: how many records there are and the hash over
// all of them. The zero Head is the empty book.
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// Next returns the head behind r, whose Seq is ignored. Every ledger chains so,
// and whoever has the records can tell whether they are the book. The hash is
// the SHA-256 of h.Hash, the new sequence number, the id, the number of
// postings, of each posting the length of the account, the account and the
// amount, and the body; numbers have 8 bytes, big endian.
func (h Head) Next(r *Record) Head {
	b := make([]byte, 0, 512)
	b = append(b, h.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Seq+1)
	b = append(b, r.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(r.Postings)))
	for _, p := range r.Postings {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p.Account)))
		b = append(b, p.Account...)
		b = binary.BigEndian.AppendUint64(b, uint64(p.Amount))
	}
	b = append(b, r.Body...)
	return Head{Seq: h.Seq + 1, Hash: sha256.Sum256(b)}
}

// A Ledger stores records in one chain, durable when Append returns.
// The money rules live in the kernel's books, not here. One writer holds the
// head and has one append under way: it makes one batch of what waits.
type Ledger interface {
	// Open recovers the book and returns its head; open already, it returns
	// the head alone. A damaged book is an error that says where; it is never
	// reset.
	Open(ctx context.Context) (Head, error)
	// Append stores batch behind after, all of it or nothing, and returns the
	// new head, [Head.Next] of after and each record. Any other after than the
	// head of the book is [CodeFenced]. A batch whose ids are all stored
	// already with the same bytes is success, changes nothing and returns the
	// head of the book; an id stored with other bytes, one that is in the batch
	// twice, a batch of which only some records are stored, and postings that
	// take an account beyond an int64 are [CodeInvalid]. What can not be made
	// durable is never success.
	Append(ctx context.Context, after Head, batch []Record) (Head, error)
	// Read yields stored records in order, beginning with sequence number
	// from (0 and 1 both mean the first), until the end or until yield is false.
	Read(ctx context.Context, from uint64, yield func(Record) bool) error
	// Balances returns the sum of all postings of every account at a head.
	Balances(ctx context.Context) (Head, map[Account]ATP, error)
}
