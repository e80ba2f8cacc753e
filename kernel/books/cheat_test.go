package books_test

import (
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

// greeted returns both sides behind hello, welcome and grant.
func greeted(t *testing.T, client, donor *party) *meeting {
	t.Helper()
	m := meet(client, donor, &[][]books.Job{}, 1)
	if err := m.run(t); err != nil {
		t.Fatal(err)
	}
	return m
}

// exposure is the bound of DESIGN.md, section 9, worked out here: max(10 ATP,
// cores × 10 ATP/s × (receipt interval + 2 round trips + 50 ms)). 1 ATP is 100 000.
func exposure(cores int, interval, rtt time.Duration) sdk.ATP {
	seconds := interval.Seconds() + 2*rtt.Seconds() + 0.050
	return max(10*100_000, sdk.ATP(float64(cores)*10*seconds*100_000))
}

// A payer that signs nothing gets as much work as the bound, whatever else it
// does, also over many sessions and restarts of the donor. What it got is what
// the donor's cells did, which do all that they are let do.
func TestNonSigner(t *testing.T) {
	const interval = 100 * time.Millisecond
	for _, x := range []struct {
		cores int
		rtt   time.Duration
	}{{2, 20 * time.Millisecond}, {16, 100 * time.Millisecond}, {64, 0}} {
		client, donor := newParty(t, "client"), newParty(t, "donor")
		said := terms
		said.Cores = uint16(x.cores)
		did, open := sdk.ATP(0), sdk.ATP(0) // by the cells; of that not proposed yet
		for n := range byte(100) {
			donor.restart(t)
			payee := books.NewPayee(side(donor, client, n), said, donor.book)
			payee.SetRTT(x.rtt)
			if _, err := payee.Hello(books.Hello{MinEpoch: uint64(donor.now.UnixMilli()), Nonce: [32]byte{n}}, donor.now); err != nil {
				t.Fatal(err)
			}
			payee.Grant(books.Grant{Limit: books.MaxAmount})
			for range 10 { // intervals, in which cells work on all cores
				lease := payee.Room(open, 0, said.Credit)
				w := min(lease, sdk.ATP(x.cores)*sdk.ATP(interval.Microseconds()))
				did, open = did+w, open+w
				s, err := payee.Resend(donor.now)
				if err == nil && s == (books.Step{}) && open > 0 {
					s, err = payee.Propose(work(open), donor.now)
					open = 0
				}
				if err != nil {
					t.Fatal(err)
				}
				if s.Log != nil {
					donor.must(t, s.Log)
				}
				payee.Refresh(donor.book)
				donor.now = donor.now.Add(interval)
			}
			donor.now = donor.now.Add(time.Minute)
		}
		bound := exposure(x.cores, interval, x.rtt)
		t.Logf("%d cores, round trip %s: a payer that signs nothing took %s, the bound is %s", x.cores, x.rtt, did, bound)
		if did > bound || did < bound/10 {
			t.Errorf("%d cores: took %s: the bound is %s", x.cores, did, bound)
		}
		if claimed := donor.book.Peer(client.Node()).Claimed; claimed+open != did {
			t.Errorf("%s are claimed of it and %s open, want %s", claimed, open, did)
		}
	}
}

// A payer that signs nothing, and says in each of its sessions that it has lost
// its book again, has the donor write one record in five seconds, not one each.
func TestEpochsAreFew(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	begun := donor.now
	records := donor.book.Head().Seq
	const sessions = 3000
	for n := range sessions {
		donor.now = donor.now.Add(20 * time.Millisecond)
		payee := books.NewPayee(side(donor, client, byte(n)), terms, donor.book)
		if _, err := payee.Hello(books.Hello{MinEpoch: uint64(donor.now.UnixMilli()), Nonce: [32]byte{byte(n)}}, donor.now); err != nil {
			t.Fatal(err)
		}
		payee.Grant(books.Grant{Limit: books.MaxAmount})
		s, err := payee.Resend(donor.now)
		if err == nil && s == (books.Step{}) {
			s, err = payee.Propose(work(50_000), donor.now)
		}
		if err != nil {
			t.Fatal(err)
		}
		if s.Log != nil {
			donor.must(t, s.Log)
		}
	}
	wrote, most := donor.book.Head().Seq-records, uint64(donor.now.Sub(begun)/(5*time.Second))+1
	t.Logf("in %d sessions and %s it had %d records written, the bound is %d", sessions, donor.now.Sub(begun), wrote, most)
	if wrote > most || wrote < 2 {
		t.Errorf("%d records, the bound is %d", wrote, most)
	}
}

// An overClaimer is a payee that claims whatever it can, and halves it until it
// is signed.
type overClaimer struct{ *meeting }

// took is what the client's book says, of every record once more.
func (o *overClaimer) took(t *testing.T) sdk.ATP {
	t.Helper()
	o.client.restart(t)
	return o.client.book.Peer(o.donor.Node()).Spent
}

// claim asks for jobs, and reports whether that was signed.
func (o *overClaimer) claim(t *testing.T, jobs []books.Job) bool {
	t.Helper()
	s, err := o.payee.Propose(jobs, o.donor.now)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Send.(books.Proposal)
	covered := o.payer.Covers(p, o.own)
	more := o.payer.Missing(p, o.reserved(), o.own, o.client.now)
	if more > 0 {
		o.client.must(t, books.Reserve{Peer: o.donor.Node(), Amount: more, Limit: books.MaxAmount})
	}
	signed, err := o.payer.Propose(p, o.reserved(), o.own, o.client.now)
	if (err == nil) != covered {
		t.Fatalf("covered is %v, and it is signed, or not: %v", covered, err)
	}
	if err != nil {
		return false
	}
	o.donor.must(t, s.Log)
	o.client.must(t, signed.Log)
	o.payee.Refresh(o.donor.book)
	o.payer.Refresh(o.client.book)
	settled, err := o.payee.Countersigned(signed.Send.(books.Countersigned))
	if err != nil {
		t.Fatal(err)
	}
	o.donor.must(t, settled.Log)
	o.payee.Refresh(o.donor.book)
	return true
}

// grab claims as much as it gets, for jobs of such cells.
func (o *overClaimer) grab(t *testing.T, from, cell sdk.CellName) {
	t.Helper()
	for claim := sdk.ATP(1 << 36); claim > 100; claim /= 2 {
		j := work(claim)
		j[0].From, j[0].Cell = from, cell
		o.claim(t, j)
	}
}

// A payee that claims more than it did gets at most what the cores it says it
// has, as far as it is believed, could have done while a call was in flight; and
// Least, once. From who calls nothing it gets nothing; and nothing for cells that
// were not called.
func TestOverClaimer(t *testing.T) {
	for _, cores := range []uint16{2, books.MaxCores, 65535} {
		client, donor := newParty(t, "client"), newParty(t, "donor")
		says := terms
		says.Cores = cores
		o := &overClaimer{meeting: meet(client, donor, &[][]books.Job{}, 1)}
		o.payee = books.NewPayee(side(donor, client, 2), says, donor.book)
		if err := o.run(t); err != nil {
			t.Fatal(err)
		}
		o.own = books.Own{}
		o.grab(t, "asker", "worker")
		if took := o.took(t); took != 0 {
			t.Errorf("%d cores: it took %s of an idle payer", cores, took)
		}
		o.own = calling(0)
		o.grab(t, "asker", "other")
		o.grab(t, "other", "worker")
		if took := o.took(t); took != 0 {
			t.Errorf("%d cores: it took %s for what was not called", cores, took)
		}
		const busy = 300 * time.Millisecond
		for range 100 { // ten seconds, three of them in calls
			client.now, donor.now = client.now.Add(100*time.Millisecond), donor.now.Add(100*time.Millisecond)
			o.own.Busy += busy / 10
			o.grab(t, "asker", "worker")
		}
		// docs/billing.md: at most 256 cores × the time in flight × 1.02, and 10 ATP.
		took := o.took(t)
		bound := 10*100_000 + sdk.ATP(float64(min(cores, 256))*o.own.Busy.Seconds()*1e6*1.02)
		t.Logf("an over-claimer with %d cores took %s during %s of calls in 10 s, the bound is %s", cores, took, o.own.Busy, bound)
		if took > bound || took < bound*9/10 {
			t.Errorf("%d cores: took %s, the bound is %s", cores, took, bound)
		}
		agree(t, client, donor, took)
	}
}

// What was in flight before a payee was forgotten is not allowed once more when it
// is called again, nor are its old calls a new first one.
func TestAllowanceBeginsAnew(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	before := calling(20 * time.Second)
	allowed := books.NewAllowance(before, true)
	o := &overClaimer{meeting: meet(client, donor, &[][]books.Job{}, 1)}
	o.payer = books.NewPayer(side(client, donor, 1), client.book, &allowed)
	if err := o.run(t); err != nil {
		t.Fatal(err)
	}
	o.own = before
	o.grab(t, "asker", "worker")
	if took := o.took(t); took != 0 {
		t.Errorf("it took %s for what was before", took)
	}
	o.own = calling(21 * time.Second)
	for p := range o.own.Calls {
		o.own.Calls[p]++
	}
	o.grab(t, "asker", "worker")
	bound := 10*100_000 + sdk.ATP(float64(terms.Cores)*1e6*1.02)
	if took := o.took(t); took > bound || took < bound*9/10 {
		t.Errorf("it took %s for a second of calls, the bound is %s", took, bound)
	}
}

// Nothing is reserved for a proposal that would not be signed: one without a
// signature, or whose sum is not that of its list.
func TestNothingIsReservedForAForgery(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	o := &overClaimer{meeting: meet(client, donor, &[][]books.Job{}, 1)}
	if err := o.run(t); err != nil {
		t.Fatal(err)
	}
	o.own = calling(time.Hour)
	s, err := o.payee.Propose(work(40*sdk.OneATP), donor.now)
	if err != nil {
		t.Fatal(err)
	}
	good := s.Send.(books.Proposal)
	if o.payer.Missing(good, 0, o.own, client.now) != 40*sdk.OneATP {
		t.Errorf("of a good one %s are missing", o.payer.Missing(good, 0, o.own, client.now))
	}
	unsigned, empty := good, good
	unsigned.PayeeSig = books.Signature{}
	empty.List, empty.Amount = nil, 36_000*sdk.OneATP
	empty.PayeeSig = donor.SignReceipt(empty.Receipt.Bytes())
	for name, p := range map[string]books.Proposal{"without a signature": unsigned, "without a job": empty} {
		if more := o.payer.Missing(p, 0, o.own, client.now); more != 0 {
			t.Errorf("%s: %s would be reserved", name, more)
		}
	}
}

// What a payee has done for an earlier life of the payer's kernel is signed on
// trust, once, up to the bound: not with each session.
func TestClaimOfALifeBefore(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	allowed := &books.Allowance{Before: true}
	took := sdk.ATP(0)
	for n := byte(1); n < 20; n += 2 {
		o := &overClaimer{meeting: meet(client, donor, &[][]books.Job{}, n)}
		o.payer = books.NewPayer(side(client, donor, n), client.book, allowed)
		if err := o.run(t); err != nil {
			t.Fatal(err)
		}
		o.own = books.Own{}
		o.grab(t, "asker", "worker")
		took = o.took(t)
	}
	bound := exposure(int(terms.Cores), 100*time.Millisecond, 250*time.Millisecond)
	t.Logf("over ten sessions it took %s on trust, the bound is %s", took, bound)
	if took > bound || took < bound*9/10 {
		t.Errorf("took %s, the bound is %s", took, bound)
	}
}

// A payee that signs two receipts with one number is caught by the second,
// takes nothing by it, and is blocked. The proof convinces a stranger.
func TestEquivocator(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	todo := [][]books.Job{work(50_000)}
	m := meet(client, donor, &todo, 1)
	if err := m.run(t); err != nil {
		t.Fatal(err)
	}
	before := client.book.Peer(donor.Node())
	other := before.Paid
	other.To++
	other.PayeeSig, other.PayerSig = donor.SignReceipt(other.Receipt.Bytes()), books.Signature{}
	s, err := m.payer.Propose(books.Proposal{Signed: other, List: work(50_000)}, m.reserved(), m.own, client.now)
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := s.Send.(books.Refusal); !ok || m.Code != sdk.CodeDenied {
		t.Fatalf("the answer is %#v", s.Send)
	}
	client.must(t, s.Log)
	block := s.Log.(books.Block)
	proof, err := books.ParseProof(block.Proof.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if who := proof.Cheats(); len(who) != 1 || who[0] != donor.Node() {
		t.Fatalf("the proof is against %v", who)
	}
	after := client.book.Peer(donor.Node())
	t.Logf("an equivocator took %s, the bound is 0 ATP", after.Spent-before.Spent)
	if after.Spent != before.Spent || after.Reserved != 0 || !after.Blocked {
		t.Errorf("behind it: %+v", after)
	}
	client.restart(t)
	if _, err := books.NewPayer(side(client, donor, 9), client.book, &books.Allowance{}).Hello(client.now); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a new session: %v", err)
	}
	if err := client.log(t, books.Reserve{Peer: donor.Node(), Amount: 1, Limit: 100}); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("a new reservation: %v", err)
	}
}

// Receipts that were settled are proposed again, all of them, in this session
// and in a new one. None is paid twice.
func TestReplayer(t *testing.T) {
	client, donor := newParty(t, "client"), newParty(t, "donor")
	todo := [][]books.Job{work(50_000), work(7), work(900)}
	m := meet(client, donor, &todo, 1)
	if err := m.run(t); err != nil {
		t.Fatal(err)
	}
	before := client.book.Peer(donor.Node()).Spent
	var old []books.Proposal
	for _, r := range donor.ledger.records {
		if op, err := books.ParseBody(r.Body); err == nil {
			if p, ok := op.(books.Propose); ok {
				old = append(old, books.Proposal(p))
			}
		}
	}
	for n := byte(3); n < 6; n++ {
		again := meet(client, donor, &[][]books.Job{}, n)
		if err := again.run(t); err != nil {
			t.Fatal(err)
		}
		for i, p := range old {
			for _, m := range []*meeting{m, again} {
				s, err := m.payer.Propose(p, m.reserved(), m.own, client.now)
				if s.Log != nil || i < len(old)-1 && err == nil {
					t.Fatalf("receipt %d once more: %+v, %v", i, s, err)
				}
			}
		}
	}
	took := client.book.Peer(donor.Node()).Spent - before
	t.Logf("a replayer took %s, the bound is 0 ATP", took)
	if took != 0 || len(old) != 3 {
		t.Errorf("took %s with %d receipts", took, len(old))
	}
}

// Signatures of others, and receipts that were changed in any field, are worth
// nothing to either side.
func TestForgeries(t *testing.T) {
	client, donor, stranger := newParty(t, "client"), newParty(t, "donor"), newParty(t, "stranger")
	m := greeted(t, client, donor)
	s, err := m.payee.Propose(work(50_000), donor.now)
	if err != nil {
		t.Fatal(err)
	}
	good := s.Send.(books.Proposal)
	for name, change := range map[string]func(*books.Proposal){
		"mesh":    func(p *books.Proposal) { p.Mesh[0]++ },
		"payer":   func(p *books.Proposal) { p.Payer = stranger.Node() },
		"payee":   func(p *books.Proposal) { p.Payee = stranger.Node() },
		"epoch":   func(p *books.Proposal) { p.Epoch-- },
		"future":  func(p *books.Proposal) { p.Epoch += 1 << 40 },
		"number":  func(p *books.Proposal) { p.Seq++ },
		"cpu":     func(p *books.Proposal) { p.CPU++ },
		"amount":  func(p *books.Proposal) { p.Amount++ },
		"calls":   func(p *books.Proposal) { p.Calls++ },
		"jobs":    func(p *books.Proposal) { p.List = work(50_001) },
		"root":    func(p *books.Proposal) { p.Jobs[0]++ },
		"before":  func(p *books.Proposal) { p.Prev[0]++ },
		"price":   func(p *books.Proposal) { p.List = []books.Job{books.NewJob(p.List[0], 2*books.PriceOne)} },
		"nothing": func(p *books.Proposal) { p.List = nil },
	} {
		for _, resigned := range []bool{false, true} {
			p := good
			change(&p)
			if resigned {
				p.PayeeSig = donor.SignReceipt(p.Receipt.Bytes())
			}
			if step, err := m.payer.Propose(p, m.reserved(), m.own, client.now); err == nil {
				t.Errorf("%s, resigned %v: signed: %+v", name, resigned, step)
			}
		}
	}
	forged := good
	forged.PayeeSig = stranger.SignReceipt(good.Receipt.Bytes())
	if _, err := m.payer.Propose(forged, m.reserved(), m.own, client.now); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("signed by a stranger: %v", err)
	}
	donor.must(t, s.Log)
	m.payee.Refresh(donor.book)
	if _, err := m.payee.Countersigned(books.Countersigned{Epoch: good.Epoch, Seq: good.Seq, Sig: stranger.SignReceipt(good.Receipt.Bytes())}); sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("countersigned by a stranger: %v", err)
	}
	if _, err := m.payer.Propose(good, m.reserved(), m.own, client.now); err != nil {
		t.Errorf("the good one: %v", err)
	}
}
