package golgi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

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
	free    bool // may call every cell: the command line and the kernel itself

	// Guarded by Golgi.mu.
	hello   bool // the process has introduced itself
	ready   bool // it can be called
	leaving bool // it is asked to drain
	drained chan struct{}
	needs   map[sdk.CellName]bool
	dials   int
	served  int // links it answers
	pings   int // unanswered
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

// A ticket lets a process attach through the control socket.
type ticket struct {
	id      Replica
	welcome channel.Welcome
	expire  *time.Timer
}

// An Attachment is how a process that is about to start finds its kernel: by
// the channel it inherits, or with the token at the control socket.
type Attachment struct {
	Channel *os.File // for the child; the caller's to close
	Token   string
	cancel  func()
}

// Cancel ends the attachment when the process is gone, or never began.
func (a *Attachment) Cancel() { a.cancel() }

// Attach prepares the attachment of one life of one replica.
func (g *Golgi) Attach(id Replica, w channel.Welcome) (*Attachment, error) {
	ours, theirs, err := channel.Pair()
	if err != nil {
		return nil, err
	}
	s := g.newSeat(id, w, ours)
	a := &Attachment{Channel: theirs, Token: newToken()}
	a.cancel = func() {
		g.revoke(a.Token)
		s.ch.Close()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		ours.Close()
		theirs.Close()
		return nil, sdk.Errorf(sdk.CodeUnavailable, "attach %s: the kernel is shutting down", s)
	}
	g.tokens[a.Token] = &ticket{id: id, welcome: w, expire: time.AfterFunc(tokenLife, func() { g.revoke(a.Token) })}
	g.wg.Go(s.listen)
	return a, nil
}

// Token prepares the attachment of a process that somebody else starts: a
// terminal, a debugger. It is good for one use within a minute.
func (g *Golgi) Token(id Replica, w channel.Welcome) string {
	token := newToken()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens[token] = &ticket{id: id, welcome: w, expire: time.AfterFunc(tokenLife, func() { g.revoke(token) })}
	return token
}

// AttachSelf attaches the kernel itself, as a cell that may call every other.
// The returned file is the other end of its channel, the caller's to use.
func (g *Golgi) AttachSelf(name sdk.CellName) (*os.File, error) {
	ours, theirs, err := channel.Pair()
	if err != nil {
		return nil, err
	}
	s := g.newSeat(Replica{Cell: name}, channel.Welcome{Cell: name}, ours)
	s.free = true
	g.wg.Go(s.listen)
	return theirs, nil
}

func (g *Golgi) revoke(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tokens[token]; t != nil {
		t.expire.Stop()
		delete(g.tokens, token)
	}
}

func (g *Golgi) newSeat(id Replica, w channel.Welcome, ch *channel.Conn) *seat {
	w.Cell, w.Replica, w.Incarnation = id.Cell, id.Index, id.Incarnation
	return &seat{
		g: g, id: id, ch: ch, welcome: w, out: make(chan queued, seatQueue),
		drained: make(chan struct{}), needs: make(map[sdk.CellName]bool),
	}
}

// ServeControl attaches processes that dial the control socket, until the
// listener is closed. It takes "unixpacket" connections of this user.
func (g *Golgi) ServeControl(l *net.UnixListener) error {
	for {
		c, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("serve control socket: %w", err)
		}
		ch := channel.New(c)
		if _, uid, err := ch.PeerCred(); err != nil || int(uid) != os.Getuid() && uid != 0 {
			g.opt.Log.Warn("refused a stranger at the control socket", "uid", uid)
			ch.Close()
			continue
		}
		select {
		case g.gate <- struct{}{}:
			g.wg.Go(func() { g.enter(ch) })
		default:
			g.opt.Log.Warn("too many processes at the control socket", "limit", maxPending)
			ch.Close()
		}
	}
}

// enter takes the hello of a process that dialled.
func (g *Golgi) enter(ch *channel.Conn) {
	m, err := g.awaitHello(ch)
	<-g.gate
	if err != nil {
		ch.Close()
		return
	}
	s, err := g.seatFor(ch, m.Hello)
	if err != nil {
		// The process may be gone already: then nobody reads this.
		_ = ch.SendMessage(channel.Message{Type: channel.TypeRefused, Failure: channel.FailureOf(err)})
		ch.Close()
		return
	}
	s.introduce(m.Hello)
	s.listen()
}

func (g *Golgi) awaitHello(ch *channel.Conn) (channel.Message, error) {
	if err := ch.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return channel.Message{}, err
	}
	m, files, err := ch.RecvMessage(make([]byte, channel.MaxMessage))
	closeFiles(files)
	if err == nil && (m.Type != channel.TypeHello || m.Hello == nil) {
		err = errors.New("no hello")
	}
	if err != nil {
		return m, err
	}
	return m, ch.SetReadDeadline(time.Time{})
}

// seatFor finds out who a process is: by its token, or, without one, as the
// command line, which calls and is not called.
func (g *Golgi) seatFor(ch *channel.Conn, h *channel.Hello) (*seat, error) {
	if h.Token == "" {
		s := g.newSeat(Replica{Cell: sdk.CLIName}, channel.Welcome{}, ch)
		s.free = true
		return s, nil
	}
	g.mu.Lock()
	t := g.tokens[h.Token]
	delete(g.tokens, h.Token)
	g.mu.Unlock()
	if t == nil {
		return nil, sdk.Errorf(sdk.CodeDenied, "attach: unknown token: it is good for one use within %s", tokenLife)
	}
	t.expire.Stop()
	return g.newSeat(t.id, t.welcome, ch), nil
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
	g.seats[s] = struct{}{}
	s.put(channel.Message{Type: channel.TypeWelcome, Welcome: &s.welcome}, nil)
}

// listen takes a process's messages until it leaves.
func (s *seat) listen() {
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

// put queues a message, and with it the ownership of f. A process that lets a
// thousand of them wait is cut off. The caller holds Golgi.mu, or is listen.
func (s *seat) put(m channel.Message, f *os.File) {
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
		return g.need(s, m.Name)
	case channel.TypeDial:
		return g.dialFor(s, m)
	case channel.TypeStats, channel.TypeClosed:
		g.count(s, m)
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
	if !s.leaving && !s.free {
		if g.byName[s.id.Cell] == nil {
			g.byName[s.id.Cell] = make(map[*seat]struct{})
		}
		g.byName[s.id.Cell][s] = struct{}{}
		g.push(s.id.Cell)
	}
	if g.opt.Ready != nil {
		g.opt.Ready(s.id)
	}
}

// count takes the counters of links that s serves. The caller holds mu.
func (g *Golgi) count(s *seat, m channel.Message) {
	if m.Stats == nil {
		return
	}
	for _, st := range m.Stats.Links {
		l := g.links[st.ID]
		if l == nil || l.to != s {
			continue
		}
		l.stats = st
		if m.Type == channel.TypeClosed {
			g.drop(l)
		}
	}
}

// drop forgets a link that is over. The caller holds mu.
func (g *Golgi) drop(l *link) {
	delete(g.links, l.id)
	l.to.served--
	if _, known := g.past[l.pair()]; known || len(g.past) < maxPairs {
		g.past[l.pair()] = add(g.past[l.pair()], l.stats)
	}
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
	g.unlist(s)
	for _, l := range g.links {
		if l.to == s {
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
