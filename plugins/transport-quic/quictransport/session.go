package quictransport

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A session is a connection and how many links it carries. Without any for a
// while it closes itself.
type session struct {
	t *Transport
	e *endpoint
	found
	conn    *quic.Conn
	binding [32]byte
	slot    *slot        // of one that dialled us
	proved  atomic.Bool  // of use, or dialled by us
	taken   atomic.Int64 // bytes read of its links until it was proved
	life    lifetime
	ended   chan struct{} // closed when the connection is gone and its endpoint given up

	mu      sync.Mutex // guards the fields below
	idle    time.Duration
	links   int
	closing bool
	timer   *time.Timer // fires after idle without links
	once    sync.Once   // of life.retired
}

// A lifetime says when a session without links ends.
type lifetime struct {
	first   time.Duration // waiting for its first link
	idle    time.Duration // after every other
	retired func()        // called once when no more links should be opened; may be nil
}

// found is how a peer was dialled. It is empty for one that dialled us.
type found struct {
	to   *net.UDPAddr // the very value that quic-go has
	hint string       // its certificate's, if that was asked for
}

// newSession takes over a use of e.
func (t *Transport) newSession(e *endpoint, conn *quic.Conn, life lifetime, f found) (*session, error) {
	s := &session{t: t, e: e, found: f, conn: conn, life: life, idle: life.idle, ended: make(chan struct{})}
	s.slot = slotOf(conn.Context())
	s.proved.Store(s.slot == nil)
	var err error
	if s.binding, err = binding(conn); err != nil {
		conn.CloseWithError(codeDone, "no channel binding")
		e.drop()
		return nil, err
	}
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.sessions[s] = struct{}{}
		t.tasks.Add(1)
	}
	t.mu.Unlock()
	if closed {
		conn.CloseWithError(codeDone, "closed")
		e.drop()
		return nil, errClosed()
	}
	s.mu.Lock()
	s.timer = time.AfterFunc(life.first, func() { s.closeIfIdle() })
	s.mu.Unlock()
	context.AfterFunc(conn.Context(), func() {
		defer t.tasks.Done()
		s.over()
		s.retire()
		t.mu.Lock()
		delete(t.sessions, s)
		t.mu.Unlock()
		e.socket.straight(f.to)
		e.drop()
		close(s.ended)
	})
	return s, nil
}

// hold counts a link. It reports false when the session is closing: then
// there can be none.
func (s *session) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.links++
	s.timer.Stop()
	return true
}

// release ends a link that was held.
func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links--; s.links == 0 && !s.closing {
		s.timer.Reset(s.idle)
	}
}

// over stops the timer for good: links that end after their connection would
// start it again, and it would keep all of them.
func (s *session) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.timer.Stop()
}

// drain closes the session when its last link has ended: soon after, so that
// what was written arrives. Without any link it is gone when drain returns.
func (s *session) drain() {
	s.mu.Lock()
	s.idle = lastBytes
	s.mu.Unlock()
	if s.closeIfIdle() {
		<-s.ended
	}
}

func (s *session) closeIfIdle() bool {
	s.mu.Lock()
	s.closing = s.closing || s.links == 0
	closing := s.closing
	s.mu.Unlock()
	if closing {
		s.retire()
		s.conn.CloseWithError(codeDone, "idle")
	}
	return closing
}

// retire makes the next dial use another connection.
func (s *session) retire() {
	if s.life.retired != nil {
		s.once.Do(s.life.retired)
	}
}
