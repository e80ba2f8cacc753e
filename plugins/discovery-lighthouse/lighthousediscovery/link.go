package lighthousediscovery

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
)

const (
	// batch is how many envelopes are given before the lighthouse said which
	// of them arrived.
	batch = 16
	// rebake is how soon another cookie makes the node send again at once.
	rebake = 100 * time.Millisecond
)

// registering is what a link knows of its registration.
type registering struct {
	timer
	gen      uint64 // of the announcement
	self     *announcement
	seq      uint64 // of the last registration sent
	given    uint64 // envelopes of the batch that did not arrive yet
	last     uint64 // the one that was sent last
	quiet    bool   // there is nothing to say
	accepted bool   // by the lighthouse, at least once in this process
}

// syncing is what a link knows of its subscription.
type syncing struct {
	timer
	follow bool
	acked  uint64 // the cursor last sent
	since  time.Time
}

func newLink(s *session, conn net.Conn, now time.Time) *link {
	l := &link{session: s, conn: conn, began: now}
	rand.Read(l.id[:])
	l.hello.now(now)
	return l
}

// talk sends what is due and takes what comes until the lighthouse is silent.
func (l *link) talk() error {
	buf := make([]byte, datagram.MaxSize+1)
	for {
		now := time.Now()
		l.look(now)
		if !l.asked.IsZero() && now.Sub(l.asked) >= l.d.timeout {
			return fmt.Errorf("%w for %v", errNoAnswer, l.d.timeout)
		}
		if err := l.act(now); err != nil {
			return cause(err)
		}
		if !l.arm(l.next()) {
			continue
		}
		n, err := l.conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return cause(err)
		}
		if err := l.receive(time.Now(), buf[:n]); err != nil {
			return cause(err)
		}
	}
}

// look takes over what changed in the plugin.
func (l *link) look(now time.Time) {
	l.d.mu.Lock()
	self, follow := l.d.self, l.d.follow
	had := l.status.registered
	l.d.mu.Unlock()
	if self != nil && l.register.gen != self.gen {
		l.register = registering{gen: self.gen, self: self, accepted: l.register.accepted}
		l.register.now(now)
		l.register.quiet = len(self.hashes) == 0 && !had
	}
	if follow && !l.sync.follow {
		l.sync.follow, l.sync.since = true, now
		l.sync.now(now)
	}
	var tag datagram.Tag
	if self != nil {
		tag = self.tag
	}
	if follow && tag != l.mirror.tag {
		l.mirror.aim(now, tag)
		l.sync.now(now)
	}
	l.mirror.settle(now)
}

// next returns when something is due.
func (l *link) next() time.Time {
	at := time.Now().Add(time.Hour)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if !l.asked.IsZero() {
		earlier(l.asked.Add(l.d.timeout))
	}
	if l.cookie == nil {
		earlier(l.hello.at)
		return at
	}
	if l.register.self != nil && !l.register.quiet {
		earlier(l.register.at)
	}
	if l.sync.follow {
		earlier(l.sync.at)
		earlier(l.mirror.doubt)
	}
	return at
}

// act sends what is due.
func (l *link) act(now time.Time) error {
	if l.cookie == nil {
		if l.hello.at.After(now) {
			return nil
		}
		l.hello.retry(now)
		return l.ask(now, datagram.AppendHello(nil, l.id))
	}
	if l.register.self != nil && !l.register.quiet && !l.register.at.After(now) {
		if err := l.sendRegister(now); err != nil {
			return err
		}
	}
	if l.sync.follow && !l.sync.at.After(now) {
		if now.Sub(l.sync.since) > slow*l.d.timeout {
			l.report(func(st *status) { st.late = true })
		}
		return l.sendSync(now, true)
	}
	return nil
}

// ask sends what the lighthouse has to answer.
func (l *link) ask(now time.Time, b []byte) error {
	if l.asked.IsZero() {
		l.asked = now
	}
	_, err := l.conn.Write(b)
	return err
}

func (l *link) sendRegister(now time.Time) error {
	r := &l.register
	r.retry(now)
	l.seq++
	r.seq, r.given = l.seq, 0
	if len(r.self.hashes) > 0 {
		l.report(func(st *status) { st.registered = true })
	}
	m := datagram.Register{
		Tag: r.self.tag, Boot: l.boot, Seq: l.seq, Lease: 3 * l.d.beat, Port: l.port(), Hashes: r.self.hashes,
	}
	return l.ask(now, datagram.AppendRegister(nil, l.id, *l.cookie, &m, l.key))
}

// port returns the port of the socket as this machine knows it.
func (l *link) port() uint16 {
	a, _ := netip.ParseAddrPort(l.conn.LocalAddr().String())
	return a.Port()
}

func (l *link) sendSync(now time.Time, answer bool) error {
	l.sync.acked = l.mirror.cursor
	b := datagram.AppendSync(nil, l.id, *l.cookie, datagram.Sync{
		Tag: l.mirror.tag, Instance: l.mirror.instance, Cursor: l.mirror.cursor, Answer: answer,
	})
	if answer {
		l.sync.retry(now)
		return l.ask(now, b)
	}
	_, err := l.conn.Write(b)
	return err
}

// receive takes one datagram. Those of nobody's session are dropped.
func (l *link) receive(now time.Time, b []byte) error {
	kind, id, err := datagram.Head(b)
	if err != nil || id != l.id {
		return nil
	}
	switch kind {
	case datagram.KindCookie:
		if c, err := datagram.ParseCookie(b); err == nil {
			l.heardFrom()
			l.onCookie(now, c)
		}
	case datagram.KindAck:
		if a, err := datagram.ParseAck(b); err == nil {
			l.heardFrom()
			return l.onAck(now, a)
		}
	case datagram.KindRow:
		if r, err := datagram.ParseRow(b); err == nil && l.sync.follow {
			l.heardFrom()
			l.mirror.row(now, r)
		}
	case datagram.KindPart:
		if e, err := datagram.ParsePart(b); err == nil && l.sync.follow {
			l.mirror.part(e)
		}
	case datagram.KindState:
		if m, err := datagram.ParseState(b); err == nil && l.sync.follow {
			l.heardFrom()
			return l.onState(now, m)
		}
	}
	return nil
}

func (l *link) heardFrom() {
	l.asked = time.Time{}
	if !l.answered {
		l.answered = true
		l.log.Info("lighthouse answers", "address", l.conn.RemoteAddr().String())
	}
}

// onCookie sends again what an old cookie was in.
func (l *link) onCookie(now time.Time, c datagram.Cookie) {
	again := l.cookie == nil || now.Sub(l.baked) >= rebake
	l.cookie = &c
	if !again {
		return // the timers will
	}
	l.baked = now
	if l.register.sent {
		l.register.now(now)
	}
	if l.sync.sent {
		l.sync.now(now)
	}
}

func (l *link) onAck(now time.Time, a datagram.Ack) error {
	r := &l.register
	if r.self == nil || a.Seq != r.seq || r.quiet {
		return nil
	}
	switch a.Status {
	case datagram.StatusOK:
		missing := a.Missing & (1<<len(r.self.hashes) - 1)
		if missing != 0 {
			return l.give(now, missing)
		}
		l.registered(now)
	case datagram.StatusStale:
		l.stale(now, a)
	default:
		r.rest(now, l.d.beat)
		l.refused(errFull)
	}
	return nil
}

var (
	errFull       = errors.New("it is full")
	errSuperseded = errors.New("another process of this node registered since")
)

// refused notes why the lighthouse does not take this node.
func (l *link) refused(err error) {
	l.report(func(st *status) {
		if st.err != err {
			l.log.Warn("lighthouse refuses this node", "error", err)
		}
		st.err = err
	})
}

// registered notes that the lighthouse has all of the announcement.
func (l *link) registered(now time.Time) {
	r := &l.register
	r.rest(now, l.d.beat)
	r.accepted = true
	r.quiet = len(r.self.hashes) == 0
	l.report(func(st *status) {
		st.accepted, st.registered, st.err = r.gen, !r.quiet, nil
	})
}

// stale ends a quarrel of two processes over one registration. Who was there
// before, as the plugin that is being swapped, is silent while the other lives;
// who is new, or finds the other gone, goes beyond it.
func (l *link) stale(now time.Time, a datagram.Ack) {
	r := &l.register
	wait := l.d.beat
	switch {
	case len(r.self.hashes) == 0: // there is nothing of ours to take back
		l.registered(now)
		return
	case a.Live && r.accepted:
		l.report(func(st *status) { st.accepted, st.err = r.gen, errSuperseded })
	case a.Boot < math.MaxUint64:
		l.boot, l.seq = a.Boot+1, 0
		wait = firstRetry
	}
	r.rest(now, wait)
}

// give sends the next batch of the envelopes that the lighthouse lacks.
func (l *link) give(now time.Time, missing uint64) error {
	r := &l.register
	if r.given &= missing; r.given&r.last != 0 {
		return nil // more of the last one is under way
	}
	r.given = 0
	r.wait = firstRetry
	r.retry(now)
	for missing != 0 && bits.OnesCount64(r.given) < batch {
		i := bits.TrailingZeros64(missing)
		missing &^= 1 << i
		r.last = 1 << i
		r.given |= r.last
		if err := l.ask(now, datagram.AppendGive(nil, l.id, *l.cookie, r.self.envelopes[i])); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) onState(now time.Time, m datagram.State) error {
	if m.Status != datagram.StatusOK {
		l.sync.rest(now, l.d.beat)
		l.refused(errFull)
		l.report(func(st *status) { st.late = true })
		return nil
	}
	l.heard = now
	complete := l.mirror.state(now, m)
	if !complete || l.mirror.cursor < m.Current {
		l.sync.now(now)
		return l.sendSync(now, true)
	}
	l.mirror.setMute(false)
	l.sync.rest(now, l.d.beat)
	l.report(func(st *status) {
		st.synced, st.late = true, false
		if l.register.self == nil {
			st.err = nil
		}
	})
	if l.sync.acked != l.mirror.cursor {
		return l.sendSync(now, false)
	}
	return nil
}
