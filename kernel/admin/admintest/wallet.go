package admintest

import (
	"context"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// Wallet implements [admin.Banker].
func (f *Fake) Wallet(context.Context) (*admin.Wallet, error) {
	if f.Money == nil && f.Fail["Wallet"] == nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "no ledger: \"golgi.ledger\" is empty")
	}
	return f.Money, f.Fail["Wallet"]
}

// Entries implements [admin.Banker].
func (f *Fake) Entries(_ context.Context, q admin.EntryQuery, yield func(admin.Entry) error) error {
	list := f.Booked
	if q.Tail > 0 {
		list = list[max(0, len(list)-q.Tail):]
	}
	for _, e := range list {
		if q.Seq != 0 && e.Seq != q.Seq || q.Receipts && e.Receipt == nil || e.Time.Before(q.Since) || q.Peer != "" && q.Peer != e.PeerName {
			continue
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return f.Fail["Entries"]
}

// SetCredit implements [admin.Banker].
func (f *Fake) SetCredit(_ context.Context, who string, amount sdk.ATP) (*admin.WalletPeer, error) {
	return &admin.WalletPeer{Node: Node, Name: who, Credit: amount}, f.note("SetCredit", "credit %s %s", who, amount)
}
