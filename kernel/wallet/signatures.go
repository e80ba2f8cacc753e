package wallet

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// eachSignature is how many signatures of a long book are checked one by one,
// unless all are asked for: on two cores they take less time than the rest.
const eachSignature = 100_000

// Signatures is what was found of the signatures of a book.
type Signatures struct {
	Checked uint64 `json:"checked"` // one by one
	// Covered are those of receipts behind which there is another that was
	// checked: each has the hash of the one before it, so who has signed the last
	// has signed them all.
	Covered uint64 `json:"covered"`
	Bad     uint64 `json:"bad"`           // the first record with one that does not hold; 0 for none
	Why     string `json:"why,omitempty"` // and whose that is
}

// A signed is a receipt in a record, and whose signatures are to be checked.
type signed struct {
	seq uint64
	books.Signed
	payee, payer bool
}

// signaturesOf says which signatures a record has brought.
func signaturesOf(seq uint64, op books.Op) (s signed, ok bool) {
	switch o := op.(type) {
	case books.Propose:
		return signed{seq, o.Signed, true, false}, true
	case books.Settle: // the payee's is that of the claim before it: the rules say so
		return signed{seq, o.Signed, false, true}, true
	case books.Countersign:
		return signed{seq, o.Signed, true, true}, true
	case books.Adopt:
		return signed{seq, o.Signed, true, true}, true
	}
	return signed{}, false
}

func (s *signed) count() (n uint64) {
	for _, is := range []bool{s.payee, s.payer} {
		if is {
			n++
		}
	}
	return n
}

// A notary checks signatures on all cores, while the book is read.
type notary struct {
	each  uint64 // signatures that are checked one by one
	queue chan signed
	wg    sync.WaitGroup
	last  map[pair]signed // the last of each chain that was not checked one by one

	mu sync.Mutex // guards what follows
	Signatures
}

func newNotary(each uint64) *notary {
	n := &notary{each: each, queue: make(chan signed, 256), last: make(map[pair]signed)}
	for range runtime.GOMAXPROCS(0) {
		n.wg.Go(func() {
			for s := range n.queue {
				n.check(&s)
			}
		})
	}
	return n
}

func (n *notary) check(s *signed) {
	payee, payer := s.Verify()
	why := ""
	switch {
	case s.payee && !payee:
		why = fmt.Sprintf("receipt %d.%d: the signature of the payee, node %s, does not hold", s.Epoch, s.Seq, s.Payee.Short())
	case s.payer && !payer:
		why = fmt.Sprintf("receipt %d.%d: the signature of the payer, node %s, does not hold", s.Epoch, s.Seq, s.Payer.Short())
	default:
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Bad == 0 || s.seq < n.Bad {
		n.Bad, n.Why = s.seq, why
	}
}

// take checks what a record has brought, or remembers it as the last of its chain.
func (n *notary) take(seq uint64, op books.Op) {
	s, ok := signaturesOf(seq, op)
	if !ok {
		return
	}
	if n.Checked+s.count() <= n.each {
		n.Checked += s.count()
		n.queue <- s
		return
	}
	if _, claim := op.(books.Propose); claim {
		return // that is this node's word alone; with the other's it comes again
	}
	n.Covered += 2
	key := pair{s.Payer, s.Payee}
	if before, there := n.last[key]; there && s.Prev != before.Hash() {
		n.whole(before) // an adopted receipt does not name the last of this book
	}
	n.last[key] = s
}

// whole checks both signatures of a receipt that stands for those before it.
func (n *notary) whole(s signed) {
	s.payee, s.payer = true, true
	n.Covered, n.Checked = n.Covered-2, n.Checked+2
	n.queue <- s
}

// end checks the last of each chain, and says what was found.
func (n *notary) end() Signatures {
	for _, s := range n.last {
		n.whole(s)
	}
	close(n.queue)
	n.wg.Wait()
	return n.Signatures
}

// check says what is wrong, nil if nothing is.
func (s Signatures) check() error {
	if s.Bad == 0 {
		return nil
	}
	return sdk.Errorf(sdk.CodeInvalid, "record %d, %s", s.Bad, s.Why)
}
