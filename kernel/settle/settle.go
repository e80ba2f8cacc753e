package settle

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

// Defaults of what is owed.
const (
	DefaultCredit = 36_000 * sdk.OneATP // a member may owe a donor one CPU-hour
	DefaultDebt   = 36_000 * sdk.OneATP // and a node as much in all
)

// Options are what a settlement is made of. All but Ledger, Note and Broken are
// required.
type Options struct {
	Self books.Signer
	Mesh func() [32]byte // the id, which changes when its secret is replaced
	// Ledger returns what stores the book; it is asked once, by Run. Nil is none:
	// nothing is charged or paid then, and donors are not called.
	Ledger func() (sdk.Ledger, error)
	// Terms of this node.
	Donor    bool
	Price    books.Price   // for what others use
	MaxPrice books.Price   // for what it uses of others
	Credit   sdk.ATP       // what a member may owe it, unless something else was said
	Debt     sdk.ATP       // what it may owe in all
	Cores    int           // that its cells can use
	Interval time.Duration // between receipts; 0 is 100 ms
	Meter    Meter         // nil where nothing is metered: nobody is charged then
	Cells    Cells         // nil where there are none to tell
	Nodes    Nodes
	Log      *slog.Logger
	Note     func(text string) // tells people something
	Broken   func(error)       // told that nothing is booked any more, and why
}

// A Meter says what was used since it was asked last. taken is called when that is
// on the bills of the debtors: until then leases count it as use that is on none.
type Meter interface {
	Charges() (list []meter.Charge, taken func())
}

// Cells are the processes that work for others.
type Cells interface {
	// Lease says how much CPU time all links of a node may use, beyond what the
	// meter has charged it for so far, and until when. Calls beyond it are refused
	// with [sdk.CodeNoATP] and why.
	Lease(n sdk.NodeID, cpu sdk.ATP, until time.Time, why string, more bool)
}

// Nodes are the others.
type Nodes interface {
	// Donor says whether a node charges, and whether that is known.
	Donor(n sdk.NodeID) (donor, known bool)
	// Member says whether a node is one of the mesh: strangers get no credit.
	Member(n sdk.NodeID) bool
	// Used says whether cells of this node have links to it.
	Used(n sdk.NodeID) bool
	// Own says what the cells of this node have counted of their calls to it, and
	// when there is more: the channel is closed then.
	Own(n sdk.NodeID) (books.Own, <-chan struct{})
	// Receipts opens the stream to the kernel of a node, by its id or, where
	// only that is known, its address.
	Receipts(ctx context.Context, at string) (Stream, error)
}

// idle is a meter that measures nothing, and nobody to tell.
type idle struct{}

func (idle) Charges() ([]meter.Charge, func())                  { return nil, func() {} }
func (idle) Lease(sdk.NodeID, sdk.ATP, time.Time, string, bool) {}

// A Stream carries slips to the kernel of another node and back.
type Stream interface {
	Send(*node.Slip) error
	Recv() (*node.Slip, error)
	Close() error
}

// A Settle keeps the book of this node. Make it with [New], and call Run once.
type Settle struct {
	opt     Options
	book    *writer
	wake    chan struct{} // capacity 1: somebody came, or has nothing to do any more
	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup // sessions; begun under mu, before closed

	mu        sync.Mutex // guards what follows
	closed    bool
	debtors   map[sdk.NodeID]*debtor
	creditors map[sdk.NodeID]*creditor
	trusts    map[sdk.NodeID]*trust
}

// New makes a settlement. Nothing is opened.
func New(opt Options) *Settle {
	if opt.Interval == 0 {
		opt.Interval = 100 * time.Millisecond
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Note == nil {
		opt.Note = func(string) {}
	}
	if opt.Meter == nil {
		opt.Meter = idle{}
	}
	if opt.Cells == nil {
		opt.Cells = idle{}
	}
	s := &Settle{
		opt: opt, wake: make(chan struct{}, 1), debtors: make(map[sdk.NodeID]*debtor), creditors: make(map[sdk.NodeID]*creditor),
		trusts: make(map[sdk.NodeID]*trust),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	if opt.Ledger != nil {
		s.book = newWriter(opt.Ledger, opt.Self.Node(), s.ledgerDown)
	}
	return s
}

func (s *Settle) ledgerDown(err error) {
	if err == nil {
		s.opt.Note("the ledger answers again")
		return
	}
	s.opt.Note("the ledger does not answer: nothing is signed, and new billable work will be refused soon: " + err.Error())
}

// Run settles until ctx is done. What was used until then is booked or proposed
// before it returns, if the ledger answers.
func (s *Settle) Run(ctx context.Context) {
	defer s.close()
	if s.book == nil {
		s.serveFree(ctx)
		return
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.book.run(writing); err != nil {
			s.opt.Log.Error("the book is closed", "error", err)
			if s.opt.Broken != nil {
				s.opt.Broken(err)
			}
		}
	})
	select {
	case <-s.book.opened:
		s.bill(ctx)
	case <-ctx.Done():
	}
	s.close()
	stop()
	wg.Wait()
}

// close ends all sessions.
func (s *Settle) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
}

// Opened returns when the book is loaded, or why it is not.
func (s *Settle) Opened(ctx context.Context) error {
	if s.book == nil {
		return errNoLedger
	}
	select {
	case <-s.book.opened:
		return s.book.view(func(*books.Book) {})
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serveFree drains the meter of a kernel that has no book.
func (s *Settle) serveFree(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, taken := s.opt.Meter.Charges()
			taken()
		case <-ctx.Done():
			return
		}
	}
}

// Serve is the donor's side of [node.Node]'s Receipts.
func (s *Settle) Serve(ctx context.Context, in cell.Receiver[node.Slip], out cell.Sender[node.Slip]) error {
	peer := cell.Caller(ctx)
	if peer.Cell != sdk.GolgiName && peer.Cell != sdk.CLIName || peer.Node == "" || peer.Local {
		return sdk.Errorf(sdk.CodeDenied, "receipts are between kernels")
	}
	return s.ServeNode(ctx, peer.Node, serverStream{in, out})
}

// serverStream is the handler's end of a stream.
type serverStream struct {
	cell.Receiver[node.Slip]
	cell.Sender[node.Slip]
}

// Close does nothing: a handler's stream ends with it.
func (serverStream) Close() error { return nil }

// errReplaced ends a session in whose place there is another.
var errReplaced = errors.New("another session has begun")
