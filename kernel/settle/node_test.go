package settle_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/kernel/meter"
	"github.com/cellkernel/cellkernel/kernel/node"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/sdk"
)

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

// A disk is a ledger that outlives its node, takes a while, and can be down.
type disk struct {
	mu      sync.Mutex
	down    bool
	appends int
	head    sdk.Head
	records []sdk.Record
	sums    map[sdk.Account]sdk.ATP
}

func newDisk() *disk { return &disk{sums: make(map[sdk.Account]sdk.ATP)} }

func (d *disk) setDown(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

func (d *disk) size() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.head.Seq
}

// use is one life's way to the disk. When it is cut nothing goes through any more.
func (d *disk) use() *way { return &way{d: d} }

type way struct {
	d   *disk
	mu  sync.Mutex
	cut bool
}

func (w *way) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
}

func (w *way) lock() error {
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	w.d.mu.Lock()
	if w.d.down || cut {
		w.d.mu.Unlock()
		return sdk.Errorf(sdk.CodeUnavailable, "the disk is away")
	}
	return nil
}

func (w *way) Open(context.Context) (sdk.Head, error) {
	if err := w.lock(); err != nil {
		return sdk.Head{}, err
	}
	defer w.d.mu.Unlock()
	return w.d.head, nil
}

func (w *way) Append(_ context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	time.Sleep(2 * time.Millisecond) // an fsync
	if err := w.lock(); err != nil {
		return sdk.Head{}, err
	}
	defer w.d.mu.Unlock()
	if after != w.d.head {
		return w.d.head, sdk.Errorf(sdk.CodeFenced, "the book ends at %d", w.d.head.Seq)
	}
	w.d.appends++
	for _, r := range batch {
		w.d.head = w.d.head.Next(&r)
		r.Seq = w.d.head.Seq
		w.d.records = append(w.d.records, r)
		for _, p := range r.Postings {
			w.d.sums[p.Account] += p.Amount
		}
	}
	return w.d.head, nil
}

func (w *way) Read(_ context.Context, from uint64, yield func(sdk.Record) bool) error {
	if err := w.lock(); err != nil {
		return err
	}
	list := slices.Clone(w.d.records)
	w.d.mu.Unlock()
	for _, r := range list[max(from, 1)-1:] {
		if !yield(r) {
			break
		}
	}
	return nil
}

func (w *way) Balances(context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	if err := w.lock(); err != nil {
		return sdk.Head{}, nil, err
	}
	defer w.d.mu.Unlock()
	return w.d.head, maps.Clone(w.d.sums), nil
}

// A host is a node: its disk and its worker outlive the lives of its kernel.
type host struct {
	t    *testing.T
	name string
	key
	disk *disk
	opt  settle.Options
	net  *net
	work *worker

	calls  calls // of its own cells, by their own count
	linked bool  // they have links to other nodes

	way    *way
	settle *settle.Settle
	stop   context.CancelFunc
	done   chan struct{}
	broken chan error
}

func newHost(t *testing.T, n *net, name string, opt settle.Options) *host {
	h := &host{t: t, name: name, key: newKey(name), disk: newDisk(), opt: opt, net: n, work: &worker{net: n, cores: 2, leases: make(map[sdk.NodeID]lease)}}
	n.mu.Lock()
	n.hosts[h.Node()] = h
	n.mu.Unlock()
	return h
}

// start begins a life.
func (h *host) start() {
	h.t.Helper()
	h.way, h.broken, h.done = h.disk.use(), make(chan error, 1), make(chan struct{})
	o := h.opt
	o.Self, o.Mesh = h.key, func() [32]byte { return [32]byte{7} }
	o.Ledger = func() (sdk.Ledger, error) { return h.way, nil }
	if o.Price == 0 {
		o.Price = books.PriceOne
	}
	if o.MaxPrice == 0 {
		o.MaxPrice = books.PriceOne
	}
	if o.Credit == 0 {
		o.Credit = settle.DefaultCredit
	}
	if o.Debt == 0 {
		o.Debt = settle.DefaultDebt
	}
	o.Cores, o.Meter, o.Cells, o.Nodes = h.work.cores, h.work, h.work, view{h}
	o.Broken = func(err error) { h.broken <- err }
	life := settle.New(o)
	h.net.mu.Lock()
	h.settle = life
	h.net.mu.Unlock()
	var ctx context.Context
	ctx, h.stop = context.WithCancel(context.Background())
	done := h.done
	go func() { life.Run(ctx); close(done) }()
}

// end is an orderly end, crash the other one: nothing reaches the disk any more.
func (h *host) end() { h.stop(); <-h.done }

func (h *host) crash() {
	h.way.kill()
	h.end()
	h.work.forget()
	h.calls.forget()
}

func (h *host) wallet() settle.Wallet {
	h.t.Helper()
	w, err := h.settle.Wallet()
	if err != nil {
		h.t.Fatal(err)
	}
	return w
}

// with returns what h has with another.
func (h *host) with(o *host) settle.Peer {
	for _, p := range h.wallet().Peers {
		if p.Node == o.Node() {
			return p
		}
	}
	return settle.Peer{}
}

// Calls are what the cells of a host call of one other. They count by
// themselves: what the other side says of it is nothing to them.
type calls struct {
	mu      sync.Mutex
	own     books.Own
	running int
	since   time.Time
}

// during counts a call of a pair while f runs.
func (c *calls) during(p books.Pair, f func()) {
	c.step(p, 1)
	f()
	c.step(p, -1)
}

func (c *calls) step(p books.Pair, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own.Calls == nil {
		c.own.Calls = make(map[books.Pair]uint64)
	}
	if c.running > 0 {
		c.own.Busy += time.Since(c.since)
	}
	c.since = time.Now()
	if c.running += n; n > 0 {
		c.own.Calls[p]++
	}
}

// look returns the counters; the next are there in 100 ms.
func (c *calls) look() (books.Own, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := books.Own{Busy: c.own.Busy, Calls: maps.Clone(c.own.Calls)}
	if c.running > 0 {
		own.Busy += time.Since(c.since)
	}
	next := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { close(next) })
	return own, next
}

// forget is what becomes of counters whose kernel is killed, and its cells.
func (c *calls) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = books.Own{}
}

// A worker is the cells of a host, and what meters them.
type worker struct {
	net    *net
	cores  int
	mu     sync.Mutex
	leases map[sdk.NodeID]lease
	open   []meter.Charge
	read   []meter.Charge       // that were given away, and are not on a bill
	billed func([]meter.Charge) // told what is on bills now
	used   sdk.ATP              // for others, in all
	lost   sdk.ATP              // that a crash has taken out of the meter
}

type lease struct {
	left  sdk.ATP
	until time.Time
	why   string
}

func (w *worker) Charges() ([]meter.Charge, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.open
	w.open, w.read = nil, list
	return list, func() {
		w.mu.Lock()
		w.read = nil
		billed := w.billed
		w.mu.Unlock()
		if billed != nil {
			billed(list)
		}
	}
}

func (w *worker) Lease(n sdk.NodeID, cpu sdk.ATP, until time.Time, why string, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range slices.Concat(w.open, w.read) { // what is on no bill yet
		if c.Node == n {
			cpu = max(cpu-c.CPU, 0)
		}
	}
	w.leases[n] = lease{cpu, until, why}
}

// bill has f told what is on bills from now on.
func (w *worker) bill(f func([]meter.Charge)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.billed = f
}

func (w *worker) lease(n sdk.NodeID) lease {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leases[n]
}

func (w *worker) total() sdk.ATP {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used
}

// forget is what becomes of a meter whose kernel is killed.
func (w *worker) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		w.lost += c.CPU
	}
	w.open, w.read, w.leases = nil, nil, make(map[sdk.NodeID]lease)
}

// asked is what the cells of a client call.
var asked = books.Pair{From: "asker", Cell: "worker"}

func (n *net) host(id sdk.NodeID) *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[id]
}

// burn works for a node, which calls meanwhile, on all cores, as far as its lease
// allows, until a time.
func (w *worker) burn(n sdk.NodeID, d time.Duration) {
	w.net.host(n).calls.during(asked, func() { w.use(n, d) })
}

func (w *worker) use(n sdk.NodeID, d time.Duration) {
	const step = 10 * time.Millisecond
	for range d / step {
		time.Sleep(step)
		w.mu.Lock()
		l := w.leases[n]
		cpu := min(sdk.ATP(w.cores)*sdk.ATP(step.Microseconds()), l.left)
		if time.Now().Before(l.until) && cpu > 0 {
			l.left -= cpu
			w.leases[n] = l
			w.used += cpu
			w.open = append(w.open, meter.Charge{Node: n, From: "asker", Cell: "worker", Method: "Work.Do", Calls: 1, CPU: cpu, Source: "test/time"})
		}
		w.mu.Unlock()
	}
}

// runOn works for n whatever the lease says, as the handler of a stream does that
// ignores its context.
func (w *worker) runOn(n sdk.NodeID, d time.Duration) {
	w.net.host(n).calls.during(asked, func() { time.Sleep(d) })
	w.mu.Lock()
	defer w.mu.Unlock()
	cpu := sdk.ATP(w.cores) * sdk.ATP(d.Microseconds())
	w.used += cpu
	w.open = append(w.open, meter.Charge{Node: n, From: "asker", Cell: "worker", Method: "Work.Do", Calls: 1, CPU: cpu, Source: "test/time"})
}

// A net carries streams between hosts.
type net struct {
	mu    sync.Mutex
	hosts map[sdk.NodeID]*host
	thief *thief // nil is none
	cut   bool
	wg    sync.WaitGroup
}

func newNet() *net { return &net{hosts: make(map[sdk.NodeID]*host)} }

// view is what one host sees of the others.
type view struct{ h *host }

func (v view) Donor(n sdk.NodeID) (donor, known bool) {
	v.h.net.mu.Lock()
	defer v.h.net.mu.Unlock()
	o := v.h.net.hosts[n]
	return o != nil && o.opt.Donor, o != nil
}

func (v view) Member(n sdk.NodeID) bool {
	_, known := v.Donor(n)
	return known
}

func (v view) Used(n sdk.NodeID) bool { return v.h.linked }

func (v view) Own(sdk.NodeID) (books.Own, <-chan struct{}) { return v.h.calls.look() }

func (v view) Receipts(ctx context.Context, at string) (settle.Stream, error) {
	n := v.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.hosts[sdk.NodeID(at)]
	if n.thief != nil && n.thief.Node() == sdk.NodeID(at) {
		ctx, cancel := context.WithCancel(ctx)
		a, b := make(chan *node.Slip, 1), make(chan *node.Slip, 1)
		n.wg.Go(func() {
			defer cancel()
			_ = n.thief.serve(&pipe{ctx, cancel, a, b, v.h.Node()})
		})
		return &pipe{ctx, cancel, b, a, n.thief.Node()}, nil
	}
	if o == nil || o.settle == nil || n.cut {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "nobody is at %.8s", at)
	}
	ctx, cancel := context.WithCancel(ctx)
	a, b := make(chan *node.Slip, 1), make(chan *node.Slip, 1)
	life, from := o.settle, v.h.Node()
	n.wg.Go(func() {
		defer cancel()
		_ = life.ServeNode(ctx, from, &pipe{ctx, cancel, a, b, from}) // the payer hears why
	})
	return &pipe{ctx, cancel, b, a, o.Node()}, nil
}

// A pipe is one end of a stream: 5 ms each way.
type pipe struct {
	ctx    context.Context
	cancel context.CancelFunc
	in     <-chan *node.Slip
	out    chan<- *node.Slip
	peer   sdk.NodeID
}

func (p *pipe) Send(m *node.Slip) error {
	time.Sleep(5 * time.Millisecond)
	select {
	case p.out <- m:
		return nil
	case <-p.ctx.Done():
		return sdk.Errorf(sdk.CodeUnavailable, "the link is gone")
	}
}

func (p *pipe) Recv() (*node.Slip, error) {
	select {
	case m := <-p.in:
		return m, nil
	case <-p.ctx.Done():
	}
	select { // what was sent before the end arrives
	case m := <-p.in:
		return m, nil
	default:
		return nil, io.EOF
	}
}

func (p *pipe) Close() error { p.cancel(); return nil }
