package books_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"

	"github.com/cellkernel/cellkernel/kernel/books"
)

const places = 22 // where a party may crash in the first session, and some more

// Each side crashes at each of its steps, and both at every pair of steps. The
// books agree afterwards, and every piece of work was billed once.
func TestCrashMatrix(t *testing.T) {
	crashes := 0
	for i := range places {
		for j := range places {
			r := run(t, i, j, nil)
			agree(t, r.client, r.donor, all)
			crashes += r.crashes
			if (i > 0 || j > 0) && i < 10 && j < 10 && r.crashes == 0 {
				t.Errorf("nobody crashed at %d and %d", i, j)
			}
		}
	}
	t.Logf("%d sessions, %d crashes", places*places, crashes)
}

// The same, where the payer loses its whole book, or the payee, in the middle.
// What both have signed comes back, and the numbers begin anew. Only a payee
// who loses its book loses what nobody has signed.
func TestOneBookIsLost(t *testing.T) {
	for i := 1; i < places; i++ {
		r := run(t, i, 0, func(r *result) { r.client = newParty(t, "client") })
		agree(t, r.client, r.donor, all)
		r = run(t, 0, i, func(r *result) { r.donor = newParty(t, "donor") })
		earned := r.donor.book.Peer(r.client.Node()).Earned
		if earned < all-most {
			t.Errorf("the donor lost its book at step %d, and with it %s", i, all-earned)
		}
		agree(t, r.client, r.donor, earned)
	}
}

const (
	most = sdk.ATP(299_999) // of one receipt
	all  = sdk.ATP(70_000+1+5) + most
)

type result struct {
	client, donor *party
	crashes       int
}

// run has two parties meet until all work is settled. One crashes at its step
// i, the other at j; lose is called once when that has happened.
func run(t *testing.T, i, j int, lose func(*result)) result {
	t.Helper()
	r := result{newParty(t, "client"), newParty(t, "donor"), 0}
	r.client.crash, r.donor.crash = i, j
	todo := [][]books.Job{work(70_000), work(1), work(most), work(5)}
	now := r.client.now
	for n := byte(1); n < 20; n += 2 {
		now = now.Add(time.Second)
		r.client.now, r.donor.now = now, now
		err := meet(r.client, r.donor, &todo, n).run(t)
		if err == nil && r.donor.book.Peer(r.client.Node()).Claimed > 0 {
			continue // it was too early for a new epoch
		}
		if err == nil {
			return r
		}
		if !errors.Is(err, errCrash) {
			t.Fatalf("crashes at %d and %d: %v", i, j, err)
		}
		r.crashes++
		if lose != nil {
			lose(&r)
			lose = nil
		}
		r.client.restart(t)
		r.donor.restart(t)
	}
	t.Fatalf("crashes at %d and %d: it never ends", i, j)
	return r
}
