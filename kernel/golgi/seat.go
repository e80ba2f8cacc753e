package golgi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A seat is the kernel's side of one attached process.
type seat struct {
	g       *Golgi
	id      Replica
	ch      *channel.Conn
	welcome channel.Welcome
	out     chan queued
	free    bool     // may call every cell: the command line and the kernel itself
	serves  bool     // may be called
	key     [32]byte // its own, by its hello; zero if it can not encrypt

	// Guarded by Golgi.mu.
	hello        bool // the process has introduced itself
	ready        bool // it can be called
	leaving      bool // it is asked to drain
	drained      chan struct{}
	needs        map[sdk.CellName]bool
	news         map[sdk.CellName]channel.Message // endpoints that wait to be sent
	dials        int
	served       int                          // links it answers
	callsCounted bool                         // it says what it calls of other nodes
	pings        int                          // unanswered
	*usage                                    // by other nodes; nil of a stand-in, which serves nobody
	shares       map[sdk.NodeID]*share        // of what a node may use of all
	grants       map[sdk.NodeID]channel.Lease // that wait to be sent
}

// queued is a message for a process, with a descriptor that is closed once it
// is sent.
type queued struct {
	m channel.Message
	f *os.File
}

// String returns "worker#2".
func (s *seat) String() string {
	if s.id.Index == 0 {
		return string(s.id.Cell)
	}
	return fmt.Sprintf("%s#%d", s.id.Cell, s.id.Index)
}

// endpoint returns the name by which this life can be dialled: "worker#2@7".
func (s *seat) endpoint() string { return fmt.Sprintf("%s@%d", s, s.id.Incarnation) }

func (g *Golgi) newSeat(id Replica, w channel.Welcome, ch *channel.Conn) *seat {
	w.Cell, w.Replica, w.Incarnation = id.Cell, id.Index, id.Incarnation
	return &seat{
		g: g, id: id, ch: ch, welcome: w, serves: true, out: make(chan queued, seatQueue),
		drained: make(chan struct{}), needs: make(map[sdk.CellName]bool), news: make(map[sdk.CellName]channel.Message),
		usage: newUsage(), shares: make(map[sdk.NodeID]*share), grants: make(map[sdk.NodeID]channel.Lease),
	}
}

// introduce welcomes a process.
func (s *seat) introduce(h *channel.Hello) {
	g := s.g
	if h.Version != channel.Version {
		s.put(channel.Message{Type: channel.TypeRefused, Failure: &channel.Failure{
			Code: sdk.CodeIncompatible.String(),
			Text: fmt.Sprintf("this kernel speaks version %d, the cell %d: build it with this kernel's sdk", channel.Version, h.Version),
		}}, nil)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.hello || g.closed {
		return
	}
	s.hello = true
	if slices.Contains(h.Features, channel.FeatureNoise) && len(h.Key) == len(s.key) {
		s.key = [32]byte(h.Key)
	}
	s.callsCounted = slices.Contains(h.Features, channel.FeatureCalls)
	g.seats[s] = struct{}{}
	s.put(channel.Message{Type: channel.TypeWelcome, Welcome: &s.welcome}, nil)
}

// listen takes a process's messages until it leaves.
func (s *seat) listen() {
	defer context.AfterFunc(s.g.ctx, func() { s.ch.Close() })() // also of a process without a welcome
	s.g.wg.Go(s.speak)
	buf := make([]byte, channel.MaxMessage)
	for {
		m, files, err := s.ch.RecvMessage(buf)
		closeFiles(files)
		if err == nil {
			err = s.hear(m)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			s.g.opt.Log.Warn("control channel ended", "cell", s.String(), "error", err)
		}
		s.ch.Close()
		s.g.leave(s)
		close(s.out)
		return
	}
}

// speak sends what is queued.
func (s *seat) speak() {
	for q := range s.out {
		if q.m.Type == channel.TypeEndpoints {
			q.m = s.takeNews(q.m.Name)
		} else if q.m.Type == channel.TypeLease {
			q.m = s.takeLease(q.m)
		}
		var files []*os.File
		if q.f != nil {
			files = append(files, q.f)
		}
		err := s.ch.SendMessage(q.m, files...)
		closeFiles(files)
		if err != nil {
			s.ch.Close() // listen sees it
		}
	}
}

// putNews queues endpoints. Those of a name that wait to be sent are replaced:
// however often they change, a process that is stopped has one set of each to
// read. The caller holds Golgi.mu.
func (s *seat) putNews(m channel.Message) {
	_, waits := s.news[m.Name]
	s.news[m.Name] = m
	if !waits {
		s.put(channel.Message{Type: channel.TypeEndpoints, Name: m.Name}, nil)
	}
}

// takeNews returns the latest endpoints of a name.
func (s *seat) takeNews(name sdk.CellName) channel.Message {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	m := s.news[name]
	delete(s.news, name)
	return m
}

// put queues a message, and with it the ownership of f. A process that lets a
// thousand of them wait is cut off. A stand-in hears nothing. The caller holds
// Golgi.mu, or is listen.
func (s *seat) put(m channel.Message, f *os.File) {
	if s.ch == nil {
		closeIf(f)
		return
	}
	select {
	case s.out <- queued{m, f}:
	default:
		if f != nil {
			f.Close()
		}
		s.g.opt.Log.Warn("cut off a cell that does not read its control channel", "cell", s.String(), "messages", seatQueue)
		s.ch.Close()
	}
}

func (s *seat) hear(m channel.Message) error {
	if m.Type == channel.TypeHello && m.Hello != nil {
		s.introduce(m.Hello)
		return nil
	}
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.hello {
		return fmt.Errorf("%q before hello", m.Type)
	}
	switch m.Type {
	case channel.TypeReady:
		g.ready(s)
	case channel.TypeNeed:
		g.need(s, m.Name)
	case channel.TypeDial:
		return g.dialFor(s, m)
	case channel.TypeStats:
		g.count(s, m)
	case channel.TypeClosed:
		g.count(s, m)
		g.over(s, m.ID)
	case channel.TypeAdmit:
		g.question(s, m)
	case channel.TypeDrain:
		s.leaving = true
		g.unlist(s)
	case channel.TypeDrained:
		select {
		case <-s.drained:
		default:
			close(s.drained)
		}
	case channel.TypePong:
		s.pings = 0
	}
	return nil
}

// ready makes a process callable. The caller holds mu.
func (g *Golgi) ready(s *seat) {
	if s.ready {
		return
	}
	s.ready = true
	if !s.leaving && s.serves {
		if g.byName[s.id.Cell] == nil {
			g.byName[s.id.Cell] = make(map[*seat]struct{})
		}
		g.byName[s.id.Cell][s] = struct{}{}
		g.push(s.id.Cell)
	}
	if g.opt.Ready != nil && !s.free {
		g.opt.Ready(s.id)
	}
}

// Served returns how many replicas of a cell can be called.
func (g *Golgi) Served(cell sdk.CellName) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.byName[cell])
}

// count takes the counters of links that s serves. The caller holds mu.
func (g *Golgi) count(s *seat, m channel.Message) {
	if m.Stats == nil {
		return
	}
	var counts []Count
	for _, st := range m.Stats.Links {
		if l := g.links[st.ID]; l != nil && l.to == s {
			if l.known() {
				counts = append(counts, l.countOf(st, m.Type == channel.TypeClosed))
			}
			l.stats = st
			l.stats.Methods = nil
		}
	}
	g.tally(s, m.Stats, counts)
	g.called(s, m.Stats.Out, m.Type == channel.TypeClosed)
}

// over forgets a link that s says has ended: one it served, or one it dialled
// to another node. The caller holds mu.
func (g *Golgi) over(s *seat, id uint64) {
	if l := g.links[id]; l != nil && (l.to == s || l.to == nil && l.foreign != nil && l.caller == s) {
		g.drop(l)
	}
}

// drop forgets a link that is over. The caller holds mu.
func (g *Golgi) drop(l *link) {
	g.lastCalls(l)
	delete(g.links, l.id)
	if l.to != nil && l.foreign != nil {
		g.uncount(l.foreign.claimed)
	}
	close(g.dropped)
	g.dropped = make(chan struct{})
	g.unlinked(l.foreign)
	if l.to == nil {
		return
	}
	l.to.served--
	if !l.known() {
		return
	}
	p := l.pair()
	if _, known := g.past[p]; !known && len(g.past) >= maxPairs {
		p = pair{OtherCells, OtherCells}
	}
	g.past[p] = add(g.past[p], l.stats)
}

// unlist makes a process unreachable for new links. The caller holds mu.
func (g *Golgi) unlist(s *seat) {
	if _, ok := g.byName[s.id.Cell][s]; ok {
		delete(g.byName[s.id.Cell], s)
		g.push(s.id.Cell)
	}
}

// leave forgets a process that is gone.
func (g *Golgi) leave(s *seat) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.seats, s)
	g.gone.inherit(s.usage)
	g.unlist(s)
	for _, l := range g.links {
		if l.to == s || l.caller == s && l.foreign != nil {
			g.drop(l)
		} else if l.caller == s {
			l.caller = nil
		}
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// seatOf returns the seat of a life, or nil. The caller holds mu.
func (g *Golgi) seatOf(id Replica) *seat {
	for s := range g.seats {
		if s.id == id {
			return s
		}
	}
	return nil
}

// Drain asks a process to finish its calls and waits until it has, it is gone,
// or ctx is done. From the beginning no new link leads to it.
func (g *Golgi) Drain(done <-chan struct{}, id Replica) error {
	g.mu.Lock()
	s := g.seatOf(id)
	if s == nil {
		g.mu.Unlock()
		return sdk.Errorf(sdk.CodeNotFound, "drain %s#%d: not attached", id.Cell, id.Index)
	}
	s.leaving = true
	g.unlist(s)
	s.put(channel.Message{Type: channel.TypeDrain}, nil)
	g.mu.Unlock()
	select {
	case <-s.drained:
	case <-done:
	}
	return nil
}
