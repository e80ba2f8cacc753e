package admin_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestClientSeesTheBook(t *testing.T) {
	f := admintest.New()
	f.Money = &admin.Wallet{Node: admintest.Node, Name: "desk-fake", Balance: 5, Peers: []admin.WalletPeer{{Node: admintest.Node, Earned: 1 << 60}}}
	at := time.Unix(1_700_000_000, 0).UTC()
	for i := range 5 {
		e := admin.Entry{Seq: uint64(i + 1), Time: at.Add(time.Duration(i) * time.Second), What: "reserve", PeerName: "a/b"}
		if i == 3 {
			e.What, e.Receipt = "spend", &admin.EntryReceipt{Seq: 9, Signed: []byte{0, 255}}
			e.Jobs = []admin.EntryJob{{From: "x", Method: "W.W", CPU: 7}}
		}
		f.Booked = append(f.Booked, e)
	}
	c, _ := serve(t, f)
	w, err := c.Wallet(t.Context())
	wantSame(t, "wallet", w, f.Money)
	for name, want := range map[string]struct {
		q    admin.EntryQuery
		seqs []uint64
	}{
		"all":      {admin.EntryQuery{}, []uint64{1, 2, 3, 4, 5}},
		"tail":     {admin.EntryQuery{Tail: 2}, []uint64{4, 5}},
		"since":    {admin.EntryQuery{Since: at.Add(3 * time.Second)}, []uint64{4, 5}},
		"one":      {admin.EntryQuery{Seq: 2}, []uint64{2}},
		"receipts": {admin.EntryQuery{Receipts: true, Peer: "a/b"}, []uint64{4}},
		"peer":     {admin.EntryQuery{Peer: "nobody"}, nil},
	} {
		var got []uint64
		err := c.Entries(t.Context(), want.q, func(e admin.Entry) error {
			wantSame(t, "entry", e, f.Booked[e.Seq-1])
			got = append(got, e.Seq)
			return nil
		})
		if err != nil || !slices.Equal(got, want.seqs) {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want.seqs)
		}
	}
	p, err2 := c.SetCredit(t.Context(), "a/b", 1<<60)
	wantSame(t, "credit", p, admin.WalletPeer{Node: admintest.Node, Name: "a/b", Credit: 1 << 60})
	if err := errors.Join(err, err2); err != nil {
		t.Error(err)
	}
	_, err = c.SetCredit(t.Context(), "a/b", -1)
	wantCode(t, err, sdk.CodeInvalid, "want 0 or more")
	f.Money = nil
	_, err = c.Wallet(t.Context())
	wantCode(t, err, sdk.CodeUnavailable, "no ledger")
}
