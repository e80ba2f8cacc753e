package cell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/synapse"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

const (
	attachTimeout = 10 * time.Second
	statsEvery    = time.Second
	meterEvery    = 100 * time.Millisecond // the same where somebody is charged by them
	sayQueue      = 256                    // messages to the kernel that wait
	statsBatch    = 400                    // links and methods in one stats message: it must fit
	closeTimeout  = 5 * time.Second
	linkLinger    = time.Second // for callers to close their links after a drain
)

// A Membrane is this process's attachment to its kernel: it serves what is
// registered and makes Synapses to other cells. It is safe for concurrent use.
type Membrane struct {
	ch      *channel.Conn
	key     *synapse.Key // of this process, for links that are not local
	life    context.Context
	die     context.CancelFunc
	welcome channel.Welcome
	table   []wire.Service
	methods []*method
	// maxMessage is the length of the longest message this cell accepts, in bytes.
	maxMessage int
	nodeCalls  int // handlers for one node that pays
	room       longRoom
	chunks     chunkPools
	calls      sync.Pool
	workers    workers
	reaper     *reaper

	out       chan channel.Message // to the kernel
	closed    chan struct{}        // closed when the kernel is gone
	drain     chan struct{}        // closed when the kernel asks to drain
	idle      chan struct{}        // capacity 1: the last call, or a link, ended while draining
	draining  atomic.Bool
	inflight  atomic.Int64
	dirty     atomic.Bool // counters are to be said
	counting  atomic.Bool // those of calls to other nodes are
	account   account
	wg        sync.WaitGroup
	closeOnce func() error

	mu         sync.Mutex // guards all below, and table and methods until ready
	ready      bool
	why        *sdk.Error // why closed is closed
	drainSet   bool
	synapses   map[sdk.CellName]*Synapse
	in         map[uint64]*inLink
	outlived   map[*inLink]struct{} // links that have ended, whose handlers go on
	foreign    map[uint64]*link     // links that are not local, from their handshake on
	securing   int                  // of those to serve, whose handshake is under way
	securingOf map[sdk.NodeID]int   // the same by node
	asked      map[uint64]chan channel.Message
	dials      map[uint64]chan dialled
	dialID     uint64
	timers     map[*time.Timer]struct{}
}

// dialled is the kernel's answer to a dial.
type dialled struct {
	info    channel.Link
	file    *os.File
	failure *channel.Failure
}

// Attach joins the kernel at the other end of ch, which then belongs to the
// Membrane. It blocks until the kernel's welcome, at most ten seconds. Cells
// use [Main]; Attach is for those who bring their own channel, like tests.
func Attach(ch *channel.Conn, hello channel.Hello) (*Membrane, error) {
	key, err := synapse.GenerateKey()
	if err != nil {
		ch.Close()
		return nil, fmt.Errorf("attach to kernel: %w", err)
	}
	public := key.Public()
	hello.Version, hello.PID, hello.Key = channel.Version, os.Getpid(), public[:]
	hello.Features = append(hello.Features, channel.FeatureNoise, channel.FeatureCalls)
	if err := ch.SendMessage(channel.Message{Type: channel.TypeHello, Hello: &hello}); err != nil {
		ch.Close()
		return nil, fmt.Errorf("attach to kernel: %w", err)
	}
	ch.SetReadDeadline(time.Now().Add(attachTimeout))
	answer, files, err := ch.RecvMessage(make([]byte, channel.MaxMessage))
	for _, f := range files {
		f.Close()
	}
	switch {
	case err != nil:
		err = fmt.Errorf("attach to kernel: %w", err)
	case answer.Type == channel.TypeRefused && answer.Failure != nil:
		err = fmt.Errorf("attach to kernel: %w", answer.Failure.Err())
	case answer.Type != channel.TypeWelcome || answer.Welcome == nil:
		err = fmt.Errorf("attach to kernel: answer is %q, not a welcome", answer.Type)
	}
	if err != nil {
		ch.Close()
		return nil, err
	}
	ch.SetReadDeadline(time.Time{})
	return newMembrane(ch, key, *answer.Welcome), nil
}

func newMembrane(ch *channel.Conn, key *synapse.Key, w channel.Welcome) *Membrane {
	m := &Membrane{
		ch: ch, key: key, welcome: w, maxMessage: cmp.Or(w.MaxMessage, maxMessage), nodeCalls: cmp.Or(w.NodeCalls, nodeCalls), reaper: newReaper(),
		workers: workers{limit: w.Concurrency, work: make(chan *Call)},
		out:     make(chan channel.Message, sayQueue),
		closed:  make(chan struct{}), drain: make(chan struct{}), idle: make(chan struct{}, 1),
		synapses: make(map[sdk.CellName]*Synapse), in: make(map[uint64]*inLink), outlived: make(map[*inLink]struct{}),
		foreign: make(map[uint64]*link), asked: make(map[uint64]chan channel.Message),
		dials: make(map[uint64]chan dialled), timers: make(map[*time.Timer]struct{}),
	}
	m.securingOf = make(map[sdk.NodeID]int)
	m.room = newLongRoom(m.maxMessage)
	m.account.m, m.account.leases = m, make(map[sdk.NodeID]*allowance)
	m.life, m.die = context.WithCancel(context.Background())
	m.closeOnce = sync.OnceValue(m.close)
	m.wg.Go(m.listen)
	m.wg.Go(m.speak)
	m.wg.Go(func() { m.reaper.run(m.closed) })
	return m
}

// Name returns the name of this cell.
func (m *Membrane) Name() sdk.CellName { return m.welcome.Cell }

// Replica returns the number of this replica, from 1.
func (m *Membrane) Replica() int { return m.welcome.Replica }

// identity names this incarnation of this replica, as endpoints do.
func (m *Membrane) identity() string {
	return fmt.Sprintf("%s#%d@%d", m.welcome.Cell, m.welcome.Replica, m.welcome.Incarnation)
}

// Synapse returns this cell's connection to the cells that serve name. It
// does not block: links are made when the first call needs one. The same name
// returns the same Synapse.
func (m *Membrane) Synapse(name sdk.CellName) *Synapse {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.synapses[name]
	if s == nil {
		s = newSynapse(m, name)
		m.synapses[name] = s
	}
	return s
}

// Ready tells the kernel that this cell can be called and that whoever waits
// for it may start. Serve calls it; a cell that only calls others calls it
// itself. What is registered is fixed from here on.
func (m *Membrane) Ready() {
	m.mu.Lock()
	first := !m.ready
	m.ready = true
	m.mu.Unlock()
	if first {
		m.say(channel.Message{Type: channel.TypeReady})
	}
}

// Serve answers calls until the kernel asks this cell to drain, ctx is done,
// or the kernel is gone. Then it refuses new calls, waits for those that run,
// and returns nil; an error means that it could not wait for all.
func (m *Membrane) Serve(ctx context.Context) error {
	m.Ready()
	select {
	case <-m.drain:
	case <-ctx.Done():
	case <-m.closed:
		return m.err()
	}
	return m.finish()
}

// finish drains. Links are told before any call is refused, so that callers
// know better than to try this replica again; links that came in between are
// told by the second round.
//
// What a caller sent before it heard of the drain is still on its way when the
// last call has ended. It can be refused, and so be sent to another replica,
// only as long as somebody reads: the links stay until the callers close them.
func (m *Membrane) finish() error {
	m.say(channel.Message{Type: channel.TypeDrain}) // no more links
	for range 2 {
		for _, l := range m.inLinks() {
			l.goAway()
		}
		m.draining.Store(true)
	}
	limit := time.Duration(m.welcome.DrainMS) * time.Millisecond
	if limit <= 0 {
		limit = 10 * time.Second
	}
	if !m.settle(limit, func() bool { return m.inflight.Load() == 0 }) {
		if err := m.err(); err != nil {
			return err
		}
		return fmt.Errorf("drain: %d calls still run after %s", m.inflight.Load(), limit)
	}
	m.settle(min(limit, linkLinger), func() bool { return len(m.inLinks()) == 0 })
	m.say(channel.Message{Type: channel.TypeDrained})
	return nil
}

// settle waits until ok, which is asked whenever the last call or a link has
// ended, and reports whether that came in time.
func (m *Membrane) settle(limit time.Duration, ok func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for !ok() {
		select {
		case <-m.idle:
		case <-m.closed:
			return false
		case <-timer.C:
			return false
		}
	}
	return true
}

// called is told of every call that ended.
func (m *Membrane) called() {
	if m.inflight.Add(-1) == 0 && m.draining.Load() {
		wakeUp(m.idle)
	}
	m.touch()
}

// touch makes sure that the counters are said soon.
func (m *Membrane) touch() {
	if m.dirty.Load() || m.dirty.Swap(true) {
		return
	}
	every := statsEvery
	if m.welcome.Meter {
		every = meterEvery
		m.account.wake()
	}
	m.after(every, m.sayStats)
}

// sayStats tells the kernel the counters. They are absolute: what the kernel
// misses now it learns with the next.
func (m *Membrane) sayStats() {
	m.dirty.Store(false)
	if m.account.look() {
		m.touch()
	}
}

// trySay queues a message for the kernel if there is room.
func (m *Membrane) trySay(msg channel.Message) bool {
	select {
	case m.out <- msg:
		return true
	default:
		return false
	}
}

func (m *Membrane) inLinks() []*inLink {
	m.mu.Lock()
	defer m.mu.Unlock()
	links := make([]*inLink, 0, len(m.in))
	for _, l := range m.in {
		links = append(links, l)
	}
	return links
}

// err returns why the Membrane is closed, nil while it is not.
func (m *Membrane) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why == nil {
		return nil
	}
	return m.why
}

// say queues a message for the kernel. It waits while the queue is full,
// which is so only while the kernel is stopped.
func (m *Membrane) say(msg channel.Message) {
	select {
	case m.out <- msg:
	case <-m.closed:
	}
}

// speak writes what is queued.
func (m *Membrane) speak() {
	for {
		select {
		case <-m.closed:
			return
		case msg := <-m.out:
			if err := m.ch.SendMessage(msg); err != nil {
				m.shut(err)
				return
			}
		}
	}
}

// listen takes messages from the kernel until it is gone.
func (m *Membrane) listen() {
	buf := make([]byte, channel.MaxMessage)
	for {
		msg, files, err := m.ch.RecvMessage(buf)
		if errors.Is(err, io.EOF) {
			err = errors.New("the kernel is gone")
		}
		if err != nil {
			m.shut(err)
			return
		}
		if msg.Type == channel.TypeLink && msg.Link != nil && len(files) == 1 {
			m.hearLink(msg, files[0])
			continue
		}
		for _, f := range files {
			f.Close()
		}
		m.hear(msg)
	}
}

func (m *Membrane) hear(msg channel.Message) {
	switch msg.Type {
	case channel.TypeEndpoints:
		var failure *sdk.Error
		if msg.Failure != nil {
			failure = msg.Failure.Err()
		}
		m.Synapse(msg.Name).update(msg.Endpoints, failure)
	case channel.TypeLink:
		slog.Error("kernel sent a malformed link", "id", msg.ID)
	case channel.TypeRefused:
		m.answer(msg.ID, dialled{failure: msg.Failure})
	case channel.TypeAdmitted:
		m.admitted(msg)
	case channel.TypeCut:
		m.cut(msg)
	case channel.TypeRelease:
		m.release(msg.ID)
	case channel.TypeDrain:
		m.requestDrain()
	case channel.TypeLease:
		m.account.grant(msg.Lease)
	case channel.TypePing:
		m.say(channel.Message{Type: channel.TypePong, ID: msg.ID})
	}
}

// dial asks the kernel for a link and opens it.
func (m *Membrane) dial(s *Synapse, endpoint string) (*outLink, error) {
	answer := make(chan dialled, 1)
	m.mu.Lock()
	m.dialID++
	id := m.dialID
	m.dials[id] = answer
	m.mu.Unlock()
	m.say(channel.Message{Type: channel.TypeDial, ID: id, Name: s.name, Endpoint: endpoint})
	timer := time.NewTimer(dialTimeout)
	defer timer.Stop()
	var got dialled
	select {
	case got = <-answer:
	case <-m.closed:
		got.failure = channel.FailureOf(m.err())
	case <-timer.C:
		got.failure = &channel.Failure{Code: sdk.CodeUnavailable.String(), Text: fmt.Sprintf("dial %q: the kernel did not answer within %s", endpoint, dialTimeout)}
	}
	m.mu.Lock()
	delete(m.dials, id)
	m.mu.Unlock()
	select {
	case late := <-answer: // came between the timer and the delete
		got = late
	default:
	}
	if got.failure != nil {
		return nil, got.failure.Err()
	}
	return openOut(s, got.info, got.file)
}

// answer gives the kernel's answer to whoever dialled, if somebody still waits.
func (m *Membrane) answer(id uint64, d dialled) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.dials[id]
	if c == nil {
		return false
	}
	delete(m.dials, id)
	c <- d
	return true
}

func (m *Membrane) requestDrain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.drainSet {
		m.drainSet = true
		close(m.drain)
	}
}
