// Package golgi is the kernel's part of the pipeline that carries a call from
// a cell to the cell that answers it:
//
//	resolve → balance → dial → secure → route → bill
//
// The kernel resolves names ([resolve.go]), dials and accepts links
// ([dial.go], [accept.go]) and hands both ends to the cells; balancing,
// securing and routing happen in the cells themselves (sdk/cell). Once a link
// is handed over, no byte of it passes through here. A link whose ends belong
// to two kernels is secured by the cells with certificates that their kernels
// gave them, and goes on when both kernels have admitted it ([admit.go]).
//
// Each attached process has a seat: its control channel and what is known of
// it. Lock order: Golgi.mu before anything of a seat; nothing is sent to a
// process under the lock but into its queue.
package golgi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// Limits of what strangers can make this kernel hold.
const (
	maxPending   = 256             // connections whose link header has not arrived
	maxDials     = 64              // dials of one process under way
	maxLinks     = 1 << 16         // links known at once
	maxPairs     = 1 << 12         // callers and answerers whose past is kept
	headerWait   = 5 * time.Second // for a link header or its answer
	dialWait     = 8 * time.Second // for a whole dial
	pingEvery    = 2 * time.Second
	pingLimit    = 5           // pings unanswered before a process counts as hung
	tokenLife    = time.Minute // of a launch that is not used
	seatQueue    = 1024        // messages to one process that wait
	helloTimeout = 5 * time.Second
)

// A Replica names one life of one process of a cell.
type Replica struct {
	Cell        sdk.CellName
	Index       int
	Incarnation uint64
}

// Options configure a Golgi. Run, Self, Home, Dial and Local are required.
type Options struct {
	// Run is what this run of the kernel is called in headers of local links:
	// nobody else uses it, so a link that names it has both ends here.
	Run string
	// Self is who this kernel is in links that are not local.
	Self *identity.Identity
	// Home is the mesh of links on this machine: those among this kernel's own
	// cells, and those that come through junctions.
	Home *identity.Mesh
	// Mesh is the mesh of links between machines, nil where there are none.
	Mesh *identity.Mesh
	// Peers knows the cells of other nodes, nil where none are looked for.
	Peers *peers.Table
	// Denied says which nodes are kept out; nil is nobody. It must not block.
	Denied func(sdk.NodeID) bool
	// Scheme is the transport of addresses that axons name.
	Scheme string
	// Local is where links among this kernel's own cells are made.
	Local sdk.Addr
	// Dial connects to an address by the transport that owns it. The
	// connection must have a File method.
	Dial func(ctx context.Context, addr sdk.Addr) (net.Conn, error)
	// Junction returns where the kernel that runs in dir takes links, and the
	// mesh they belong to.
	Junction func(dir string) (sdk.Addr, *identity.Mesh, error)
	// Join serves a connection of somebody who wants to join the mesh, of which
	// the first two bytes have been read; nil refuses.
	Join func(ctx context.Context, conn net.Conn) error
	// Ready is told when a process says that it can be called, Hung when it
	// does not answer. Neither may block. Both may be nil.
	Ready func(Replica)
	Hung  func(r Replica, why string)
	// LinkAge is how old a link that is not local gets before another takes its
	// place; 0 for half a certificate's life.
	LinkAge time.Duration
	// Changed is told when another number of replicas can be called. It must
	// not block; nil is nobody.
	Changed func()
	// Bill is asked before calls go over a link to another node of the mesh:
	// one that was dialled, at such a host, or, without host, one that came in.
	// It may take a while; nil is nobody.
	Bill func(ctx context.Context, node sdk.NodeID, host string) error
	// Counted is told what a process that is asked to meter says of its links.
	// It must not block; nil is nobody.
	Counted func(r Replica, s channel.Stats, links []Count)
	Log     *slog.Logger
}

// A Golgi joins the cells of one kernel. It is safe for concurrent use.
type Golgi struct {
	opt     Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	gate    gate
	metered bool // somebody reads meters and bills
	refused limiter
	door    chan struct{} // one entry per process without a hello

	mu       sync.Mutex // guards all below and the mutable fields of seats
	closed   bool
	mesh     *identity.Mesh // of links between machines
	routes   map[sdk.CellName]Routes
	seats    map[*seat]struct{}
	byName   map[sdk.CellName]map[*seat]struct{} // ready seats that serve
	tokens   map[string]*ticket
	nextID   uint64
	links    map[uint64]*link
	past     map[pair]channel.LinkStats // of links that are over
	partners map[sdk.NodeID]time.Time   // when the last link to a node ended
	comers   int                        // links that came in from other kernels
	from     map[sdk.NodeID]int         // the same by node
	dropped  chan struct{}              // closed and replaced when a link is over
	leases   map[sdk.NodeID]grant
	gone     *usage // of processes that have ended, what was on no bill then
	owns     map[sdk.NodeID]*own
}

// Routes is what the manifest says of one cell: whom it may call, and by
// which name, and who may call it.
type Routes struct {
	Axons     map[sdk.CellName]Axon   // by the name used in the cell
	Junctions map[sdk.CellName]string // name → directory of another kernel
	Allow     map[string]bool         // callers: cell names and node ids; nil means all
	// Doors are the listeners by which other machines may call it, as their
	// [Door].Name says. Without any it is only for this machine.
	Doors []string
}

// An Axon is where a name leads.
type Axon struct {
	To    []Target
	Peers []sdk.NodeID // nodes that may answer; none means every member
}

// A Target is a cell, wherever it is found, or at an address.
type Target struct {
	Cell sdk.CellName
	Host string // "10.0.0.2:9000"; empty is wherever
}

// A link is a link one of whose ends was given to a cell of this kernel.
type link struct {
	id      uint64
	caller  *seat        // who dialled it; nil if that was at another kernel, or is gone
	from    sdk.CellName // its name
	to      *seat        // who answers; nil until somebody does, or if that is at another kernel
	stats   channel.LinkStats
	billed  int64    // ns of weight, counted in the seat's used
	foreign *foreign // of a link that is not local

	// Of one that was dialled, what the caller says of its calls.
	out     channel.OutStats
	outAt   time.Time // when it did, or when it could begin
	outLast bool      // it has ended the link, and this is all
}

// New makes a Golgi without cells. Close it.
func New(opt Options) *Golgi {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.LinkAge == 0 {
		opt.LinkAge = identity.CertificateLife / 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Golgi{
		opt: opt, ctx: ctx, cancel: cancel, mesh: opt.Mesh, door: make(chan struct{}, maxPending),
		routes: make(map[sdk.CellName]Routes), seats: make(map[*seat]struct{}),
		byName: make(map[sdk.CellName]map[*seat]struct{}), tokens: make(map[string]*ticket),
		links: make(map[uint64]*link), past: make(map[pair]channel.LinkStats),
		partners: make(map[sdk.NodeID]time.Time), dropped: make(chan struct{}), from: make(map[sdk.NodeID]int), leases: make(map[sdk.NodeID]grant),
		gone: newUsage(), owns: make(map[sdk.NodeID]*own),
	}
	g.wg.Go(g.pingAll)
	return g
}

// Route sets what the manifest says of a cell, in place of what it said before.
func (g *Golgi) Route(name sdk.CellName, r Routes) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.routes[name] = r
	for s := range g.seats {
		for need := range s.needs { // its own, and its callers': Allow may have changed
			if s.id.Cell == name || g.leads(s, need, name) {
				g.tell(s, need)
			}
		}
	}
	for _, l := range g.links {
		if l.to != nil && l.to.id.Cell == name && !g.mayCall(l, name) {
			g.revoke(l)
		}
	}
}

// Forget removes a cell that the manifest does not name any more.
func (g *Golgi) Forget(name sdk.CellName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.routes, name)
}

// Close ends all control channels and waits for what runs.
func (g *Golgi) Close() {
	g.mu.Lock()
	g.closed = true
	for s := range g.seats {
		s.ch.Close()
	}
	for _, t := range g.tokens {
		t.expire.Stop()
	}
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
}

// OtherCells stands for both sides of the flows that are too many to be kept
// one by one when their links are over. No cell can be called that.
const OtherCells sdk.CellName = "*"

// A Flow is what one cell answered another since this kernel started. Counters
// never go back.
type Flow struct {
	From, To sdk.CellName
	Links    int // open now
	Stats    channel.LinkStats
}

// Flows lists who calls whom among the cells of this kernel, and who calls them
// from elsewhere.
func (g *Golgi) Flows() []Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum := make(map[pair]*Flow, len(g.past))
	for p, st := range g.past {
		sum[p] = &Flow{From: p.from, To: p.to, Stats: st}
	}
	for _, l := range g.links {
		if l.to == nil || !l.known() {
			continue
		}
		f := sum[l.pair()]
		if f == nil {
			f = &Flow{From: l.from, To: l.to.id.Cell}
			sum[l.pair()] = f
		}
		f.Links++
		f.Stats = add(f.Stats, l.stats)
	}
	out := make([]Flow, 0, len(sum))
	for _, f := range sum {
		out = append(out, *f)
	}
	return out
}

// A pair is a caller and who answers it.
type pair struct{ from, to sdk.CellName }

// known reports whether it is sure who calls: a member can claim any name
// until it has to prove it, and each would be counted by itself.
func (l *link) known() bool { return l.foreign == nil || l.foreign.admitted }

func (l *link) pair() pair { return pair{l.from, l.to.id.Cell} }

func add(a, b channel.LinkStats) channel.LinkStats {
	a.Calls += b.Calls
	a.Errors += b.Errors
	a.HandlerUS += b.HandlerUS
	a.BytesIn += b.BytesIn
	a.BytesOut += b.BytesOut
	return a
}

// newToken returns 32 random bytes in hexadecimal.
func newToken() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: see package crypto/rand
	return hex.EncodeToString(b[:])
}

// closeFiles closes what came with a message and is not wanted.
func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
