package sdk

import (
	"context"
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

// A Ledger stores records in one chain, durable when Append returns.
// The money rules live in the kernel's books, not here.
type Ledger interface {
	// Open recovers the book and returns its head. A damaged book is an
	// error that says where; it is never reset.
	Open(ctx context.Context) (Head, error)
	// Append stores batch behind after, all of it or nothing, and returns the
	// new head. A stale after is [CodeFenced]. A batch whose ids are all
	// stored already with the same bytes is success and changes nothing; an
	// id stored with other bytes is [CodeInvalid].
	Append(ctx context.Context, after Head, batch []Record) (Head, error)
	// Read yields stored records in order, beginning with sequence number
	// from (0 and 1 both mean the first), until the end or until yield is false.
	Read(ctx context.Context, from uint64, yield func(Record) bool) error
	// Balances returns the sum of all postings of every account at a head.
	Balances(ctx context.Context) (Head, map[Account]ATP, error)
}
