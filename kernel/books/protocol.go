package books

import (
	"crypto/sha256"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A Step is what a side has to do: first make Log durable, if there is one,
// then send what there is to send. A side that crashes in between is made anew
// from its book and does what is left.
type Step struct {
	Log  Op
	Send Message
}

// A Side is what both sides need to know.
type Side struct {
	Mesh   [32]byte
	Peer   sdk.NodeID
	Signer Signer
	Nonce  [32]byte // random, of this session
}

// future is how far ahead another node's clock may be.
const future = 25 * time.Hour

// epochEvery is how often work that waits for a signature is proposed in a new
// epoch: each time is a record, and a payer that signs nothing can ask for them.
const epochEvery = 5 * time.Second

// session names one by what both sides have made up for it.
func session(payer, payee [32]byte) [32]byte {
	b := append([]byte("cellkernel/receipt/session/v1\x00"), payer[:]...)
	return sha256.Sum256(append(b, payee[:]...))
}

// ours says why s can not be a receipt of these two nodes.
func ours(s *Signed, payer, payee sdk.NodeID) error {
	if s.Payer != payer || s.Payee != payee {
		return sdk.Errorf(sdk.CodeDenied, "receipt %d.%d: it is between other nodes", s.Epoch, s.Seq)
	}
	if !s.complete() {
		return sdk.Errorf(sdk.CodeDenied, "receipt %d.%d: its signatures do not hold", s.Epoch, s.Seq)
	}
	return nil
}

// A Payer is the side that has work done. It is not safe for concurrent use.
type Payer struct {
	Side
	MaxPrice Price
	RTT      time.Duration // there and back, as it was measured
	state    payerState
	blocked  bool
	min      uint64 // epoch
	terms    Terms
	met      bool
	first    bool // no proposal has come yet: one of an earlier session may
	session  [32]byte
	allowed  *Allowance
}

// NewPayer begins a session with what the book says. What the payee may be paid
// for is taken of allowed, which outlives the session.
func NewPayer(s Side, b *Book, allowed *Allowance) *Payer {
	p := &Payer{Side: s, MaxPrice: PriceOne, allowed: allowed}
	p.Refresh(b)
	return p
}

// Refresh takes what the book says now: after each log.
func (p *Payer) Refresh(b *Book) {
	r := b.relation(p.Peer)
	p.state, p.blocked = r.payer, r.blocked
}

// Hello is the first message.
func (p *Payer) Hello(now time.Time) (Step, error) {
	if p.blocked {
		return Step{}, errBlocked(p.Peer)
	}
	if p.min = p.state.minEpoch; p.state.last.Epoch == 0 {
		p.min = uint64(now.UnixMilli()) // what was signed in a book before this one is not known
	}
	return Step{Send: Hello{MinEpoch: p.min, Nonce: p.Nonce, Last: p.state.last}}, nil
}

// Welcome takes the answer. If the step logs something, say Hello again.
func (p *Payer) Welcome(w Welcome, now time.Time) (Step, error) {
	if !w.Charges {
		p.terms, p.met = w.Terms, true
		return Step{}, nil
	}
	own := &p.state.last
	if w.Last != (Signed{}) {
		if err := ours(&w.Last, p.Signer.Node(), p.Peer); err != nil {
			return Step{}, err
		}
		switch c := w.Last.compare(&own.Receipt); {
		case c > 0:
			return Step{Log: Adopt{w.Last, max(uint64(now.UnixMilli()), w.Last.Epoch+1)}}, nil
		case c == 0 && w.Last.Receipt != own.Receipt:
			return p.caught(*own, w.Last)
		}
	}
	switch {
	case own.Epoch != 0 && w.Last.compare(&own.Receipt) < 0:
		return Step{}, sdk.Errorf(sdk.CodeInvalid, "node %s does not know receipt %d.%d, which it was shown", p.Peer.Short(), own.Epoch, own.Seq)
	case w.Epoch < max(p.min, own.Epoch) || w.Epoch > uint64(now.Add(future).UnixMilli()):
		return Step{}, sdk.Errorf(sdk.CodeInvalid, "node %s proposes epoch %d: want %d or later, and not of the future", p.Peer.Short(), w.Epoch, max(p.min, own.Epoch))
	case w.Price > p.MaxPrice:
		return Step{}, sdk.Errorf(sdk.CodeDenied, "node %s charges %s ATP for 100 ms of CPU: this node pays at most %s: \"kernel.max_price\"", p.Peer.Short(), w.Price, p.MaxPrice)
	}
	p.terms, p.met, p.first = w.Terms, true, true
	p.session = session(p.Nonce, w.Nonce)
	p.allowed.begin(int(w.Cores), p.bound(maxRTT)) // what it went by is not known here
	return Step{}, nil
}

// Covers reports whether what the payer knows itself covers a proposal: its
// cells have called, and so much CPU time can have been used for that. One that
// was signed already is covered.
func (p *Payer) Covers(m Proposal, own Own) bool {
	return m.compare(&p.state.last.Receipt) <= 0 || p.allowed.covers(m.List, own)
}

// Missing is what would have to be reserved in addition for a proposal to be
// signed. It is nothing for one that would not be signed even then.
func (p *Payer) Missing(m Proposal, reserved sdk.ATP, own Own, now time.Time) sdk.ATP {
	last := &p.state.last
	if m.compare(&last.Receipt) <= 0 || m.Amount > MaxAmount || m.Amount-last.Amount <= reserved ||
		p.authentic(&m) != nil || p.judge(&m, MaxAmount, own, now) != nil {
		return 0
	}
	return m.Amount - last.Amount - reserved
}

// authentic says why a proposal is not one of the payee to this payer.
func (p *Payer) authentic(m *Proposal) error {
	if !p.met || !p.terms.Charges {
		return sdk.Errorf(sdk.CodeInvalid, "receipt %d.%d before the terms", m.Epoch, m.Seq)
	}
	if m.Payer != p.Signer.Node() || m.Payee != p.Peer || !m.signedBy(m.Payee, m.PayeeSig) {
		return sdk.Errorf(sdk.CodeDenied, "receipt %d.%d is not of node %s, or its signature does not hold", m.Epoch, m.Seq, p.Peer.Short())
	}
	return nil
}

// caught makes what ends a relation. A proof that is also one against this
// node blocks nobody.
func (p *Payer) caught(a, b Signed) (Step, error) {
	proof := Proof{a, b}
	for _, n := range proof.Cheats() {
		if n == p.Peer {
			a.PayerSig, b.PayerSig = Signature{}, Signature{}
			return Step{Log: Block{p.Peer, Proof{a, b}}, Send: Refusal{sdk.CodeDenied, "two receipts with one number"}}, nil
		}
	}
	return Step{}, sdk.Errorf(sdk.CodeDenied, "receipt %d.%d of node %s is another than the one that was signed", b.Epoch, b.Seq, p.Peer.Short())
}

// Terms are what the payee has said. It is false before it has.
func (p *Payer) Terms() (Terms, bool) { return p.terms, p.met }

// Bound is how much the payee may have done at any time without a signature, as
// far as it is believed.
func (p *Payer) Bound() sdk.ATP { return p.bound(p.RTT) }

func (p *Payer) bound(rtt time.Duration) sdk.ATP {
	interval := min(time.Duration(p.terms.Interval)*time.Millisecond, maxInterval)
	return Bound(min(int(p.terms.Cores), MaxBelieved), interval, rtt)
}

// Granted is the limit that reserved, what the book has set aside, comes to.
func (p *Payer) Granted(reserved sdk.ATP) Grant { return Grant{p.state.last.Amount + reserved} }

// Propose judges a proposal. The one that was signed last is signed again, with
// the same bytes; another with its number is a proof. reserved is what the book
// has set aside for this payee, own what the payer knows itself of the work.
func (p *Payer) Propose(m Proposal, reserved sdk.ATP, own Own, now time.Time) (Step, error) {
	last := &p.state.last
	if err := p.authentic(&m); err != nil {
		return Step{}, err
	}
	if m.compare(&last.Receipt) == 0 {
		if m.Receipt != last.Receipt {
			return p.caught(*last, m.Signed)
		}
		return Step{Send: Countersigned{last.Epoch, last.Seq, last.PayerSig}}, nil
	}
	if err := p.judge(&m, reserved, own, now); err != nil {
		return Step{}, err
	}
	p.allowed.take(m.List, own)
	p.first = false
	s := m.Signed
	s.PayerSig = p.Signer.SignReceipt(s.Receipt.Bytes())
	return Step{Log: Countersign{s, m.List}, Send: Countersigned{s.Epoch, s.Seq, s.PayerSig}}, nil
}

// judge says why a new proposal is not signed.
func (p *Payer) judge(m *Proposal, reserved sdk.ATP, own Own, now time.Time) error {
	last := &p.state.last
	if err := m.follows(&last.Receipt, m.List); err != nil {
		return err
	}
	refuse := func(code sdk.Code, format string, args ...any) error {
		return sdk.Errorf(code, "receipt %d.%d: "+format, append([]any{m.Epoch, m.Seq}, args...)...)
	}
	switch {
	case m.PayerSig != (Signature{}):
		return refuse(sdk.CodeInvalid, "it has the payer's signature already")
	case m.Mesh != p.Mesh:
		return refuse(sdk.CodeDenied, "it is of another mesh")
	case m.Epoch < p.min || m.Epoch > uint64(now.Add(future).UnixMilli()):
		return refuse(sdk.CodeDenied, "epochs begin with %d", p.min)
	case m.Session != p.session && !p.first:
		return refuse(sdk.CodeDenied, "it is of another session")
	case m.Amount-last.Amount > reserved:
		return refuse(sdk.CodeNoATP, "%s for work, %s are reserved", m.Amount-last.Amount, reserved)
	}
	for _, j := range m.List {
		if j.Price > p.MaxPrice || m.Session == p.session && j.Price != p.terms.Price {
			return refuse(sdk.CodeDenied, "price %s was not agreed on", j.Price)
		}
	}
	if !p.allowed.covers(m.List, own) {
		return refuse(sdk.CodeDenied, "%s", p.allowed.why(m.List, own))
	}
	return nil
}

// A Payee is the side that works. It is not safe for concurrent use.
type Payee struct {
	Side
	state   payeeState
	blocked bool
	terms   Terms
	rtt     time.Duration
	epoch   uint64 // of the next receipt; 0 before the hello
	limit   sdk.ATP
	session [32]byte
	from    time.Time // of the next window
}

// NewPayee begins a session with what the book says.
func NewPayee(s Side, t Terms, b *Book) *Payee {
	p := &Payee{Side: s, terms: t}
	p.Refresh(b)
	return p
}

// Refresh takes what the book says now: after each log.
func (p *Payee) Refresh(b *Book) {
	r := b.relation(p.Peer)
	p.state, p.blocked = r.payee, r.blocked
}

// SetRTT says how long a message takes there and back.
func (p *Payee) SetRTT(d time.Duration) { p.rtt = d }

// Hello takes the payer's first message. A step without an answer is followed
// by another Hello with the same message, when it is logged.
func (p *Payee) Hello(h Hello, now time.Time) (Step, error) {
	last := &p.state.last
	switch {
	case p.blocked:
		return Step{}, errBlocked(p.Peer)
	case h.MinEpoch > uint64(now.Add(future).UnixMilli()):
		return Step{}, sdk.Errorf(sdk.CodeInvalid, "hello of node %s: epoch %d is of the future", p.Peer.Short(), h.MinEpoch)
	}
	if h.Last != (Signed{}) {
		if err := ours(&h.Last, p.Peer, p.Signer.Node()); err != nil {
			return Step{}, err
		}
		switch c := h.Last.compare(&last.Receipt); {
		case c > 0 && p.state.pending != nil && p.state.pending.Receipt == h.Last.Receipt:
			return Step{Log: Settle{h.Last}}, nil
		case c > 0:
			return Step{Log: Adopt{h.Last, max(uint64(now.UnixMilli()), h.Last.Epoch+1)}}, nil
		case c == 0 && h.Last.Receipt != last.Receipt:
			return Step{}, sdk.Errorf(sdk.CodeDenied, "receipt %d.%d of node %s is another than the one that was settled", last.Epoch, last.Seq, p.Peer.Short())
		}
	}
	if p.epoch = last.Epoch; p.state.pending != nil {
		p.epoch = p.state.pending.Epoch
	}
	if least := max(h.MinEpoch, p.state.minEpoch); p.epoch == 0 || p.epoch < least {
		p.epoch = max(uint64(now.UnixMilli()), least, p.epoch+1)
	}
	p.session, p.from, p.limit = session(h.Nonce, p.Nonce), now, 0
	return Step{Send: Welcome{Terms: p.terms, Nonce: p.Nonce, Epoch: p.epoch, Last: *last}}, nil
}

// Grant takes what the payer has reserved. It may fall when it was paid back.
func (p *Payee) Grant(g Grant) { p.limit = g.Limit }

// Resend makes the proposal that waits for a signature: the same bytes, or, in
// a new epoch, the same work. That is a record, and a payer that signs nothing can
// ask for new epochs as often as it likes: in five seconds there is one at most, and
// nothing to send before. Then it is to be asked again.
func (p *Payee) Resend(now time.Time) (Step, error) {
	o := p.state.pending
	switch {
	case p.epoch == 0 || o == nil:
		return Step{}, nil
	case o.Epoch == p.epoch:
		return Step{Send: Proposal{o.Signed, o.List}}, nil
	case uint64(now.UnixMilli()) < o.To+uint64(epochEvery.Milliseconds()): // To is this node's own
		return Step{}, nil
	}
	return p.propose(o.List, now)
}

// Propose makes a proposal of work that was done. Without a session, or while
// one waits for its signature, there is none; jobs beyond [Fit] wait.
func (p *Payee) Propose(jobs []Job, now time.Time) (Step, error) {
	if p.epoch == 0 || p.state.pending != nil || len(jobs) == 0 {
		return Step{}, nil
	}
	return p.propose(jobs, now)
}

func (p *Payee) propose(jobs []Job, now time.Time) (Step, error) {
	last := &p.state.last
	s, err := sum(jobs)
	if err != nil {
		return Step{}, err
	}
	r := Receipt{
		Mesh: p.Mesh, Payer: p.Peer, Payee: p.Signer.Node(), Epoch: p.epoch, Seq: last.Seq + 1,
		CPU: last.CPU + s.CPU, Amount: last.Amount + s.Amount, Calls: last.Calls + s.Calls, Jobs: Root(jobs),
		From: uint64(p.from.UnixMilli()), To: uint64(now.UnixMilli()), Session: p.session, Prev: last.Hash(),
	}
	if p.epoch > last.Epoch {
		r.Seq = 1
	}
	p.from = now
	signed := Signed{Receipt: r, PayeeSig: p.Signer.SignReceipt(r.Bytes())}
	return Step{Log: Propose{signed, jobs}, Send: Proposal{signed, jobs}}, nil
}

// Countersigned takes the payer's signature. One that is settled is nothing new.
func (p *Payee) Countersigned(c Countersigned) (Step, error) {
	o := p.state.pending
	if o == nil || c.Epoch != o.Epoch || c.Seq != o.Seq {
		if c.Epoch == p.state.last.Epoch && c.Seq == p.state.last.Seq && c.Sig == p.state.last.PayerSig {
			return Step{}, nil
		}
		return Step{}, sdk.Errorf(sdk.CodeInvalid, "signature of receipt %d.%d, which nobody asked for", c.Epoch, c.Seq)
	}
	s := o.Signed
	s.PayerSig = c.Sig
	if !s.signedBy(s.Payer, s.PayerSig) {
		return Step{}, sdk.Errorf(sdk.CodeDenied, "signature of receipt %d.%d does not hold", c.Epoch, c.Seq)
	}
	return Step{Log: Settle{s}}, nil
}

// Waiting reports whether a proposal waits for its signature.
func (p *Payee) Waiting() bool { return p.state.pending != nil }

// Bound is how much work is done at most without a signature, as an amount.
func (p *Payee) Bound() sdk.ATP {
	return p.terms.Price.Of(Bound(int(p.terms.Cores), time.Duration(p.terms.Interval)*time.Millisecond, p.rtt))
}

// Room is how much CPU time may still be used for the payer now, where open is
// the price of what was done and is not proposed yet: within the bound, within
// what it has reserved, and within its credit. owed is what it owes already.
func (p *Payee) Room(open, owed, credit sdk.ATP) sdk.ATP {
	if p.epoch == 0 || p.blocked {
		return 0
	}
	open += p.state.waiting()
	// Meters are behind what they measure, and cells stop when they notice: a
	// tenth of the bound is left for that.
	bound := p.Bound()
	left := min(bound-bound/10-open, p.limit-p.state.last.Amount-open, credit-owed-open)
	if left <= 0 {
		return 0
	}
	if p.terms.Price == 0 {
		return Bound(int(p.terms.Cores), time.Duration(p.terms.Interval)*time.Millisecond, p.rtt)
	}
	return p.terms.Price.Buys(left)
}
