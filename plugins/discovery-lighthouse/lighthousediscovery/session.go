package lighthousediscovery

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
)

const (
	firstRetry = 250 * time.Millisecond // of a datagram, and of a lighthouse
	lastRetry  = time.Second            // of a datagram
	lastVisit  = 5 * time.Second        // of a lighthouse
	// forgetTime is how long the nodes of an unreachable lighthouse stay in the
	// snapshot of who watches anew: as long as kernels believe announcements.
	forgetTime = 30 * time.Second
	// slow times the time-out a lighthouse has to send its snapshot.
	slow = 5
)

// A session is this node at one lighthouse. Its goroutine owns it, but for
// what is marked.
type session struct {
	d      *Discovery
	name   string
	key    ed25519.PrivateKey
	log    *slog.Logger
	mirror *mirror
	heard  time.Time // when the lighthouse last answered a sync

	// Boot and sequence number of registrations. The clock only makes it
	// likely that a later process has a greater boot; see link.stale.
	boot, seq uint64

	status status // guarded by d.mu

	mu   sync.Mutex // guards the fields below
	news bool       // d changed since the link looked
	conn net.Conn   // nil: none is open
}

// A status is what the rest of the plugin knows of a session.
type status struct {
	accepted   uint64 // the newest announcement that the lighthouse has
	registered bool   // it may have one of this process
	synced     bool   // its snapshot arrived
	late       bool   // its snapshot is no longer waited for
	err        error  // why it is not as it should be
}

func newSession(d *Discovery, name string, key ed25519.PrivateKey, log *slog.Logger) *session {
	return &session{d: d, name: name, key: key, log: log, mirror: newMirror(d.view), boot: uint64(time.Now().UnixNano())}
}

// report changes the status.
func (s *session) report(f func(*status)) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	before := s.status
	f(&s.status)
	if s.status != before {
		s.d.changed()
	}
}

// interrupt makes the session look at what changed. The caller holds d.mu.
func (s *session) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = true
	if s.conn != nil {
		s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// arm sets the deadline of the next read, or reports that there are news.
func (s *session) arm(deadline time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news {
		s.news = false
		return false
	}
	return s.conn.SetReadDeadline(deadline) == nil
}

// run visits the lighthouse again and again until ctx is done.
func (s *session) run(ctx context.Context) {
	wait := firstRetry
	for attempt := 0; s.d.await(ctx, s.wanted); attempt++ {
		answered, err := s.visit(ctx, attempt)
		if ctx.Err() != nil {
			return
		}
		if answered {
			wait = firstRetry
		}
		if wait == firstRetry {
			s.log.Warn("lighthouse is unreachable", "error", err)
		}
		s.report(func(st *status) { st.err, st.late, st.synced = err, true, false })
		s.mirror.setMute(true)
		if time.Since(s.heard) > forgetTime {
			s.mirror.forget()
		}
		// Spread over half a period: a lighthouse that comes back is not met by
		// everybody at once.
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, lastVisit)
	}
}

// wanted reports whether there is anything to ask a lighthouse for.
func (s *session) wanted() bool { return s.d.self != nil || s.d.follow }

// visit talks to the lighthouse until it no longer answers. It reports whether
// it ever did.
func (s *session) visit(ctx context.Context, attempt int) (answered bool, err error) {
	bound, cancel := context.WithTimeout(ctx, s.d.timeout)
	conn, err := s.d.dial(bound, s.name, attempt)
	cancel()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	s.mu.Lock()
	s.conn, s.news = conn, true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.conn = nil
		s.mu.Unlock()
	}()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	l := newLink(s, conn, time.Now())
	err = l.talk()
	return l.answered, err
}

// dialUDP opens a socket to the next address of a lighthouse. A name is looked
// up each time: it may have moved.
func dialUDP(ctx context.Context, server string, attempt int) (net.Conn, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		var dns *net.DNSError
		if errors.As(err, &dns) {
			err = errors.New(dns.Err)
		}
		return nil, fmt.Errorf("look up %q: %w", host, err)
	}
	addr := addrs[attempt%len(addrs)].Unmap()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", net.JoinHostPort(addr.String(), port))
	if err != nil {
		return nil, cause(err)
	}
	return conn, nil
}

// cause leaves out what net repeats: the operation and the addresses.
func cause(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	return err
}

// A link is one socket to the lighthouse, and the timers of what is said on it.
type link struct {
	*session
	conn     net.Conn
	id       datagram.Session
	began    time.Time
	cookie   *datagram.Cookie
	baked    time.Time // when the cookie came
	asked    time.Time // of the first request that nothing answered; zero: none
	answered bool
	hello    timer
	register registering
	sync     syncing
}

// A timer says when something is sent, and sent again.
type timer struct {
	at   time.Time
	wait time.Duration
	sent bool // and not answered
}

// now makes t due.
func (t *timer) now(now time.Time) { *t = timer{at: now, wait: firstRetry} }

// retry notes that it was sent.
func (t *timer) retry(now time.Time) {
	t.sent = true
	t.at = now.Add(t.wait)
	t.wait = min(2*t.wait, lastRetry)
}

// rest makes t due in about a beat: those of many nodes do not fall together.
func (t *timer) rest(now time.Time, beat time.Duration) {
	*t = timer{at: now.Add(beat*9/10 + rand.N(beat/5)), wait: firstRetry}
}
