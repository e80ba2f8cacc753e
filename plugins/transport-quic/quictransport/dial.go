package quictransport

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/quic-go/quic-go"
)

// maxLanes is how many connections to one listener there may be: a further
// one is opened when the others are full of links.
const maxLanes = 4

// A route is what connections are shared by.
type route struct {
	host, hint string
	lane       int
}

// A peer is a connection that was dialled, or is being dialled.
type peer struct {
	ready   chan struct{} // closed when the handshake has ended
	session *session      // set before ready is closed, or
	err     error         // this
	waiting int           // dials that wait for ready; guarded by Transport.mu
	cancel  context.CancelFunc
}

// Dial opens a link: a stream of the connection to this listener, which is
// made if there is none. Concurrent dials share its handshake.
func (t *Transport) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	g, err := parseTarget(addr)
	if err != nil {
		return nil, err
	}
	if g.host == "" || g.port == 0 {
		return nil, sdk.Errorf(sdk.CodeInvalid, "address %q: want a host and a port", addr)
	}
	if n := len(addr.Hint); n != 0 && n != sha256.Size {
		return nil, sdk.Errorf(sdk.CodeInvalid, "hint of %d bytes: want the %d of a certificate's hash", n, sha256.Size)
	}
	for lane := range maxLanes {
		l, err := t.open(ctx, g, route{addr.Host, string(addr.Hint), lane})
		if !errors.Is(err, errFull) {
			return l, err
		}
	}
	return nil, sdk.Errorf(sdk.CodeOverloaded, "%d links to the peer are open: no more are possible", maxLanes*maxLinks)
}

var errFull = errors.New("the connection carries all links it can")

// open opens a link over one lane. A connection that turns out to be dead is
// replaced, once.
func (t *Transport) open(ctx context.Context, g target, r route) (net.Conn, error) {
	var err error
	for range 2 {
		p := (*peer)(nil)
		if p, err = t.connect(ctx, g, r); err != nil {
			return nil, err
		}
		var l *link
		if l, err = p.session.open(); err == nil {
			return l, nil
		}
		if errors.Is(err, errFull) {
			return nil, err
		}
		t.forget(r, p)
	}
	return nil, sdk.Errorf(sdk.CodeUnavailable, "open a stream: %v", err)
}

// open opens a stream and writes its first byte, so that the other end sees it.
func (s *session) open() (*link, error) {
	if !s.hold() {
		return nil, net.ErrClosed
	}
	stream, err := s.conn.OpenStream()
	if err != nil {
		s.release()
		var full *quic.StreamLimitReachedError
		if errors.As(err, &full) {
			return nil, errFull
		}
		return nil, err
	}
	l := newLink(stream, s, true)
	if _, err := stream.Write([]byte{version}); err != nil { // it is buffered: nothing waits
		l.Close()
		return nil, err
	}
	return l, nil
}

// connect returns a connection for the route when its handshake is complete.
func (t *Transport) connect(ctx context.Context, g target, r route) (*peer, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, errClosed()
	}
	p := t.peers[r]
	if p == nil {
		p = &peer{ready: make(chan struct{})}
		var hctx context.Context
		hctx, p.cancel = context.WithCancel(t.ctx)
		t.peers[r] = p
		t.tasks.Go(func() { t.handshake(hctx, p, g, r) })
	}
	p.waiting++
	t.mu.Unlock()
	defer t.leave(p)
	select {
	case <-ctx.Done(): // rather than what it would bring at the same time
		return nil, ctx.Err()
	default:
	}
	select {
	case <-p.ready:
		return p, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// leave ends the wait for p. A handshake that nobody waits for ends.
func (t *Transport) leave(p *peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.waiting--; p.waiting > 0 {
		return
	}
	select {
	case <-p.ready:
	default:
		p.cancel()
	}
}

// forget makes the next dial of r use another connection than p's.
func (t *Transport) forget(r route, p *peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[r] == p {
		delete(t.peers, r)
	}
}

// handshake makes p ready.
func (t *Transport) handshake(ctx context.Context, p *peer, g target, r route) {
	defer p.cancel()
	p.session, p.err = t.reach(ctx, g, []byte(r.hint), func() { t.forget(r, p) })
	if p.err != nil {
		t.forget(r, p)
	}
	close(p.ready)
}

// reach tries the addresses of g, one after the other.
func (t *Transport) reach(ctx context.Context, g target, hint []byte, retired func()) (*session, error) {
	all, err := g.resolve(ctx)
	if err != nil {
		return nil, err
	}
	for _, at := range all {
		var s *session
		if s, err = t.reachOne(ctx, at, hint, retired); err == nil || ctx.Err() != nil {
			return s, err
		}
	}
	return nil, err
}

func (t *Transport) reachOne(ctx context.Context, at netip.AddrPort, hint []byte, retired func()) (*session, error) {
	e, err := t.dialFrom(at.Addr().Is4())
	if err != nil {
		return nil, err
	}
	to := net.UDPAddrFromAddrPort(at)
	ctx, cancel := context.WithCancelCause(ctx)
	knocked := make(chan struct{})
	go func() {
		defer close(knocked)
		if err := t.network.knock(ctx, to); err != nil {
			cancel(sdk.Errorf(sdk.CodeUnavailable, "connect to %v: %v", at, err))
		}
	}()
	check := &checker{hint: hint}
	conf := baseTLS()
	conf.InsecureSkipVerify = true // no authority knows our peers: checker decides
	conf.VerifyConnection = check.verify
	conn, err := e.quic.Dial(ctx, to, conf, settings(quietDial))
	cause := context.Cause(ctx)
	cancel(nil)
	<-knocked
	if err != nil {
		e.drop()
		return nil, dialError(at, check, cause, err)
	}
	idle := time.Duration(t.config.Idle)
	s, err := t.newSession(e, conn, lifetime{first: idle, idle: idle, retired: retired}, found{to, string(hint)})
	if err == nil {
		t.follow(s)
	}
	return s, err
}

// A checker compares the peer's certificate with the hint.
type checker struct {
	hint []byte // nil accepts all
	err  error  // why it was refused
}

func (c *checker) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		c.err = sdk.Errorf(sdk.CodeDenied, "the peer has no certificate")
		return c.err
	}
	if len(c.hint) == 0 {
		return nil
	}
	got := sha256.Sum256(state.PeerCertificates[0].Raw)
	if string(got[:]) != string(c.hint) {
		// Unavailable, because time mends it: a process that has just taken the
		// place of another one has a new certificate, and says so soon.
		c.err = sdk.Errorf(sdk.CodeUnavailable, "the peer's certificate is not the announced one: its hash begins with %x, not %x", got[:4], c.hint[:4])
		return c.err
	}
	return nil
}

// dialError says what a failed handshake means to who dialled.
func dialError(at netip.AddrPort, check *checker, cause, err error) error {
	var timeout net.Error
	var remote *quic.TransportError
	switch {
	case check.err != nil:
		return check.err
	case cause != nil:
		return cause
	case errors.As(err, &remote) && remote.Remote && remote.ErrorCode == quic.ConnectionRefused:
		return sdk.Errorf(sdk.CodeOverloaded, "connect to %v: the peer accepts no more connections", at)
	case errors.As(err, &remote) && remote.ErrorCode.IsCryptoError():
		return sdk.Errorf(sdk.CodeIncompatible, "connect to %v: %v", at, err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return sdk.Errorf(sdk.CodeUnavailable, "connect to %v: no answer", at)
	}
	return sdk.Errorf(sdk.CodeUnavailable, "connect to %v: %v", at, err)
}
