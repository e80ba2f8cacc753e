package wallet_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
)

// A party is a node with a book in memory.
type party struct {
	t       *testing.T
	key     ed25519.PrivateKey
	book    *books.Book
	records []sdk.Record
	now     time.Time
}

func newParty(t *testing.T, name string) *party {
	seed := sha256.Sum256([]byte(name))
	p := &party{t: t, key: ed25519.NewKeyFromSeed(seed[:]), now: time.UnixMilli(1_700_000_000_000)}
	p.book = books.New(p.node())
	return p
}

func (p *party) node() sdk.NodeID { return sdk.FormatNodeID(p.key.Public().(ed25519.PublicKey)) }

func (p *party) sign(r books.Receipt) books.Signature {
	return books.Signature(ed25519.Sign(p.key, append([]byte(books.Statement), r.Bytes()...)))
}

func (p *party) do(op books.Op) {
	p.t.Helper()
	p.now = p.now.Add(time.Second)
	var random [10]byte
	binary.BigEndian.PutUint64(random[:], uint64(len(p.records)))
	rec, _, err := p.book.Make(p.now, books.NewID(p.now, random), op)
	if err != nil || rec == nil {
		p.t.Fatal(err)
	}
	p.records = append(p.records, *rec)
}

// standard is what a member may owe.
const standard = 36_000 * sdk.OneATP

// Wallet implements [wallet.Book].
func (p *party) Wallet() (settle.Wallet, error) {
	w := settle.Wallet{Wallet: p.book.Wallet(0), Node: p.node(), Donor: true, Price: 2000, Credit: standard, Head: p.book.Head()}
	for _, o := range p.book.Peers() {
		w.Peers = append(w.Peers, settle.Peer{Peer: o})
	}
	return w, nil
}

// Records implements [wallet.Book].
func (p *party) Records(_ context.Context, from uint64, yield func(sdk.Record) bool) error {
	for _, r := range p.records[max(from, 1)-1:] {
		if !yield(r) {
			break
		}
	}
	return nil
}

// SetCredit implements [wallet.Book].
func (p *party) SetCredit(_ context.Context, _ sdk.RecordID, n sdk.NodeID, amount sdk.ATP) error {
	p.do(books.Credit{Peer: n, Amount: amount})
	return nil
}

func (p *party) teller(names map[sdk.NodeID]sdk.CellName, denied ...sdk.NodeID) *wallet.Teller {
	return wallet.NewTeller(p, func() string { return "me" }, func() map[sdk.NodeID]sdk.CellName { return names },
		func(n sdk.NodeID) bool { return slices.Contains(denied, n) })
}

// A deal is work that one party has the other do.
type deal struct {
	payer, payee *party
	last         books.Receipt
}

// work has both sides book what cpu costs, and sign for it.
func (d *deal) work(cpu sdk.ATP) {
	jobs := []books.Job{books.NewJob(books.Job{From: "visitor", Cell: "worker", Method: "Worker.Work", Calls: 3, CPU: cpu, Source: "cgroup2"}, 2000)}
	r := books.Receipt{
		Mesh: [32]byte{1}, Payer: d.payer.node(), Payee: d.payee.node(), Epoch: 1, Seq: d.last.Seq + 1, CPU: d.last.CPU + cpu,
		Amount: d.last.Amount + jobs[0].Amount, Calls: d.last.Calls + 3, Jobs: books.Root(jobs), From: 5, To: 6, Prev: d.last.Hash(),
	}
	s := books.Signed{Receipt: r, PayeeSig: d.payee.sign(r)}
	d.payer.do(books.Reserve{Peer: r.Payee, Amount: jobs[0].Amount, Limit: 1 << 40})
	d.payee.do(books.Propose{Signed: s, List: jobs})
	s.PayerSig = d.payer.sign(r)
	d.payer.do(books.Countersign{Signed: s, List: jobs})
	d.payee.do(books.Settle{Signed: s})
	d.last = r
}
