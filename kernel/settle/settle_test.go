package settle_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/sdk"
)

const rtt = 20 * time.Millisecond // of the net, with two records

// bound is that of DESIGN.md, section 9, worked out here: max(10 ATP, cores ×
// 10 ATP/s × (receipt interval + 2 round trips + 50 ms)).
func bound(cores int) sdk.ATP {
	seconds := 0.100 + 2*rtt.Seconds() + 0.050
	return max(10*100_000, sdk.ATP(float64(cores)*10*seconds*100_000))
}

// two starts a client and a donor in a bubble of their own time.
func two(t *testing.T, client, donor settle.Options, f func(t *testing.T, client, donor *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		donor.Donor = true
		c, d := newHost(t, n, "client", client), newHost(t, n, "donor", donor)
		c.start()
		d.start()
		f(t, c, d)
		c.end()
		d.end()
		n.wg.Wait()
		for _, h := range []*host{c, d} {
			select {
			case err := <-h.broken:
				t.Errorf("the book of %s: %v", h.name, err)
			default:
			}
		}
	})
}

// agree waits for a moment and compares both books with what was used.
func agree(t *testing.T, c, d *host) {
	t.Helper()
	time.Sleep(time.Second)
	spent, earned, used := c.with(d).Spent, d.with(c).Earned, d.work.total()-d.work.lost
	if spent != earned || spent != used {
		t.Errorf("spent %s, earned %s, used %s", spent, earned, used)
	}
	if p := d.with(c); p.Claimed != 0 || p.Open != 0 {
		t.Errorf("claimed %s and open %s are left", p.Claimed, p.Open)
	}
}

func ensure(t *testing.T, c, d *host) {
	t.Helper()
	if err := c.settle.Ensure(t.Context(), d.Node(), ""); err != nil {
		t.Fatal(err)
	}
}

// What the donor's cells did is what the client pays, to the microsecond, and
// before they did anything it was reserved.
func TestWorkIsPaid(t *testing.T) {
	two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
		if err := c.settle.Opened(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.settle.Link(t.Context(), c.Node(), ""); err != nil || d.work.lease(c.Node()).left != 0 {
			t.Errorf("before anything was said: %v, %+v", err, d.work.lease(c.Node()))
		}
		before := c.wallet().Available
		ensure(t, c, d)
		w := c.wallet()
		if w.Reserved == 0 || before-w.Available != w.Reserved || d.work.total() != 0 {
			t.Errorf("available %s, then %s, reserved %s, used %s", before, w.Available, w.Reserved, d.work.total())
		}
		d.work.burn(c.Node(), 10*time.Second)
		if used := d.work.total(); used < 19*sdk.ATP(time.Second.Microseconds()) {
			t.Errorf("in 10 s of 2 cores only %s were used", used)
		}
		agree(t, c, d)
		if p := d.with(c); !p.Serving || p.Credit != settle.DefaultCredit {
			t.Errorf("the donor's view: %+v", p)
		}
		why(t, c, d)
		time.Sleep(2 * time.Minute) // without links
		if w := c.wallet(); w.Reserved != 0 || w.Available != settle.DefaultDebt-w.Spent {
			t.Errorf("nobody uses it any more: reserved %s, available %s", w.Reserved, w.Available)
		}
	})
}

// why checks that both sides can say what the last receipt was for.
func why(t *testing.T, c, d *host) {
	t.Helper()
	for h, what := range map[*host]string{c: "spend", d: "earn"} {
		var r, claim books.Entry
		var bad error
		if err := h.settle.Records(t.Context(), 0, func(rec sdk.Record) bool {
			e, err := books.Explain(h.Node(), rec)
			bad = errors.Join(bad, err)
			switch e.What {
			case what:
				r = e
			case "claim":
				claim = e
			}
			return bad == nil
		}); err != nil || bad != nil {
			t.Fatal(err, bad)
		}
		list := r.List
		if what == "earn" { // it settles the claim before it
			list = claim.List
		}
		if len(list) != 1 || list[0].Cell != "worker" || list[0].From != "asker" || list[0].Amount != r.Amount || !r.PayeeSig || !r.PayerSig {
			t.Errorf("%s: why %d: %+v", h.name, r.Seq, r)
		}
	}
}

// Work that ran on beyond what was reserved for it, and beyond what a session
// lets be done at once, is paid: its time has passed. The next work is, too.
func TestWorkThatRanOnIsPaid(t *testing.T) {
	two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
		ensure(t, c, d)
		d.work.burn(c.Node(), time.Second)
		time.Sleep(time.Second)
		d.work.runOn(c.Node(), 20*time.Second)
		if set := c.wallet().Reserved; d.work.total() < 2*set {
			t.Fatalf("%s of work is not clearly more than the %s that are reserved", d.work.total(), set)
		}
		time.Sleep(10 * time.Second)
		agree(t, c, d)
		ensure(t, c, d)
		d.work.burn(c.Node(), time.Second)
		agree(t, c, d)
	})
}

// Whoever is killed, whenever: the books agree afterwards. Only what the donor's
// meter had not been asked about is lost.
func TestKilledAtAnyMoment(t *testing.T) {
	two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
		r := rand.New(rand.NewPCG(1, 2))
		kills := 0
		for range 60 {
			ensure(t, c, d)
			d.work.burn(c.Node(), time.Duration(r.IntN(400))*time.Millisecond)
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond / 4)
			victim := []*host{c, d}[r.IntN(2)]
			open := d.with(c).Open
			victim.crash()
			if victim == d {
				d.work.mu.Lock()
				d.work.lost += open
				d.work.mu.Unlock()
			}
			kills++
			victim.start()
			if err := victim.settle.Opened(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ensure(t, c, d)
		time.Sleep(5 * time.Second)
		spent, earned, used := c.with(d).Spent, d.with(c).Earned, d.work.total()
		if spent != earned || spent > used || d.with(c).Claimed != 0 {
			t.Errorf("spent %s, earned %s, claimed %s, used %s", spent, earned, d.with(c).Claimed, used)
		}
		t.Logf("%d kills: used %s, spent and earned %s", kills, used, spent)
	})
}

// While a ledger is away nothing is signed, and the donor works on up to its
// bound. Nothing is lost.
func TestLedgerIsAway(t *testing.T) {
	for _, whose := range []string{"client", "donor"} {
		t.Run(whose, func(t *testing.T) {
			two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
				ensure(t, c, d)
				d.work.burn(c.Node(), time.Second)
				time.Sleep(time.Second)
				away := map[string]*host{"client": c, "donor": d}[whose]
				before := d.work.total()
				away.disk.setDown(true)
				d.work.burn(c.Node(), 10*time.Second)
				took := d.work.total() - before
				t.Logf("without the ledger of the %s it worked for %s, the bound is %s", whose, took, bound(2))
				if took > bound(2) || took < sdk.OneATP {
					t.Errorf("worked for %s, the bound is %s", took, bound(2))
				}
				away.disk.setDown(false)
				time.Sleep(10 * time.Second)
				ensure(t, c, d)
				d.work.burn(c.Node(), time.Second)
				if d.work.total()-before-took < sdk.ATP(1_000_000) {
					t.Error("it does not go on")
				}
				agree(t, c, d)
			})
		})
	}
}

// A donor that is new to a node is not called while the node can book nothing,
// and nobody waits for that.
func TestNoNewDonorWithoutLedger(t *testing.T) {
	two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
		if err := c.settle.Opened(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.disk.setDown(true)
		go func() { _ = c.settle.SetCredit(t.Context(), settle.NewID(), d.Node(), 5) }() // it waits
		time.Sleep(2 * time.Second)
		began := time.Now()
		if err := c.settle.Ensure(t.Context(), d.Node(), ""); sdk.CodeOf(err) != sdk.CodeUnavailable || time.Since(began) > 100*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		c.disk.setDown(false)
		time.Sleep(5 * time.Second)
		ensure(t, c, d)
	})
}

// A client without credit is told so, with what it has and what helps; with
// some it gets no more than that.
func TestCreditEnds(t *testing.T) {
	two(t, settle.Options{}, settle.Options{Credit: 30 * sdk.OneATP}, func(t *testing.T, c, d *host) {
		ensure(t, c, d)
		d.work.burn(c.Node(), 10*time.Second)
		time.Sleep(time.Second)
		if earned := d.with(c).Earned; earned > 30*sdk.OneATP || earned < 29*sdk.OneATP {
			t.Errorf("earned %s of a credit of 30 ATP", earned)
		}
		if l := d.work.lease(c.Node()); l.left != 0 || !strings.Contains(l.why, "credit is 30 ATP") {
			t.Errorf("the lease is %+v", l)
		}
		time.Sleep(3 * time.Minute) // the session is given up
		err := c.settle.Ensure(t.Context(), d.Node(), "")
		if sdk.CodeOf(err) != sdk.CodeNoATP || !strings.Contains(err.Error(), "credit of 30 ATP, and it owes") || !strings.Contains(err.Error(), "up --donor") {
			t.Errorf("again: %v", err)
		}
		if err := d.settle.SetCredit(t.Context(), settle.NewID(), c.Node(), 100*sdk.OneATP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		ensure(t, c, d)
		d.work.burn(c.Node(), time.Second)
		agree(t, c, d)
	})
}

// A client that may owe nothing reserves nothing, and is not served.
func TestNoDebt(t *testing.T) {
	two(t, settle.Options{Debt: 1}, settle.Options{}, func(t *testing.T, c, d *host) {
		ensure(t, c, d) // a microsecond
		time.Sleep(time.Second)
		if l := d.work.lease(c.Node()); l.left > 1 {
			t.Errorf("the lease is %+v", l)
		}
	})
	two(t, settle.Options{}, settle.Options{Price: 2 * books.PriceOne}, func(t *testing.T, c, d *host) {
		err := c.settle.Ensure(t.Context(), d.Node(), "")
		if sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), "max_price") {
			t.Errorf("twice the price: %v", err)
		}
	})
}

// Half a price is half the amount; the CPU time is on the bill in full.
func TestPrice(t *testing.T) {
	two(t, settle.Options{}, settle.Options{Price: books.PriceOne / 2}, func(t *testing.T, c, d *host) {
		ensure(t, c, d)
		d.work.burn(c.Node(), time.Second)
		time.Sleep(time.Second)
		p := c.with(d)
		if used := d.work.total(); p.Paid.CPU != used || p.Spent > used/2 || p.Spent < used/2-100 || d.with(c).Earned != p.Spent {
			t.Errorf("used %s, on the bill %s, spent %s", used, p.Paid.CPU, p.Spent)
		}
	})
}

// A node that is no donor works for nothing, and books it.
func TestFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		c, f := newHost(t, n, "client", settle.Options{}), newHost(t, n, "friend", settle.Options{})
		c.start()
		f.start()
		ensure(t, c, f)
		f.work.Lease(c.Node(), books.MaxAmount, time.Now().Add(time.Hour), "", false)
		f.work.burn(c.Node(), 90*time.Second)
		f.end()
		f.start()
		if err := f.settle.Opened(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w := f.wallet(); w.Free != f.work.total() || w.Earned != 0 || c.wallet().Spent != 0 || f.with(c).Free != w.Free {
			t.Errorf("used %s: %+v", f.work.total(), w)
		}
		if f.disk.size() > 3 {
			t.Errorf("%d records for 90 s", f.disk.size())
		}
		c.end()
		f.end()
		n.wg.Wait()
	})
}

// A damaged book is not written to, and whoever runs the kernel is told.
func TestDamagedBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		h := newHost(t, n, "host", settle.Options{})
		h.disk.records = []sdk.Record{{Seq: 1, Body: []byte{1, 2, 3}}}
		h.disk.head = h.disk.head.Next(&h.disk.records[0])
		h.start()
		if err := h.settle.Opened(t.Context()); err == nil {
			t.Error("it opened")
		}
		if err := <-h.broken; !strings.Contains(err.Error(), "I3") {
			t.Error(err)
		}
		if err := h.settle.SetCredit(t.Context(), settle.NewID(), newKey("x").Node(), 5); err == nil || h.disk.size() != 1 {
			t.Errorf("it was written to: %v", err)
		}
		h.end()
	})
}

// What waits together is stored together, and who waits learns the truth.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		h := newHost(t, n, "host", settle.Options{})
		h.start()
		if err := h.settle.Opened(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 64 {
			wg.Go(func() {
				for j := range 10 {
					amount := sdk.ATP(i*100 + j)
					err := h.settle.SetCredit(t.Context(), settle.NewID(), newKey(strings.Repeat("x", i+1)).Node(), amount)
					if got := h.with(&host{key: newKey(strings.Repeat("x", i+1))}).Credit; err != nil || got != amount {
						t.Errorf("credit %s: %s, %v", amount, got, err)
						return
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d records in %d appends, %s", h.disk.size(), h.disk.appends, time.Since(began))
		if h.disk.size() != 64*10 || h.disk.appends > 64*10/5 {
			t.Errorf("%d records in %d appends", h.disk.size(), h.disk.appends)
		}
		h.end()
	})
}

// Cells are not told that use is on a bill before it is: a lease that is made in
// between would let it be done twice.
func TestUseIsBilledBeforeItCountsAsThat(t *testing.T) {
	two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
		ensure(t, c, d)
		d.work.burn(c.Node(), 100*time.Millisecond)
		agree(t, c, d)
		c.end() // so what is open stays that
		var told, open sdk.ATP
		d.work.bill(func(list []meter.Charge) {
			for _, l := range list {
				told += l.CPU
			}
			open = d.with(c).Open
			if open != told {
				t.Errorf("%s is said to be on a bill, %s is", told, open)
			}
		})
		d.work.runOn(c.Node(), 50*time.Millisecond)
		time.Sleep(2 * time.Second)
		d.work.bill(nil)
		synctest.Wait()
		if open == 0 {
			t.Error("nobody was told that anything is on a bill")
		}
		c.start()
	})
}

// A donor that ends has its last work signed for.
func TestOrderlyEnd(t *testing.T) {
	two(t, settle.Options{}, settle.Options{}, func(t *testing.T, c, d *host) {
		ensure(t, c, d)
		d.work.burn(c.Node(), 1270*time.Millisecond)
		d.end()
		if spent, used := c.with(d).Spent, d.work.total(); spent != used || used == 0 {
			t.Errorf("spent %s, used %s", spent, used)
		}
		d.start()
	})
}
