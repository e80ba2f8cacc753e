package lighthouse

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	// tick is how often leases and unacknowledged pages are looked at.
	tick = 100 * time.Millisecond
	// gather is how long changes wait for others, to be sent as one page.
	gather = 20 * time.Millisecond
	// complain is how often the log says that a limit refuses nodes.
	complain = time.Minute
)

// Options adapt a [Server].
type Options struct {
	Log    *slog.Logger // nil: nothing is logged
	Limits Limits       // the zero value means [DefaultLimits]
}

// A Server answers nodes at one UDP socket.
type Server struct {
	sock   Socket
	log    *slog.Logger
	limits Limits
	wake   chan struct{} // of capacity 1: a group changed

	mu       sync.Mutex // guards the fields below
	table    *table
	jar      *jar
	received *rates
	verified *rates
	cookies  bucket
	stats    Stats
	said     map[string]time.Time // complaints by limit
}

// Listen opens a server at addr, ":9443" for all addresses of the machine.
func Listen(ctx context.Context, addr string, o Options) (*Server, error) {
	sock, err := listen(ctx, addr)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, sdk.Errorf(sdk.CodeInvalid, "listen at %q: %v", addr, err)
	}
	return New(sock, o), nil
}

// New returns a server on a socket that is open, and will be closed by
// [Server.Serve].
func New(sock Socket, o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits()
	}
	return &Server{
		sock: sock, log: o.Log, limits: o.Limits, wake: make(chan struct{}, 1),
		table: newTable(o.Limits), jar: newJar(time.Now()), said: map[string]time.Time{},
		received: &rates{seed: maphash.MakeSeed()}, verified: &rates{seed: maphash.MakeSeed()},
	}
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.sock.LocalAddr() }

// Serve answers until ctx is done, then closes the socket and returns nil.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.sock.Close() })()
	wg.Go(func() { s.keep(ctx) })
	s.log.Info("lighthouse listens", "address", s.Addr().String())
	buf, oob := make([]byte, datagram.MaxSize+1), make([]byte, 128)
	for {
		n, oobn, _, from, err := s.sock.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("read socket: %w", err)
		default:
			continue // an ICMP error that an earlier answer caused
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		s.handle(time.Now(), request{from: from, path: answerPath(oob[:oobn]), b: buf[:n]})
	}
}

// keep does what time brings.
func (s *Server) keep(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.tick(time.Now())
		case <-s.wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
			s.push(time.Now())
		}
	}
}

func (s *Server) tick(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jar.turn(now)
	s.stats.Lapsed += uint64(s.table.expire(now))
	for _, w := range s.table.due(now) {
		w.send(now, s.out)
	}
	s.wakeUp()
}

// push sends what changed to who watches and waits for nothing.
func (s *Server) push(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.table.changed {
		for _, w := range g.subs {
			if w.sent == w.acked && w.behind() {
				w.wait = firstAgain
				w.send(now, s.out)
			}
		}
	}
	clear(s.table.changed)
}

// wakeUp has push run if there is anything to push.
func (s *Server) wakeUp() {
	if len(s.table.changed) == 0 {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// A request is a datagram from a node.
type request struct {
	from    netip.AddrPort
	path    path
	session datagram.Session
	b       []byte
}

// handle answers one datagram. Nothing is stored, and no more is sent than
// came, before the cookie in it is known to be good.
func (s *Server) handle(now time.Time, r request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Received++
	s.stats.ReceivedBytes += uint64(len(r.b))
	kind, session, err := datagram.Head(r.b)
	if err != nil {
		s.stats.Malformed++
		return
	}
	r.session = session
	if kind == datagram.KindHello {
		if datagram.CheckHello(r.b) != nil {
			s.stats.Malformed++
			return
		}
		s.sendCookie(now, r)
		return
	}
	c, err := datagram.CookieIn(r.b)
	if err != nil {
		s.stats.Malformed++
		return
	}
	if !s.jar.knows(r.from, c) {
		s.stats.Strangers++
		s.sendCookie(now, r)
		return
	}
	if !s.received.take(now, r.from.Addr(), s.limits.Datagrams) {
		s.stats.Limited++
		return
	}
	switch kind {
	case datagram.KindRegister:
		s.register(now, r)
	case datagram.KindGive:
		s.give(r)
	case datagram.KindSync:
		s.sync(now, r)
	default:
		s.stats.Malformed++
	}
	s.wakeUp()
}

// sendCookie answers somebody unknown with less than he sent: every datagram
// that has room for a cookie is longer than the one that brings it.
func (s *Server) sendCookie(now time.Time, r request) {
	if len(r.b) < datagram.CookieSize || !s.cookies.take(now, s.limits.Cookies) {
		s.stats.Limited++
		return
	}
	s.stats.Cookies++
	s.write(r.from, r.path, datagram.AppendCookie(nil, r.session, s.jar.cookie(r.from)))
}

func (s *Server) register(now time.Time, r request) {
	m, err := datagram.ParseRegister(r.b)
	switch {
	case err != nil:
		s.stats.Malformed++
		return
	case !s.verified.take(now, r.from.Addr(), s.limits.Signatures):
		s.stats.Limited++
		return
	case !datagram.Signed(r.b):
		s.stats.Forged++
		return
	}
	ack, refused := s.table.register(now, r.from, r.session, &m)
	if refused != "" {
		s.refuse(now, "registration", refused, r.from)
	}
	if ack.Status == datagram.StatusStale {
		s.stats.Stale++
	}
	s.write(r.from, r.path, datagram.AppendAck(nil, r.session, ack))
}

func (s *Server) give(r request) {
	e, err := datagram.ParseGive(r.b)
	if err != nil {
		s.stats.Malformed++
		return
	}
	if ack, ok := s.table.give(r.from, r.session, e); ok {
		s.write(r.from, r.path, datagram.AppendAck(nil, r.session, ack))
	}
}

func (s *Server) sync(now time.Time, r request) {
	m, err := datagram.ParseSync(r.b)
	if err != nil {
		s.stats.Malformed++
		return
	}
	w, refused := s.table.subscribe(now, r.from, r.session, m)
	if refused != "" {
		s.refuse(now, "subscription", refused, r.from)
		s.write(r.from, r.path, datagram.AppendState(nil, r.session, datagram.State{Status: datagram.StatusFull}))
		return
	}
	w.path = r.path
	if m.Answer || w.behind() {
		w.send(now, s.out)
	}
}

// refuse counts, and says once in a while, that a limit was met.
func (s *Server) refuse(now time.Time, what, limit string, from netip.AddrPort) {
	s.stats.Refused++
	if last, ok := s.said[limit]; ok && now.Sub(last) < complain {
		return
	}
	s.said[limit] = now // there are four limits
	s.log.Warn("a limit is reached", "refused", what, "limit", limit, "from", from.String())
}

func (s *Server) out(w *sub, b []byte) { s.write(w.from, w.path, b) }

func (s *Server) write(to netip.AddrPort, via path, b []byte) {
	s.stats.Sent++
	s.stats.SentBytes += uint64(len(b))
	// An error means that this datagram is lost, as any may be.
	if _, _, err := s.sock.WriteMsgUDPAddrPort(b, []byte(via), to); err != nil {
		s.stats.Unsent++
	}
}
