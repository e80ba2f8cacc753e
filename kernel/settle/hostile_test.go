package settle_test

import (
	"crypto/sha256"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/sdk"
)

// A thief is a donor that has no book, no cells and no meter: it speaks the
// protocol as far as it gets money by it. What it asks for is halved by each
// refusal, and doubled by each signature.
type thief struct {
	key
	cores    uint16
	interval uint16

	mu       sync.Mutex   // guards all below; a session gives it up where it waits
	cell     sdk.CellName // that it says was called
	last     books.Signed // signed by both
	ask      sdk.ATP
	sessions int
	refused  string
}

// serve holds one session.
func (f *thief) serve(p *pipe) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions++
	m, err := f.hear(p)
	if err != nil {
		return err
	}
	hello := m.(books.Hello)
	w := books.Welcome{
		Terms: books.Terms{Charges: true, Price: books.PriceOne, Cores: f.cores, Interval: f.interval, Credit: books.MaxAmount},
		Nonce: sha256.Sum256([]byte{byte(f.sessions)}), Epoch: max(hello.MinEpoch, uint64(time.Now().UnixMilli()), f.last.Epoch), Last: f.last,
	}
	if f.last.Epoch > 0 {
		w.Epoch = f.last.Epoch
	}
	session := sha256.Sum256(append(append([]byte("cellkernel/receipt/session/v1\x00"), hello.Nonce[:]...), w.Nonce[:]...))
	if err := f.say(p, w); err != nil {
		return err
	}
	for {
		m, err := f.hear(p)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case books.Grant:
			if m.Limit < f.last.Receipt.Amount {
				continue
			}
		case books.Countersigned:
			continue // it was taken when it came
		case books.Refusal:
			f.refused = m.Text
			return nil
		}
		if err := f.claims(p, w.Epoch, session); err != nil {
			return err
		}
	}
}

// claims asks until it is refused.
func (f *thief) claims(p *pipe, epoch uint64, session [32]byte) error {
	for {
		f.pause(func() { time.Sleep(10 * time.Millisecond) })
		jobs := []books.Job{books.NewJob(books.Job{From: "asker", Cell: f.cell, Method: "Work.Do", Calls: 1, CPU: f.ask, Source: "none"}, books.PriceOne)}
		r := books.Receipt{
			Mesh: [32]byte{7}, Payer: p.peer, Payee: f.Node(), Epoch: epoch, Seq: f.last.Seq + 1, CPU: f.last.CPU + f.ask,
			Amount: f.last.Receipt.Amount + f.ask, Calls: f.last.Calls + 1, Jobs: books.Root(jobs),
			To: uint64(time.Now().UnixMilli()), Session: session, Prev: f.last.Hash(),
		}
		s := books.Signed{Receipt: r, PayeeSig: f.SignReceipt(r.Bytes())}
		if err := f.say(p, books.Proposal{Signed: s, List: jobs}); err != nil {
			return err
		}
		m, err := f.hear(p)
		for ; err == nil; m, err = f.hear(p) {
			if _, granted := m.(books.Grant); !granted {
				break
			}
		}
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case books.Countersigned:
			s.PayerSig = m.Sig
			f.last, f.ask = s, min(2*f.ask, 1<<40)
		case books.Refusal:
			f.ask, f.refused = max(f.ask/2, 1), m.Text
			return nil
		}
	}
}

// pause waits for something. The caller holds mu before and after.
func (f *thief) pause(wait func()) {
	f.mu.Unlock()
	defer f.mu.Lock()
	wait()
}

func (f *thief) say(p *pipe, m books.Message) (err error) {
	f.pause(func() { err = p.Send(&node.Slip{Body: books.Encode(m)}) })
	return err
}

func (f *thief) hear(p *pipe) (books.Message, error) {
	var in *node.Slip
	var err error
	f.pause(func() { in, err = p.Recv() })
	if err != nil {
		return nil, err
	}
	return books.ParseMessage(in.Body)
}

// wants changes what it asks for next.
func (f *thief) wants(cell sdk.CellName, cpu sdk.ATP) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cell, f.ask = cell, cpu
}

// rob has a client in a bubble of its own time meet a thief, and f do what the
// client does. The client's cells have links to the thief all the time.
func rob(t *testing.T, cores uint16, f func(t *testing.T, c *host, of *thief)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		c := newHost(t, n, "client", settle.Options{Debt: books.MaxAmount / 2})
		of := &thief{key: newKey("thief"), cores: cores, interval: 65535, cell: asked.Cell, ask: 1 << 40}
		n.thief, c.linked = of, true
		c.start()
		f(t, c, of)
		c.end()
		n.wg.Wait()
		if of.sessions == 0 {
			t.Error("it was never called")
		}
	})
}

// visit has a cell of the client call the thief for so long of every second.
func visit(t *testing.T, c *host, of *thief, seconds int, each time.Duration) {
	t.Helper()
	for range seconds {
		err := c.settle.Ensure(t.Context(), of.Node(), "")
		if each > 0 && err == nil {
			c.calls.during(asked, func() { time.Sleep(each) })
		}
		time.Sleep(time.Second - each)
	}
}

func stolen(c *host, of *thief) sdk.ATP { return c.with(&host{key: of.key}).Spent }

// A donor that says it has 4 096 cores gets nothing from a client whose cells
// have links to it and call nothing, however long and in however many sessions;
// and the client says why.
func TestIdleClientPaysNothing(t *testing.T) {
	rob(t, books.MaxCores, func(t *testing.T, c *host, of *thief) {
		visit(t, c, of, 1200, 0)
		took := stolen(c, of)
		of.mu.Lock()
		defer of.mu.Unlock()
		t.Logf("of an idle client it took %s in 20 min and %d sessions, the bound is 0 ATP; it was told %q", took, of.sessions, of.refused)
		if took != 0 || of.sessions < 10 {
			t.Errorf("took %s in %d sessions", took, of.sessions)
		}
		if p := c.with(&host{key: of.key}); !strings.Contains(p.Refused, "asker has not called worker there") || !strings.Contains(of.refused, "has not called") {
			t.Errorf("why: %q here, %q there", p.Refused, of.refused)
		}
		if set := c.wallet().Reserved; set > 2*books.Bound(books.MaxBelieved, 250*time.Millisecond, 250*time.Millisecond) {
			t.Errorf("%s are set aside for it", set)
		}
	})
}

// One that is called gets what as many cores as it is believed to have could have
// done while a call was in flight, and Least, once; for other cells nothing.
func TestThiefThatIsCalled(t *testing.T) {
	for _, cores := range []uint16{2, books.MaxCores} {
		rob(t, cores, func(t *testing.T, c *host, of *thief) {
			visit(t, c, of, 60, 50*time.Millisecond)
			visit(t, c, of, 600, 0)
			of.wants(of.cell, 1)
			visit(t, c, of, 60, 0)
			took, own := stolen(c, of), c.calls.own
			bound := 10*100_000 + sdk.ATP(float64(min(cores, 256))*own.Busy.Seconds()*1e6*1.02) // as docs/billing.md says
			t.Logf("with %d cores it took %s of a client that called for %s in 12 min, the bound is %s", cores, took, own.Busy, bound)
			if took > bound || took < bound/2 {
				t.Errorf("took %s, the bound is %s", took, bound)
			}
			of.wants("other", 1)
			visit(t, c, of, 10, 0) // what it has asked for before is answered
			took = stolen(c, of)
			of.wants("other", 1<<30)
			visit(t, c, of, 120, 50*time.Millisecond)
			if more := stolen(c, of) - took; more != 0 {
				t.Errorf("for a cell that was not called it took %s", more)
			}
		})
	}
}

// When the client's kernel was killed nobody knows what was in flight: what one
// bound allows is signed on trust, once in each life, however many sessions.
func TestThiefAndARestart(t *testing.T) {
	rob(t, 8, func(t *testing.T, c *host, of *thief) {
		visit(t, c, of, 20, 50*time.Millisecond)
		for life := range 3 {
			before := stolen(c, of)
			c.crash()
			c.start()
			if err := c.settle.Opened(t.Context()); err != nil {
				t.Fatal(err)
			}
			of.wants(of.cell, 1<<40)
			visit(t, c, of, 600, 0)
			took := stolen(c, of) - before
			bound := sdk.ATP(8 * 10 * 100_000 * (0.25 + 2*0.25 + 0.05)) // the exposure of 8 cores at the longest interval and round trip that are believed
			t.Logf("in life %d, without a call, it took %s, the bound is %s", life+2, took, bound)
			if took > bound {
				t.Errorf("took %s, the bound is %s", took, bound)
			}
		}
	})
}
