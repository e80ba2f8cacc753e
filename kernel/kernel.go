package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/catalog"
	"github.com/cellkernel/cellkernel/kernel/gauge"
	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/kernel/golgi"
	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/kernel/network"
	"github.com/cellkernel/cellkernel/kernel/peers"
	"github.com/cellkernel/cellkernel/kernel/probe"
	"github.com/cellkernel/cellkernel/kernel/settle"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/kernel/vacuole"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

const (
	journalSize = 4096             // events kept
	endTimeout  = 5 * time.Second  // for what is killed to be gone
	downTimeout = 30 * time.Second // for cells to drain, unless asked otherwise
	pluginGrace = 2 * time.Second  // for plugins to close what they hold

	metricsTimeout = 5 * time.Second // for one scrape
)

// Options are what a kernel is made of. All but Stdout and Origins are required.
type Options struct {
	Plan    admin.Plan
	Genome  *genome.Genome // what Plan's sources say; valid
	Origins []admin.Setting
	Version string
	// Self is the program, for its hidden commands; open since the start of the
	// process, so that an upgrade on disk does not change what runs.
	Self *os.File
	// Bundled returns the arguments by which Self serves a bundled plugin.
	Bundled func(kind sdk.Kind, use string) (args []string, ok bool)
	// Build makes the programs of cells that have a package, in dir, and
	// returns their paths.
	Build func(ctx context.Context, cells []*genome.Cell, dir string, say func(string)) (map[sdk.CellName]string, error)
	// Stale lists the cells whose programs Build would make anew. It writes nothing.
	Stale func(cells []*genome.Cell, dir string) ([]sdk.CellName, error)
	// Load reads a plan's sources again, for Apply.
	Load   func(admin.Plan) (*genome.Genome, []admin.Setting, error)
	Stdout io.Writer // gets what the main job writes to its standard output
}

// A Kernel runs the cells of one genome. Make it with New and call Run once;
// the methods of [admin.Kernel] may be called from then on.
type Kernel struct {
	*membership.Live // who this node is in its mesh

	opt     Options
	journal *admin.Journal
	log     *slog.Logger
	dirs    dirs
	begun   time.Time

	vacuole   *vacuole.Vacuole
	spawner   *supervisor.Spawner
	cells     *supervisor.Supervisor
	catalog   *catalog.Catalog
	gauge     *gauge.Gauge
	peers     *peers.Table
	golgi     *golgi.Golgi
	network   *network.Network
	probe     *probe.Prober
	settle    *settle.Settle // who owes whom
	bank      admin.Banker   // shows what settle books
	caller    *cell.Membrane // the kernel as a caller of cells
	golgiCell *cell.Membrane // the kernel as the cell "golgi"

	down     chan admin.DownRequest // capacity 1
	broken   chan error             // capacity 1: why nothing can be booked any more
	drained  chan struct{}          // closed when nothing but the kernel is left
	started  chan struct{}          // closed when the parts above exist
	launches atomic.Uint64
	changing sync.Mutex // held by Apply

	mu      sync.Mutex // guards all below
	genome  *genome.Genome
	plan    admin.Plan
	origins []admin.Setting
	file    *genome.Genome // as the files said when they were last taken up: people swap plugins since
	wanted  []sdk.CellName // cells that run, in the order in which they start
	built   map[sdk.CellName]binary
	state   admin.State
	last    map[sdk.CellName]map[int]supervisor.Status // as published
}

var _ admin.Kernel = (*Kernel)(nil)

// New makes a kernel. Nothing is started.
func New(opt Options) *Kernel {
	if opt.Stdout == nil {
		opt.Stdout = io.Discard
	}
	return &Kernel{
		opt: opt, journal: admin.NewJournal(journalSize), begun: time.Now(),
		down: make(chan admin.DownRequest, 1), broken: make(chan error, 1), drained: make(chan struct{}), started: make(chan struct{}),
		genome: opt.Genome, file: opt.Genome, plan: opt.Plan, origins: opt.Origins, built: make(map[sdk.CellName]binary),
		last: make(map[sdk.CellName]map[int]supervisor.Status), state: admin.StateStarting, log: slog.New(slog.DiscardHandler),
	}
}

// Run boots the kernel and blocks until it has ended: because Down was
// called, because its main job ended, whose exit code it returns, or because
// booting failed. When ctx is done it kills everything at once.
func (k *Kernel) Run(ctx context.Context) (exit int, err error) {
	defer k.journal.Close()
	var end closers
	defer func() { err = errors.Join(err, end.close()) }()
	if err := k.assemble(ctx, &end); err != nil {
		return 0, err
	}
	life, stop := context.WithCancel(ctx)
	defer stop()
	booted := make(chan error, 1)
	ended := make(chan int, 1)
	var wg sync.WaitGroup
	// Links are taken until the last cell has drained: calls that run may need
	// new ones.
	serving, unlisten := context.WithCancel(context.WithoutCancel(ctx))
	defer unlisten()
	k.network.Begin(serving, &wg)
	wg.Go(func() { k.gauge.Run(serving) })
	wg.Go(func() { booted <- k.boot(life, serving, ended, &wg) })
	exit, request, err := k.await(ctx, booted, ended)
	stop()
	k.drain(ctx, request)
	unlisten()
	wg.Wait()
	close(k.drained)
	return exit, err
}

// await waits for whatever ends a kernel.
func (k *Kernel) await(ctx context.Context, booted <-chan error, ended <-chan int) (exit int, r admin.DownRequest, err error) {
	for {
		select {
		case <-ctx.Done():
			return 0, admin.DownRequest{Now: true}, context.Cause(ctx)
		case r := <-k.down:
			return 0, r, nil
		case exit := <-ended:
			return exit, r, nil
		case err := <-k.broken:
			return 0, r, err
		case err := <-booted:
			if err != nil {
				return 0, r, err
			}
			booted = nil
		}
	}
}

// closers undo what was done, in reverse order.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() error {
	var errs []error
	for _, f := range slices.Backward(*c) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// assemble makes all parts, from the bottom up. What it has made is in end.
func (k *Kernel) assemble(ctx context.Context, end *closers) error {
	if err := supervisor.SealDescriptors(); err != nil {
		return err
	}
	if err := k.openDirs(ctx, end); err != nil {
		return err
	}
	if err := k.openLogs(end); err != nil {
		return err
	}
	if err := k.openMember(end); err != nil {
		return err
	}
	if err := k.openSpawner(ctx, end); err != nil {
		return err
	}
	k.openCatalog(end)
	k.openGauge()
	k.cells = supervisor.New(k.spawner, k.hooks(), k.log)
	if err := k.openGolgi(end); err != nil {
		return err
	}
	if err := k.watchMember(end); err != nil {
		return err
	}
	close(k.started)
	if err := k.openMetrics(end); err != nil {
		return err
	}
	return k.openAdmin(end)
}

// boot starts plugins and builds cells side by side, then starts the cells,
// each when what it needs is ready. It returns when all are ready.
func (k *Kernel) boot(ctx, serving context.Context, ended chan<- int, wg *sync.WaitGroup) error {
	if _, why := k.spawner.Cgroup(); why != "" {
		k.note("no cgroup for the cells: " + why + ": a cell's grandchildren are found by their environment only")
	}
	wanted, err := selectCells(k.opt.Genome, k.opt.Plan)
	if err != nil {
		return err
	}
	k.setWanted(wanted)
	k.doubt(nil, k.opt.Genome.Doubts(wanted))
	plugins := make(chan error, 1)
	wg.Go(func() { plugins <- k.startPlugins(ctx, serving, wg) })
	err = k.build(ctx, k.opt.Genome, wanted)
	if perr := <-plugins; perr != nil {
		err = errors.Join(perr, err)
	}
	if err != nil {
		return err
	}
	for _, name := range wanted {
		if err := k.addCell(k.opt.Genome, name); err != nil {
			return err
		}
	}
	if err := k.startCells(ctx, wanted); err != nil {
		return err
	}
	k.setState(admin.StateReady)
	k.journal.Publish(admin.Event{Kind: admin.EventReady, Text: k.posture()})
	if main := k.opt.Genome.Workspace.Main; main != "" && slices.Contains(wanted, main) {
		wg.Go(func() { k.awaitMain(ctx, main, ended) })
	}
	return nil
}

// awaitMain ends the kernel with the main job.
func (k *Kernel) awaitMain(ctx context.Context, main sdk.CellName, ended chan<- int) {
	code, err := k.cells.WaitDone(ctx, main)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		k.note(err.Error())
		code = max(code, 1)
	}
	k.log.Info(fmt.Sprintf("main %s ended with %d", main, code))
	ended <- code
}

// startPlugins starts what golgi asks for, side by side, then the listener for
// local links and, if a cell needs it, what leads off this machine.
func (k *Kernel) startPlugins(ctx, serving context.Context, wg *sync.WaitGroup) error {
	g, wanted := k.opt.Genome, k.wantedCells()
	far := network.Plugins(g, wanted)
	var specs []catalog.Spec
	for _, r := range g.Selected() {
		if !r.Networked() || len(far) > 0 {
			specs = append(specs, network.SpecOf(r))
		}
	}
	if err := k.catalog.Start(ctx, specs...); err != nil {
		return err
	}
	k.network.Started(far)
	if err := k.bill(ctx, serving, wg); err != nil {
		return err
	}
	local, err := k.catalog.Transport("uds")
	if err != nil {
		return err
	}
	ln, err := local.Listen(ctx, sdk.Addr{Scheme: "uds", Host: k.dirs.links})
	if err != nil {
		return err
	}
	wg.Go(func() {
		if err := k.golgi.ServeLinks(ln, golgi.Door{}); err != nil {
			k.log.Error("listener for links ended", "error", err)
		}
	})
	wg.Go(func() { <-serving.Done(); ln.Close() })
	return k.network.Sync(ctx, g, wanted, false)
}

// dial connects to an address by the transport that owns its scheme.
func (k *Kernel) dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	t, err := k.catalog.Transport(addr.Scheme)
	if err != nil {
		return nil, err
	}
	return t.Dial(ctx, addr)
}

// drain ends all cells, those first on which nobody depends.
func (k *Kernel) drain(ctx context.Context, r admin.DownRequest) {
	k.setState(admin.StateDraining)
	k.journal.Publish(admin.Event{Kind: admin.EventDrain, Waiting: waitingFor(k.cells.List())})
	within := r.Within
	if within <= 0 {
		within = downTimeout
	}
	if r.Now {
		within = 0
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := k.cells.Close(ctx, k.wantedCells()...); err != nil && !r.Now {
		k.note(err.Error())
	}
}
