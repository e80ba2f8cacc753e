package books_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// A model is what a book should come to, as simple as can be.
type model struct {
	p       *party
	others  []*party
	limit   sdk.ATP
	balance sdk.ATP // less what is reserved
	peers   map[sdk.NodeID]*books.Peer
	pending map[sdk.NodeID]books.Signed
	done    []done // what may be asked for again
}

type done struct {
	id  sdk.RecordID
	op  books.Op
	seq uint64
}

func (m *model) peer(n sdk.NodeID) *books.Peer {
	if m.peers[n] == nil {
		m.peers[n] = &books.Peer{Node: n}
	}
	return m.peers[n]
}

// try books op and says whether it was booked.
func (m *model) try(t *rapid.T, op books.Op) bool {
	m.p.ids++
	id := books.NewID(m.p.now, [10]byte{byte(m.p.ids), byte(m.p.ids >> 8)})
	before := m.p.book.Head()
	rec, res, err := m.p.book.Make(m.p.now, id, op)
	if err != nil {
		if m.p.book.Broken() != nil || m.p.book.Head() != before {
			t.Fatalf("%T: an error that changed the book: %v", op, err)
		}
		return false
	}
	if rec == nil {
		t.Fatalf("%T was booked before", op)
	}
	if _, err := m.p.ledger.Append(t.Context(), before, []sdk.Record{*rec}); err != nil {
		t.Fatal(err)
	}
	m.done = append(m.done, done{id, op, res.Seq})
	return true
}

func (m *model) want(t *rapid.T, op books.Op, want bool) {
	if got := m.try(t, op); got != want {
		t.Fatalf("%T: booked is %v, want %v", op, got, want)
	}
}

func (m *model) other(t *rapid.T) *party { return rapid.SampledFrom(m.others).Draw(t, "peer") }

var amounts = rapid.Custom(func(t *rapid.T) sdk.ATP {
	return sdk.ATP(rapid.OneOf(rapid.Int64Range(-5, 40), rapid.Int64Range(1<<59-3, 1<<60)).Draw(t, "amount"))
})

func valid(a sdk.ATP) bool { return a > 0 && a <= books.MaxAmount }

func (m *model) reserve(t *rapid.T) {
	p, a := m.peer(m.other(t).Node()), amounts.Draw(t, "reserve")
	ok := valid(a) && a <= m.balance+m.limit && !p.Blocked
	m.want(t, books.Reserve{Peer: p.Node, Amount: a, Limit: m.limit}, ok)
	if ok {
		m.balance -= a
		p.Reserved += a
	}
}

func (m *model) void(t *rapid.T) {
	p, a := m.peer(m.other(t).Node()), amounts.Draw(t, "void")
	ok := valid(a) && a <= p.Reserved
	m.want(t, books.Void{Peer: p.Node, Amount: a}, ok)
	if ok {
		m.balance += a
		p.Reserved -= a
	}
}

func (m *model) credit(t *rapid.T) {
	p, a := m.peer(m.other(t).Node()), amounts.Draw(t, "credit")
	ok := a >= 0 && a <= books.MaxAmount
	m.want(t, books.Credit{Peer: p.Node, Amount: a}, ok)
	if ok {
		p.Credit, p.CreditSet = a, true
	}
}

func (m *model) free(t *rapid.T) {
	p, a := m.peer(m.other(t).Node()), sdk.ATP(rapid.Int64Range(0, 50).Draw(t, "free"))
	m.want(t, books.Free{Peer: p.Node, List: work(a)}, true)
	p.Free += a
}

// next is the receipt behind last, for jobs. Epochs that are even were adopted:
// nothing follows in them.
func next(last books.Signed, payer, payee *party, jobs []books.Job) books.Signed {
	r := books.Receipt{
		Mesh: mesh, Payer: payer.Node(), Payee: payee.Node(), Epoch: max(last.Epoch, 5), Seq: last.Seq + 1, CPU: last.CPU, Amount: last.Amount,
		Calls: last.Calls, Jobs: books.Root(jobs), Prev: last.Hash(),
	}
	if r.Epoch%2 == 0 {
		r.Epoch, r.Seq = r.Epoch+1, 1
	}
	for _, j := range jobs {
		r.CPU += j.CPU
		r.Amount += j.Amount
		r.Calls += j.Calls
	}
	return books.Signed{Receipt: r, PayeeSig: payee.SignReceipt(r.Bytes())}
}

func (m *model) propose(t *rapid.T) {
	o := m.other(t)
	p, jobs := m.peer(o.Node()), work(sdk.ATP(rapid.Int64Range(0, 50).Draw(t, "cpu")))
	s := next(p.Earning, o, m.p, jobs)
	_, waits := m.pending[p.Node]
	if waits && m.pending[p.Node] == s {
		return
	}
	m.want(t, books.Propose{Signed: s, List: jobs}, !waits && !p.Blocked)
	if !waits && !p.Blocked {
		m.pending[p.Node] = s
		p.Claimed += s.Amount - p.Earning.Amount
	}
}

func (m *model) settle(t *rapid.T) {
	o := m.other(t)
	s, ok := m.pending[o.Node()]
	p := m.peer(o.Node())
	if !ok {
		return
	}
	if rapid.Bool().Draw(t, "forged") {
		s.PayerSig = m.p.SignReceipt(s.Receipt.Bytes())
		m.want(t, books.Settle{Signed: s}, false)
		return
	}
	s.PayerSig = o.SignReceipt(s.Receipt.Bytes())
	m.want(t, books.Settle{Signed: s}, true)
	delta := s.Amount - p.Earning.Amount
	if p.Blocked {
		p.Disputed -= delta
	} else {
		p.Claimed -= delta
	}
	p.Earned += delta
	m.balance += delta
	p.Earning = s
	delete(m.pending, p.Node)
}

func (m *model) countersign(t *rapid.T) {
	o := m.other(t)
	p, jobs := m.peer(o.Node()), work(sdk.ATP(rapid.Int64Range(0, 50).Draw(t, "cpu")))
	s := next(p.Paid, m.p, o, jobs)
	s.PayerSig = m.p.SignReceipt(s.Receipt.Bytes())
	delta := s.Amount - p.Paid.Amount
	ok := delta <= p.Reserved && !p.Blocked
	m.want(t, books.Countersign{Signed: s, List: jobs}, ok)
	if ok {
		p.Reserved -= delta
		p.Spent += delta
		p.Paid = s
	}
}

// adopt is a receipt from a life of which this book knows nothing.
func (m *model) adopt(t *rapid.T) {
	o, jobs := m.other(t), work(sdk.ATP(rapid.Int64Range(0, 50).Draw(t, "cpu")))
	p, earning := m.peer(o.Node()), rapid.Bool().Draw(t, "earning")
	payer, payee, last := m.p, o, p.Paid
	if earning {
		payer, payee, last = o, m.p, p.Earning
	}
	s := next(last, payer, payee, jobs)
	s.Epoch, s.PayerSig = s.Epoch+1, books.Signature{}
	s.PayeeSig, s.PayerSig = payee.SignReceipt(s.Receipt.Bytes()), payer.SignReceipt(s.Receipt.Bytes())
	m.want(t, books.Adopt{Signed: s, MinEpoch: s.Epoch}, false)
	m.want(t, books.Adopt{Signed: s, MinEpoch: s.Epoch + 1}, true)
	delta := s.Amount - last.Amount
	if earning {
		p.Earned, p.Earning, p.Claimed, p.Disputed = p.Earned+delta, s, 0, 0
		m.balance += delta
		delete(m.pending, p.Node)
		return
	}
	set := min(delta, p.Reserved)
	p.Spent, p.Paid, p.Reserved = p.Spent+delta, s, p.Reserved-set
	m.balance -= delta - set
}

func (m *model) block(t *rapid.T) {
	o := m.other(t)
	p := m.peer(o.Node())
	a, b := next(p.Paid, m.p, o, work(1)), next(p.Paid, m.p, o, work(2))
	m.want(t, books.Block{Peer: p.Node, Proof: books.Proof{A: a, B: a}}, false)
	m.want(t, books.Block{Peer: p.Node, Proof: books.Proof{A: a, B: b}}, !p.Blocked)
	if !p.Blocked {
		p.Disputed, p.Claimed = p.Claimed, 0
		m.balance += p.Reserved
		p.Reserved, p.Blocked = 0, true
	}
}

// again asks for something that was booked, as it was or otherwise. Only what
// people ask for is: the kernel makes a new id for each of its own.
func (m *model) again(t *rapid.T) {
	if len(m.done) == 0 {
		return
	}
	d := rapid.SampledFrom(m.done).Draw(t, "again")
	o, ok := d.op.(books.Credit)
	if !ok {
		return
	}
	before := m.p.book.Head()
	rec, res, err := m.p.book.Make(m.p.now, d.id, d.op)
	if err != nil || rec != nil || res.Seq != d.seq {
		t.Fatalf("%T again: %v, %v, %v", d.op, rec, res, err)
	}
	o.Amount++
	if _, _, err := m.p.book.Make(m.p.now, d.id, o); err == nil || err.Error() != "record "+d.id.String()+" is stored with a different amount" {
		t.Fatalf("with another amount: %v", err)
	}
	if _, _, err := m.p.book.Make(m.p.now, d.id, books.Void{Peer: o.Peer, Amount: 1}); err == nil || err.Error() != "record "+d.id.String()+" is stored with a different kind" {
		t.Fatalf("as something else: %v", err)
	}
	if m.p.book.Head() != before {
		t.Fatal("it changed the book")
	}
}

// check compares the book, and one loaded from the ledger, with the model.
func (m *model) check(t *rapid.T) {
	loaded, err := books.Load(t.Context(), m.p.ledger, m.p.Node())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []*books.Book{m.p.book, loaded, m.p.book.Clone()} {
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		w := b.Wallet(m.limit)
		if w.Available != m.balance+m.limit || w.Balance != m.balance+w.Reserved || w.Balance != w.Earned-w.Spent {
			t.Fatalf("wallet %+v, want a balance of %s besides what is reserved", w, m.balance)
		}
		for n, want := range m.peers {
			if got := b.Peer(n); got != *want {
				t.Fatalf("peer:\n got %+v\nwant %+v", got, *want)
			}
		}
	}
}

func TestBookAgainstModel(t *testing.T) {
	others := []*party{newParty(t, "a"), newParty(t, "b")}
	rapid.Check(t, func(r *rapid.T) {
		m := &model{
			p: newParty(t, "self"), others: others, limit: 100,
			peers: make(map[sdk.NodeID]*books.Peer), pending: make(map[sdk.NodeID]books.Signed),
		}
		r.Repeat(map[string]func(*rapid.T){
			"reserve": m.reserve, "void": m.void, "credit": m.credit, "free": m.free, "propose": m.propose, "settle": m.settle,
			"countersign": m.countersign, "adopt": m.adopt, "block": m.block, "again": m.again,
			"time": func(*rapid.T) { m.p.now = m.p.now.Add(time.Minute) },
			"":     m.check,
		})
	})
}
