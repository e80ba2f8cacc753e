package kernel

import (
	"context"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// Wallet implements [admin.Banker].
func (k *Kernel) Wallet(ctx context.Context) (*admin.Wallet, error) {
	<-k.started
	return k.bank.Wallet(ctx)
}

// Entries implements [admin.Banker].
func (k *Kernel) Entries(ctx context.Context, q admin.EntryQuery, yield func(admin.Entry) error) error {
	<-k.started
	return k.bank.Entries(ctx, q, yield)
}

// SetCredit implements [admin.Banker].
func (k *Kernel) SetCredit(ctx context.Context, who string, amount sdk.ATP) (*admin.WalletPeer, error) {
	<-k.started
	return k.bank.SetCredit(ctx, who, amount)
}
