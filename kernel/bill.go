package kernel

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/kernel/wallet"
	"github.com/cellkernel/cellkernel/sdk"
)

// openSettle makes what settles with other nodes. It books nothing before bill.
func (k *Kernel) openSettle() {
	g := k.genome.Kernel
	o := settle.Options{
		Self: k.Self(), Mesh: func() [32]byte { return k.Mesh().ID() }, Donor: g.Donor, Price: priceOf(g.Price), MaxPrice: priceOf(g.MaxPrice),
		Credit: sdk.ATP(g.Credit) * sdk.OneATP, Debt: sdk.ATP(g.Debt) * sdk.OneATP, Cores: runtime.NumCPU(),
		Meter: k.gauge, Cells: k.golgi, Nodes: others{k}, Log: k.log, Note: k.note,
		Broken: func(err error) { k.broken <- err },
	}
	list := k.genome.Selected()
	if i := slices.IndexFunc(list, func(r genome.PluginRef) bool { return r.Kind == sdk.KindLedger }); i >= 0 {
		o.Ledger = func() (sdk.Ledger, error) { return k.catalog.Ledger(list[i].Instance) }
	}
	k.settle = settle.New(o)
	k.bank = wallet.NewTeller(k.settle, func() string { return k.genomeNow().Kernel.Node }, forMember{k}.Seen, k.IsDenied)
}

func priceOf(p float64) books.Price { return books.Price(math.Round(p * float64(books.PriceOne))) }

// bill begins the last stage of the pipeline, and returns when the book is open.
func (k *Kernel) bill(ctx, serving context.Context, wg *sync.WaitGroup) error {
	wg.Go(func() { k.settle.Run(serving) })
	if k.genome.Golgi.Ledger == "" {
		return nil
	}
	return k.settle.Opened(ctx)
}

// others are the nodes that settle settles with.
type others struct{ k *Kernel }

// Donor implements [settle.Nodes].
func (o others) Donor(n sdk.NodeID) (donor, known bool) { return o.k.peers.Donor(n) }

// Member implements [settle.Nodes].
func (o others) Member(n sdk.NodeID) bool {
	if o.k.IsDenied(n) {
		return false
	}
	_, known := o.k.peers.Donor(n)
	return known || o.k.golgi.Linked(n)
}

// Used implements [settle.Nodes].
func (o others) Used(n sdk.NodeID) bool { return o.k.golgi.Uses(n) }

// Own implements [settle.Nodes].
func (o others) Own(n sdk.NodeID) (books.Own, <-chan struct{}) {
	own := o.k.golgi.Own(n)
	out := books.Own{Busy: own.Busy, Calls: make(map[books.Pair]uint64, len(own.Calls))}
	for p, calls := range own.Calls {
		out.Calls[books.Pair(p)] = calls
	}
	return out, own.Changed
}

// Receipts implements [settle.Nodes].
func (o others) Receipts(ctx context.Context, at string) (settle.Stream, error) {
	return node.NewNodeClient(o.k.golgiCell.Synapse(sdk.CellName(string(sdk.GolgiName) + "@" + at))).Receipts(ctx)
}
