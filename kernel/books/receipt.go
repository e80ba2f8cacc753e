package books

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"

	"github.com/cellkernel/cellkernel/sdk"
)

// Statement is what signatures of receipts begin with. Nothing else a node
// signs does.
const Statement = "cellkernel/receipt/v1\x00"

// Sizes of encodings, in bytes.
const (
	ReceiptSize = 3*32 + 2*8 + 3*8 + 32 + 2*8 + 2*32
	SignedSize  = ReceiptSize + 2*ed25519.SignatureSize
)

// A Signature is of Ed25519: the same key and the same bytes always make the
// same one, so what is sent again is the same.
type Signature [ed25519.SignatureSize]byte

// A Receipt says what one node owes another for all work it has had done there.
// Its encoding, in this order:
//
//	32   mesh id
//	32   payer: Ed25519 public key
//	32   payee
//	u64  epoch
//	u64  number in the epoch, from 1 without gaps
//	u64  CPU-microseconds, in all since the first receipt of the two
//	u64  to pay for them, in all
//	u64  calls, in all
//	32   root over the jobs since the receipt before
//	u64  window from, Unix milliseconds
//	u64  window to
//	32   session in which it was proposed
//	32   hash of the receipt before; zeros before the first
//
// Sums go on from one epoch to the next. A new one begins when a side has lost
// its book: it can not know which numbers it has used.
type Receipt struct {
	Mesh         [32]byte
	Payer, Payee sdk.NodeID
	Epoch, Seq   uint64
	CPU, Amount  sdk.ATP // cumulative
	Calls        uint64  // cumulative
	Jobs         [32]byte
	From, To     uint64 // for people: nothing follows from it
	Session      [32]byte
	Prev         [32]byte
}

func (r *Receipt) append(b []byte) []byte {
	b = append(b, r.Mesh[:]...)
	b = appendNode(b, r.Payer)
	b = appendNode(b, r.Payee)
	b = appendU64(b, r.Epoch)
	b = appendU64(b, r.Seq)
	b = appendATP(b, r.CPU)
	b = appendATP(b, r.Amount)
	b = appendU64(b, r.Calls)
	b = append(b, r.Jobs[:]...)
	b = appendU64(b, r.From)
	b = appendU64(b, r.To)
	b = append(b, r.Session[:]...)
	return append(b, r.Prev[:]...)
}

func (r *reader) receipt() Receipt {
	return Receipt{
		Mesh: r.hash(), Payer: r.node(), Payee: r.node(), Epoch: r.u64(), Seq: r.u64(), CPU: r.amount(), Amount: r.amount(),
		Calls: r.u64(), Jobs: r.hash(), From: r.u64(), To: r.u64(), Session: r.hash(), Prev: r.hash(),
	}
}

// Bytes returns the encoding.
func (r *Receipt) Bytes() []byte { return r.append(make([]byte, 0, ReceiptSize)) }

// Hash is what the next receipt calls this one. It is zeros for the zero
// receipt, which is before the first.
func (r *Receipt) Hash() [32]byte {
	if *r == (Receipt{}) {
		return [32]byte{}
	}
	return sha256.Sum256(r.append([]byte(Statement)))
}

// compare orders receipts of the same two nodes.
func (r *Receipt) compare(o *Receipt) int {
	return cmp.Or(cmp.Compare(r.Epoch, o.Epoch), cmp.Compare(r.Seq, o.Seq))
}

// signedBy reports whether s is node's signature of r.
func (r *Receipt) signedBy(node sdk.NodeID, s Signature) bool {
	key := node.Key()
	return key != nil && ed25519.Verify(key, r.append([]byte(Statement)), s[:])
}

// follows says why r can not be the receipt after last, with such jobs since.
func (r *Receipt) follows(last *Receipt, jobs []Job) error {
	s, err := sum(jobs)
	if err != nil {
		return err
	}
	refuse := func(format string, args ...any) error {
		return sdk.Errorf(sdk.CodeInvalid, "receipt %d.%d: "+format, append([]any{r.Epoch, r.Seq}, args...)...)
	}
	want := last.Seq + 1
	if r.Epoch > last.Epoch {
		want = 1
	}
	switch {
	case *last != (Receipt{}) && (r.Payer != last.Payer || r.Payee != last.Payee):
		return refuse("between other nodes than the one before")
	case r.Epoch < last.Epoch || r.Epoch == 0 || r.Seq != want:
		return refuse("does not follow %d.%d", last.Epoch, last.Seq)
	case r.Prev != last.Hash():
		return refuse("does not name the one before")
	case r.CPU-last.CPU != s.CPU || r.Amount-last.Amount != s.Amount || r.Calls-last.Calls != s.Calls:
		return refuse("its sums are not those of the one before and its jobs")
	case r.Jobs != Root(jobs):
		return refuse("its root is not that of its jobs")
	}
	return nil
}

// A Signed is a receipt with the signatures there are. Its encoding is the
// receipt, the payee's signature and the payer's, zeros for none.
type Signed struct {
	Receipt
	PayeeSig, PayerSig Signature
}

func (s *Signed) append(b []byte) []byte {
	b = s.Receipt.append(b)
	b = append(b, s.PayeeSig[:]...)
	return append(b, s.PayerSig[:]...)
}

func (r *reader) signed() Signed {
	return Signed{Receipt: r.receipt(), PayeeSig: r.signature(), PayerSig: r.signature()}
}

// Bytes returns the encoding.
func (s *Signed) Bytes() []byte { return s.append(make([]byte, 0, SignedSize)) }

// ParseSigned decodes what [Signed.Bytes] made. It judges no signature.
func ParseSigned(b []byte) (Signed, error) {
	r := reader{b: b}
	s := r.signed()
	return s, r.err()
}

// Verify says which of the two signatures hold.
func (s *Signed) Verify() (payee, payer bool) {
	return s.signedBy(s.Payee, s.PayeeSig), s.signedBy(s.Payer, s.PayerSig)
}

// complete reports whether both hold.
func (s *Signed) complete() bool {
	payee, payer := s.Verify()
	return payee && payer
}

// A Signer signs receipts with the key of a node.
type Signer interface {
	// Node is who signs.
	Node() sdk.NodeID
	// SignReceipt returns the signature of [Statement] and receipt.
	SignReceipt(receipt []byte) [64]byte
}

// A Proof is two different receipts with one number. It convinces anybody that
// who signed both has cheated, or has lost its book and gone on as if it had not.
type Proof struct{ A, B Signed }

// Cheats returns who signed both, none if the proof proves nothing. A payer
// signs only what the payee has signed: of two with both signatures each is
// the work of the payee, and the payer may have been deceived about a book it
// lost; but it has been told to begin a new epoch then.
func (p *Proof) Cheats() []sdk.NodeID {
	a, b := &p.A.Receipt, &p.B.Receipt
	if a.Payer != b.Payer || a.Payee != b.Payee || a.compare(b) != 0 || *a == *b {
		return nil
	}
	var list []sdk.NodeID
	if a.signedBy(a.Payee, p.A.PayeeSig) && b.signedBy(b.Payee, p.B.PayeeSig) {
		list = append(list, a.Payee)
	}
	if a.signedBy(a.Payer, p.A.PayerSig) && b.signedBy(b.Payer, p.B.PayerSig) {
		list = append(list, a.Payer)
	}
	return list
}

func (p *Proof) append(b []byte) []byte { return p.B.append(p.A.append(b)) }

func (r *reader) proof() Proof { return Proof{A: r.signed(), B: r.signed()} }

// Bytes returns the encoding: both receipts, with the signatures.
func (p *Proof) Bytes() []byte { return p.append(nil) }

// ParseProof decodes what [Proof.Bytes] made. It judges no signature.
func ParseProof(b []byte) (Proof, error) {
	r := reader{b: b}
	p := r.proof()
	return p, r.err()
}
