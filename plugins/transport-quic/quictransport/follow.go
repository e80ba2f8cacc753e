package quictransport

import (
	"maps"
	"net"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	followEvery = 100 * time.Millisecond // between two looks at a connection
	followQuiet = 3                      // looks without an answer, after which it is taken along
)

// follow takes connections along to where their peer has moved. QUIC lets only
// the end that dialled change its address (RFC 9000, section 9); the other
// end is where it was dialled for ever. But its certificate has just proved
// that it answers at n's address, too: a connection that it does not answer at
// the old one any more is sent there. Its packets are the same, and the other
// end takes them from wherever they arrive.
func (t *Transport) follow(n *session) {
	if n.hint == "" {
		return // nothing was proved
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.sessions {
		if s.hint == n.hint && s.e == n.e && s.e.socket.way(s.to).AddrPort() != n.to.AddrPort() && !t.closed {
			t.tasks.Go(func() { s.takeAlong(n) })
		}
	}
}

// takeAlong sends s to n's address once it gets no answer, and watches it for
// as long as it may live without one.
func (s *session) takeAlong(n *session) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	last, unanswered := s.conn.ConnectionStats(), 0
	for end := time.Now().Add(silence); time.Now().Before(end); {
		select {
		case <-s.ended:
			return
		case <-n.ended:
			return
		case <-tick.C:
		}
		now := s.conn.ConnectionStats()
		if answered(last, now) {
			last, unanswered = now, 0
		} else if now.PacketsSent > last.PacketsSent {
			unanswered++
		}
		if unanswered >= followQuiet && time.Duration(unanswered)*followEvery > 2*now.SmoothedRTT {
			s.sendTo(n.to)
			return
		}
	}
}

// sendTo sends the packets of s to another address until it ends. Who dials
// the old address wants who is there now: another connection.
func (s *session) sendTo(to *net.UDPAddr) {
	s.t.log.Info("a peer has moved", "from", s.to.String(), "to", to.String())
	s.e.socket.detour(s.to, to)
	s.retire()
	if s.conn.Context().Err() != nil { // it has ended meanwhile
		s.e.socket.straight(s.to)
	}
}

func answered(before, after quic.ConnectionStats) bool {
	return after.PacketsReceived > before.PacketsReceived
}

// detour sends what is for one address to another. Addresses are compared as
// pointers, for each connection has its own: another host may have the old
// address by now.
func (s *socket) detour(from, to *net.UDPAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[*net.UDPAddr]*net.UDPAddr{from: to}
	if old := s.detours.Load(); old != nil {
		maps.Copy(next, *old)
		next[from] = to
	}
	s.detours.Store(&next)
}

// straight forgets the detour of a connection that is over.
func (s *socket) straight(from *net.UDPAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.detours.Load()
	if old == nil || (*old)[from] == nil {
		return
	}
	next := maps.Clone(*old)
	if delete(next, from); len(next) == 0 {
		s.detours.Store(nil)
		return
	}
	s.detours.Store(&next)
}

// way returns where a packet for an address goes.
func (s *socket) way(addr *net.UDPAddr) *net.UDPAddr {
	if all := s.detours.Load(); all != nil {
		if to := (*all)[addr]; to != nil {
			return to
		}
	}
	return addr
}

// anySource returns control messages without the one that says which address
// of ours a packet comes from (IP_PKTINFO, ip(7); RFC 3542, section 6.1):
// quic-go goes on to answer from the address that a connection came to, which
// may be ours no more. The operating system chooses another then.
func anySource(oob []byte) (rest []byte, changed bool) {
	all, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return oob, false
	}
	at := 0
	for _, m := range all {
		size := syscall.CmsgSpace(len(m.Data))
		if m.Header.Level == syscall.IPPROTO_IP && m.Header.Type == syscall.IP_PKTINFO ||
			m.Header.Level == syscall.IPPROTO_IPV6 && m.Header.Type == syscall.IPV6_PKTINFO {
			changed = true
		} else {
			rest = append(rest, oob[at:min(at+size, len(oob))]...)
		}
		at += size
	}
	return rest, changed
}
