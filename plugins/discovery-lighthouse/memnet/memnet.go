// Package memnet is a network in memory for tests: datagrams between sockets
// of one process, in order and at once, so that tests can let time pass with
// testing/synctest.
package memnet

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// queue is how many datagrams wait at a socket; more are lost.
const queue = 1024

// A Net joins sockets.
type Net struct {
	mu      sync.Mutex // guards the fields below
	sockets map[netip.AddrPort]*Socket
	pass    func(from, to netip.AddrPort, b []byte) bool
}

// Filter has pass decide from now on whether a datagram arrives. It is called
// by who writes.
func (n *Net) Filter(pass func(from, to netip.AddrPort, b []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pass = pass
}

// A Socket is one end. It has the methods of *net.UDPConn that are needed.
type Socket struct {
	net      *Net
	at, peer netip.AddrPort // peer: of a dialled one
	in       chan datagram
	closed   chan struct{}
	once     sync.Once

	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	late  chan struct{} // closed when the deadline has passed
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

// Listen opens a socket at an address, in place of one that may be there.
func (n *Net) Listen(at netip.AddrPort) *Socket { return n.open(at, netip.AddrPort{}) }

// Dial opens a socket that only talks to peer.
func (n *Net) Dial(at, peer netip.AddrPort) *Socket { return n.open(at, peer) }

func (n *Net) open(at, peer netip.AddrPort) *Socket {
	s := &Socket{net: n, at: at, peer: peer, in: make(chan datagram, queue), closed: make(chan struct{}), late: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sockets == nil {
		n.sockets = make(map[netip.AddrPort]*Socket)
	}
	n.sockets[at] = s
	return s
}

// Close ends the socket.
func (s *Socket) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.net.mu.Lock()
		defer s.net.mu.Unlock()
		if s.net.sockets[s.at] == s {
			delete(s.net.sockets, s.at)
		}
	})
	return nil
}

// ReadMsgUDPAddrPort is as that of *net.UDPConn.
func (s *Socket) ReadMsgUDPAddrPort(b, _ []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	s.mu.Lock()
	late := s.late
	s.mu.Unlock()
	for {
		select {
		case <-s.closed:
			return 0, 0, 0, from, net.ErrClosed
		case <-late:
			return 0, 0, 0, from, os.ErrDeadlineExceeded
		case d := <-s.in:
			if s.peer.IsValid() && d.from != s.peer {
				continue
			}
			return copy(b, d.b), 0, 0, d.from, nil
		}
	}
}

// WriteMsgUDPAddrPort is as that of *net.UDPConn.
func (s *Socket) WriteMsgUDPAddrPort(b, _ []byte, to netip.AddrPort) (n, oobn int, err error) {
	select {
	case <-s.closed:
		return 0, 0, net.ErrClosed
	default:
	}
	s.net.mu.Lock()
	other, pass := s.net.sockets[to], s.net.pass
	s.net.mu.Unlock()
	if other != nil && (pass == nil || pass(s.at, to, b)) {
		select {
		case other.in <- datagram{s.at, append([]byte(nil), b...)}:
		default:
		}
	}
	return len(b), 0, nil
}

// Read reads from the peer.
func (s *Socket) Read(b []byte) (int, error) {
	n, _, _, _, err := s.ReadMsgUDPAddrPort(b, nil)
	return n, err
}

// Write writes to the peer.
func (s *Socket) Write(b []byte) (int, error) {
	n, _, err := s.WriteMsgUDPAddrPort(b, nil, s.peer)
	return n, err
}

// LocalAddr returns where the socket is.
func (s *Socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.at) }

// RemoteAddr returns where the peer is.
func (s *Socket) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(s.peer) }

// SetReadDeadline bounds reads, also one that waits already.
func (s *Socket) SetReadDeadline(at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	select {
	case <-s.late:
		s.late = make(chan struct{})
	default:
	}
	late := s.late
	wait := time.Until(at)
	if wait <= 0 {
		close(late)
		return nil
	}
	s.timer = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		select {
		case <-late: // a deadline in the past closed it first
		default:
			if s.late == late {
				close(late)
			}
		}
	})
	return nil
}

// SetDeadline bounds reads: writes do not wait.
func (s *Socket) SetDeadline(at time.Time) error { return s.SetReadDeadline(at) }

// SetWriteDeadline does nothing: writes do not wait.
func (s *Socket) SetWriteDeadline(time.Time) error { return nil }
