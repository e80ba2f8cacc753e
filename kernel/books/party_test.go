package books_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

var mesh = sha256.Sum256([]byte("a mesh"))

// A key signs as a node does.
type key struct{ ed25519.PrivateKey }

func newKey(name string) key {
	seed := sha256.Sum256([]byte(name))
	return key{ed25519.NewKeyFromSeed(seed[:])}
}

func (k key) Node() sdk.NodeID { return sdk.FormatNodeID(k.Public().(ed25519.PublicKey)) }

func (k key) SignReceipt(b []byte) [64]byte {
	return [64]byte(ed25519.Sign(k.PrivateKey, append([]byte(books.Statement), b...)))
}

var errCrash = errors.New("crash")

// A party is a node with a book on a ledger that survives it.
type party struct {
	key
	now    time.Time
	ledger *memory
	book   *books.Book
	ids    uint64
	steps  int
	crash  int // the step at which it crashes next; 0 never
}

func newParty(t testing.TB, name string) *party {
	t.Helper()
	p := &party{key: newKey(name), now: time.UnixMilli(1_700_000_000_000), ledger: newMemory()}
	if _, err := p.ledger.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.restart(t)
	return p
}

func (p *party) restart(t testing.TB) {
	t.Helper()
	var err error
	if p.book, err = books.Load(t.Context(), p.ledger, p.Node()); err != nil {
		t.Fatal(err)
	}
}

// tick is one place where it may crash.
func (p *party) tick() error {
	if p.steps++; p.steps == p.crash {
		return errCrash
	}
	return nil
}

func (p *party) log(t testing.TB, op books.Op) error {
	t.Helper()
	p.ids++
	var random [10]byte
	copy(random[:], fmt.Sprintf("%010d", p.ids))
	before := p.book.Head()
	rec, _, err := p.book.Make(p.now, books.NewID(p.now, random), op)
	if err != nil || rec == nil {
		return err
	}
	if _, err := p.ledger.Append(t.Context(), before, []sdk.Record{*rec}); err != nil {
		t.Fatal(err)
	}
	return nil
}

func (p *party) must(t testing.TB, op books.Op) {
	t.Helper()
	if err := p.log(t, op); err != nil {
		t.Fatal(err)
	}
}

// do carries out a step, with a place to crash before and behind each part.
func (p *party) do(t testing.TB, s books.Step, refresh func(*books.Book), send *[]books.Message) error {
	t.Helper()
	if err := p.tick(); err != nil {
		return err
	}
	if s.Log != nil {
		if err := p.log(t, s.Log); err != nil {
			return err
		}
		if err := p.tick(); err != nil {
			return err
		}
	}
	refresh(p.book)
	if s.Send == nil {
		return nil
	}
	m, err := books.ParseMessage(books.Encode(s.Send)) // as it goes over a link
	if err != nil {
		t.Fatal(err)
	}
	*send = append(*send, m)
	return p.tick()
}

func work(cpu sdk.ATP) []books.Job {
	return []books.Job{books.NewJob(books.Job{From: "asker", Cell: "worker", Method: "Work.Do", Calls: 3, CPU: cpu, Source: "cgroup2"}, books.PriceOne)}
}

func side(self, other *party, nonce byte) books.Side {
	return books.Side{Mesh: mesh, Peer: other.Node(), Signer: self.key, Nonce: [32]byte{nonce}}
}

var terms = books.Terms{Charges: true, Price: books.PriceOne, Cores: 2, Interval: 100, Credit: 36_000 * sdk.OneATP}

// A meeting is one session of two parties. Work is what is to be billed: the
// first of it goes away when a proposal of it is in the book.
type meeting struct {
	client, donor *party
	payer         *books.Payer
	payee         *books.Payee
	toPayer       []books.Message
	toPayee       []books.Message
	todo          *[][]books.Job
	own           books.Own // what the client's cells have counted
}

// calling is what cells have counted that called for so long.
func calling(busy time.Duration) books.Own {
	return books.Own{Busy: busy, Calls: map[books.Pair]uint64{{From: "asker", Cell: "worker"}: 1}}
}

func meet(client, donor *party, todo *[][]books.Job, nonce byte) *meeting {
	return &meeting{
		client: client, donor: donor, todo: todo, own: calling(time.Minute),
		payer: books.NewPayer(side(client, donor, nonce), client.book, &books.Allowance{}), payee: books.NewPayee(side(donor, client, nonce+1), terms, donor.book),
	}
}

// run goes on until there is nothing left to say, or somebody crashes. What was
// sent before arrives.
func (m *meeting) run(t testing.TB) error {
	t.Helper()
	first, err := m.payer.Hello(m.client.now)
	if err == nil {
		err = m.client.do(t, first, m.payer.Refresh, &m.toPayee)
	}
	var down error
	for (len(m.toPayer) > 0 || len(m.toPayee) > 0) && !(err != nil && down != nil) {
		if len(m.toPayee) > 0 {
			msg := m.toPayee[0]
			if m.toPayee = m.toPayee[1:]; down == nil {
				down = m.atDonor(t, msg)
			}
		}
		if len(m.toPayer) > 0 {
			msg := m.toPayer[0]
			if m.toPayer = m.toPayer[1:]; err == nil {
				err = m.atClient(t, msg)
			}
		}
	}
	return errors.Join(err, down)
}

func (m *meeting) atDonor(t testing.TB, msg books.Message) error {
	t.Helper()
	var s books.Step
	var err error
	switch msg := msg.(type) {
	case books.Hello:
		for range 3 {
			if s, err = m.payee.Hello(msg, m.donor.now); err != nil {
				return err
			}
			if err = m.donor.do(t, s, m.payee.Refresh, &m.toPayer); err != nil || s.Send != nil {
				return err
			}
		}
		return errors.New("no welcome")
	case books.Grant:
		m.payee.Grant(msg)
		s, err = m.payee.Resend(m.donor.now)
	case books.Countersigned:
		s, err = m.payee.Countersigned(msg)
	default:
		return fmt.Errorf("the payer said %T", msg)
	}
	if err == nil {
		err = m.donor.do(t, s, m.payee.Refresh, &m.toPayer)
	}
	if err != nil || m.payee.Waiting() || len(*m.todo) == 0 {
		return err
	}
	return m.propose(t)
}

// propose bills the first of what is to be billed.
func (m *meeting) propose(t testing.TB) error {
	t.Helper()
	s, err := m.payee.Propose((*m.todo)[0], m.donor.now)
	if err != nil {
		return err
	}
	before := m.donor.book.Head()
	err = m.donor.do(t, s, m.payee.Refresh, &m.toPayer)
	if m.donor.book.Head() != before {
		*m.todo = (*m.todo)[1:]
	}
	return err
}

func (m *meeting) atClient(t testing.TB, msg books.Message) error {
	t.Helper()
	switch msg := msg.(type) {
	case books.Welcome:
		s, err := m.payer.Welcome(msg, m.client.now)
		if err != nil {
			return err
		}
		if err := m.client.do(t, s, m.payer.Refresh, &m.toPayee); err != nil {
			return err
		}
		if s.Log != nil { // adopted: once more
			again, err := m.payer.Hello(m.client.now)
			if err != nil {
				return err
			}
			return m.client.do(t, again, m.payer.Refresh, &m.toPayee)
		}
		if m.reserved() < 20*sdk.OneATP {
			if err := m.client.do(t, books.Step{Log: books.Reserve{Peer: m.donor.Node(), Amount: 20 * sdk.OneATP, Limit: 1000 * sdk.OneATP}}, m.payer.Refresh, &m.toPayee); err != nil {
				return err
			}
		}
		return m.client.do(t, books.Step{Send: m.payer.Granted(m.reserved())}, m.payer.Refresh, &m.toPayee)
	case books.Proposal:
		s, err := m.payer.Propose(msg, m.reserved(), m.own, m.client.now)
		if err != nil {
			return err
		}
		return m.client.do(t, s, m.payer.Refresh, &m.toPayee)
	}
	return fmt.Errorf("the payee said %T", msg)
}

func (m *meeting) reserved() sdk.ATP { return m.client.book.Peer(m.donor.Node()).Reserved }

// agree checks that both books say the same, and that it is want.
func agree(t testing.TB, client, donor *party, want sdk.ATP) {
	t.Helper()
	for _, p := range []*party{client, donor} {
		if err := p.book.Check(); err != nil {
			t.Fatal(err)
		}
	}
	spent, earned := client.book.Peer(donor.Node()).Spent, donor.book.Peer(client.Node()).Earned
	if spent != earned || spent != want {
		t.Fatalf("spent %s, earned %s, want %s", spent, earned, want)
	}
	if v := donor.book.Peer(client.Node()).Claimed; v != 0 {
		t.Fatalf("%s are claimed still", v)
	}
}
