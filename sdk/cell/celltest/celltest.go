// Package celltest is a kernel small enough for a Go test of a cell: it
// attaches cells of this process, hands them real connected sockets, and
// leaves the way, as the real one does. There is no configuration and no
// other process.
//
//	k := celltest.New(t)
//	k.Serve("worker", func(m *cell.Membrane) { bench.RegisterWorker(m, worker{}) })
//	client := bench.NewWorkerClient(k.Synapse("worker"))
package celltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"golang.org/x/sys/unix"
)

// A Kernel joins the cells of one test. Its methods may be used by several
// goroutines, but only while the test runs.
type Kernel struct {
	t  testing.TB
	wg sync.WaitGroup

	mu     sync.Mutex // guards all below
	seats  []*seat
	starts map[sdk.CellName]int
	links  uint64
	caller *cell.Membrane
}

// A seat is the kernel's side of one attached cell.
type seat struct {
	ch       *channel.Conn
	name     sdk.CellName
	node     sdk.NodeID
	endpoint string
	ready    bool
	needs    map[sdk.CellName]bool
	drained  chan struct{}
	stats    map[uint64]channel.LinkStats
}

// New returns a Kernel that closes all cells when the test ends.
func New(t testing.TB) *Kernel {
	k := &Kernel{t: t, starts: make(map[sdk.CellName]int)}
	t.Cleanup(k.wg.Wait)
	return k
}

// An Option changes how a cell is welcomed.
type Option func(*channel.Welcome)

// Concurrency limits the calls a cell handles at once.
func Concurrency(n int) Option { return func(w *channel.Welcome) { w.Concurrency = n } }

// Links sets how many links a cell keeps per name.
func Links(n int) Option { return func(w *channel.Welcome) { w.Links = n } }

// Metered asks a cell to say who it worked for.
func Metered() Option { return func(w *channel.Welcome) { w.Meter = true } }

// Node lets the cells that a cell calls take it for one of another node.
func Node(id sdk.NodeID) Option { return func(w *channel.Welcome) { w.Node = id } }

// Axon sets how a cell treats one name it calls.
func Axon(name sdk.CellName, a channel.Axon) Option {
	return func(w *channel.Welcome) {
		if w.Axons == nil {
			w.Axons = make(map[sdk.CellName]channel.Axon)
		}
		w.Axons[name] = a
	}
}

// Attach attaches one more replica of a cell, and closes it when the test ends.
func (k *Kernel) Attach(name sdk.CellName, opts ...Option) *cell.Membrane {
	k.t.Helper()
	ours, theirs, err := channel.Pair()
	if err != nil {
		k.t.Fatal(err)
	}
	ch, err := channel.FromFile(theirs)
	theirs.Close()
	if err != nil {
		k.t.Fatal(err)
	}
	k.mu.Lock()
	k.starts[name]++
	n := k.starts[name]
	k.mu.Unlock()
	w := channel.Welcome{Cell: name, Replica: n, Incarnation: uint64(n)}
	for _, o := range opts {
		o(&w)
	}
	s := &seat{ch: ours, name: name, node: w.Node, endpoint: fmt.Sprintf("%s#%d@%d", name, n, n), needs: make(map[sdk.CellName]bool), drained: make(chan struct{}), stats: make(map[uint64]channel.LinkStats)}
	k.wg.Go(func() { k.serve(s, w) })
	m, err := cell.Attach(ch, channel.Hello{})
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			k.t.Error(err)
		}
	})
	return m
}

// Serve attaches one more replica of a cell and serves what register registers.
func (k *Kernel) Serve(name sdk.CellName, register func(m *cell.Membrane), opts ...Option) *cell.Membrane {
	k.t.Helper()
	m := k.Attach(name, opts...)
	register(m)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Serve(ctx) // its error repeats what Close says
	}()
	k.t.Cleanup(func() { cancel(); <-done })
	return m
}

// Synapse returns a connection to name for the test itself, as the cell "test".
func (k *Kernel) Synapse(name sdk.CellName) *cell.Synapse {
	k.t.Helper()
	k.mu.Lock()
	m := k.caller
	k.mu.Unlock()
	if m == nil {
		m = k.Attach("test")
		k.mu.Lock()
		k.caller = m
		k.mu.Unlock()
	}
	return m.Synapse(name)
}

// Drain asks all replicas of a cell to drain, and waits until they have.
func (k *Kernel) Drain(name sdk.CellName) {
	k.t.Helper()
	k.mu.Lock()
	var drain []*seat
	for _, s := range k.seats {
		if s.name == name && s.ready {
			s.ready = false
			drain = append(drain, s)
		}
	}
	k.push(name)
	k.mu.Unlock()
	for _, s := range drain {
		if err := s.ch.SendMessage(channel.Message{Type: channel.TypeDrain}); err != nil {
			k.t.Error(err)
			continue
		}
		<-s.drained
	}
}

// Stats returns the counters of all links that cells named name have served.
func (k *Kernel) Stats(name sdk.CellName) []channel.LinkStats {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []channel.LinkStats
	for _, s := range k.seats {
		if s.name == name {
			for _, l := range s.stats {
				out = append(out, l)
			}
		}
	}
	return out
}

// Lease tells all replicas of a cell how much a node may use.
func (k *Kernel) Lease(name sdk.CellName, l channel.Lease) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.seats {
		if s.name != name {
			continue
		}
		if err := s.ch.SendMessage(channel.Message{Type: channel.TypeLease, Lease: &l}); err != nil {
			k.t.Error(err)
		}
	}
}

// serve answers one cell until it leaves.
func (k *Kernel) serve(s *seat, w channel.Welcome) {
	defer s.ch.Close()
	buf := make([]byte, channel.MaxMessage)
	for {
		m, files, err := s.ch.RecvMessage(buf)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				k.t.Errorf("celltest: %s: %v", s.endpoint, err)
			}
			k.leave(s)
			return
		}
		for _, f := range files {
			f.Close()
		}
		if m.Type == channel.TypeHello {
			err = s.ch.SendMessage(channel.Message{Type: channel.TypeWelcome, Welcome: &w})
			k.mu.Lock()
			k.seats = append(k.seats, s)
			k.mu.Unlock()
		} else {
			err = k.handle(s, m)
		}
		if err != nil && !errors.Is(err, unix.EPIPE) {
			k.t.Errorf("celltest: %s: %v", s.endpoint, err)
		}
	}
}

func (k *Kernel) handle(s *seat, m channel.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch m.Type {
	case channel.TypeReady:
		s.ready = true
		k.push(s.name)
	case channel.TypeNeed:
		s.needs[m.Name] = true
		return k.tell(s, m.Name)
	case channel.TypeDial:
		return k.dial(s, m)
	case channel.TypeStats, channel.TypeClosed:
		if m.Stats != nil {
			for _, l := range m.Stats.Links {
				s.stats[l.ID] = l
			}
		}
	case channel.TypeDrained:
		close(s.drained)
	}
	return nil
}

func (k *Kernel) leave(s *seat) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.ready = false
	clear(s.needs)
	k.push(s.name)
}

// push tells everybody who needs name its endpoints. The caller holds mu.
func (k *Kernel) push(name sdk.CellName) {
	for _, s := range k.seats {
		if s.needs[name] {
			_ = k.tell(s, name) // a cell that left needs nothing
		}
	}
}

func (k *Kernel) tell(s *seat, name sdk.CellName) error {
	e := &channel.Endpoints{}
	for _, other := range k.seats {
		if other.ready && other.name == name && other != s {
			e.Local = append(e.Local, other.endpoint)
		}
	}
	return s.ch.SendMessage(channel.Message{Type: channel.TypeEndpoints, Name: name, Endpoints: e})
}

// dial makes a link between two cells. The caller holds mu.
func (k *Kernel) dial(s *seat, m channel.Message) error {
	for _, other := range k.seats {
		if other.endpoint != m.Endpoint || !other.ready {
			continue
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		a, b := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
		defer a.Close()
		defer b.Close()
		k.links++
		in := channel.Message{Type: channel.TypeLink, Link: &channel.Link{ID: k.links, Local: true, Node: s.node, Cell: s.name}}
		if err := other.ch.SendMessage(in, b); err != nil {
			break
		}
		out := &channel.Link{ID: k.links, Local: true, Cell: other.name, Outgoing: true, Endpoint: m.Endpoint}
		return s.ch.SendMessage(channel.Message{Type: channel.TypeLink, ID: m.ID, Link: out}, a)
	}
	f := &channel.Failure{Code: sdk.CodeUnavailable.String(), Text: fmt.Sprintf("dial %q: no such replica", m.Endpoint)}
	return s.ch.SendMessage(channel.Message{Type: channel.TypeRefused, ID: m.ID, Failure: f})
}
