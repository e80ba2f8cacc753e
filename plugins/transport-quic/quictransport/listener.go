package quictransport

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/quic-go/quic-go"
)

// A listener accepts links. After Close, links that are open go on; the
// address is free when the last of them has ended, and this transport can
// listen there again meanwhile.
type listener struct {
	e      *endpoint
	quic   *quic.EarlyListener // so that handshakes can be ended which others do not complete
	hint   []byte
	links  chan net.Conn // unbuffered: connections take turns
	closed chan struct{}
	once   sync.Once
	broken chan struct{} // closed when the socket failed
	err    error         // why; set before broken is closed

	mu       sync.Mutex // guards sessions
	sessions map[*session]struct{}
}

// Listen binds addr: a host without name is all addresses of this machine.
func (t *Transport) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	g, err := parseTarget(addr)
	if err != nil {
		return nil, err
	}
	cert, err := t.certificate(ctx)
	if err != nil {
		return nil, err
	}
	network, at, err := g.bindAddress(ctx)
	if err != nil {
		return nil, err
	}
	e := t.drained(at)
	if e == nil {
		if e, err = t.openEndpoint(network, at); err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "bind UDP %q: %v", addr.Host, causeOf(err))
		}
	}
	conf := baseTLS()
	conf.Certificates = []tls.Certificate{cert.tls}
	set := settings(quietAccept)
	set.MaxIncomingStreams = maxLinks
	ql, err := e.quic.ListenEarly(conf, set)
	if err != nil {
		e.drop()
		return nil, sdk.Errorf(sdk.CodeInvalid, "listen at %q: %v", addr.Host, err)
	}
	l := &listener{
		e: e, quic: ql, hint: cert.hash[:], links: make(chan net.Conn),
		closed: make(chan struct{}), broken: make(chan struct{}), sessions: map[*session]struct{}{},
	}
	t.mu.Lock()
	e.listener = l
	closed := t.closed
	if !closed {
		t.tasks.Go(l.run)
	}
	t.mu.Unlock()
	if closed {
		ql.Close()
		e.drop()
		return nil, errClosed()
	}
	return l, nil
}

// bindAddress returns what net wants to bind exactly this: "udp" with an IPv4
// wildcard would be both families.
func (g target) bindAddress(ctx context.Context) (network string, at *net.UDPAddr, err error) {
	if g.host == "" {
		return "udp", &net.UDPAddr{Port: int(g.port)}, nil
	}
	all, err := g.resolve(ctx)
	if err != nil {
		return "", nil, err
	}
	network = "udp"
	if all[0].Addr().Is4() {
		network = "udp4"
	}
	return network, net.UDPAddrFromAddrPort(all[0]), nil
}

// drained returns, with one use, an endpoint of this address whose listener
// was closed.
func (t *Transport) drained(at *net.UDPAddr) *endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := range t.endpoints {
		if at.Port != 0 && !e.gone && e.listener == nil && sameAddress(e.udp.LocalAddr().(*net.UDPAddr).AddrPort(), at.AddrPort()) {
			e.users++
			return e
		}
	}
	return nil
}

func sameAddress(a, b netip.AddrPort) bool {
	if !b.Addr().IsValid() { // all of both families
		return a.Port() == b.Port() && a.Addr() == netip.IPv6Unspecified()
	}
	return a.Port() == b.Port() && a.Addr().Unmap() == b.Addr().Unmap()
}

// run accepts connections until the listener or the socket is closed.
func (l *listener) run() {
	t := l.e.t
	for {
		conn, err := l.quic.Accept(t.ctx)
		if err != nil {
			l.err = sdk.Errorf(sdk.CodeUnavailable, "accept: %v", err)
			close(l.broken)
			return
		}
		if slotOf(conn.Context()).greeted(greeting{conn}) {
			t.tasks.Go(t.watch)
		}
		t.tasks.Go(func() { l.welcome(conn) })
	}
}

// welcome waits until the handshake of a connection is complete, and serves it.
func (l *listener) welcome(conn *quic.Conn) {
	select {
	case <-conn.HandshakeComplete():
	case <-conn.Context().Done():
		return
	case <-l.closed:
		conn.CloseWithError(codeGone, "the listener is closed")
		return
	}
	t := l.e.t
	t.mu.Lock()
	gone := l.e.gone
	if !gone {
		l.e.users++
	}
	t.mu.Unlock()
	if gone {
		return // and the connection with its endpoint
	}
	s, err := t.newSession(l.e, conn, lifetime{first: firstLink, idle: 2 * time.Duration(t.config.Idle)}, found{})
	if err != nil {
		return
	}
	s.slot.established(s)
	l.mu.Lock()
	l.sessions[s] = struct{}{}
	l.mu.Unlock()
	l.serve(s)
}

// serve hands out the links of one connection, one at a time, until the
// connection ends.
func (l *listener) serve(s *session) {
	defer func() {
		l.mu.Lock()
		delete(l.sessions, s)
		l.mu.Unlock()
	}()
	select {
	case <-l.closed: // while it was accepted
		s.drain()
	default:
	}
	for {
		stream, err := s.conn.AcceptStream(context.Background())
		if err != nil {
			return // it says so itself, to all links
		}
		if !s.hold() {
			return
		}
		k := newLink(stream, s, false)
		select {
		case <-l.closed:
			k.abort(codeGone)
			continue
		default:
		}
		select {
		case l.links <- k:
		case <-l.closed:
			k.abort(codeGone)
		case <-s.conn.Context().Done():
			k.Close()
			return
		}
	}
}

// Accept waits for a link. What the dialler wrote may not have arrived.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.links:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.broken:
		select {
		case <-l.closed:
			return nil, net.ErrClosed
		default:
			return nil, l.err
		}
	}
}

// Close returns when the address is free, if no link is open.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.quic.Close()
		l.mu.Lock()
		sessions := make([]*session, 0, len(l.sessions))
		for s := range l.sessions {
			sessions = append(sessions, s)
		}
		l.mu.Unlock()
		<-l.broken // run has ended
		for _, s := range sessions {
			s.drain()
		}
		l.e.t.mu.Lock()
		l.e.listener = nil
		l.e.t.mu.Unlock()
		l.e.drop()
	})
	return nil
}

// Addr returns the bound address, the port resolved.
func (l *listener) Addr() net.Addr { return l.e.udp.LocalAddr() }

// Hint returns the SHA-256 of the certificate.
func (l *listener) Hint() []byte { return l.hint }
