package quictransport

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket is a UDP socket that loses packets rather than fail: quic-go ends a
// connection whose packet the operating system refuses, as it does for a moment
// when an interface loses its address. Retransmission and the timeouts know
// better. It reads many packets at once, and tells the scheduler of no system
// call, as package rawio does not.
type socket struct {
	*net.UDPConn
	mu      sync.Mutex // held by who changes detours
	detours atomic.Pointer[map[*net.UDPAddr]*net.UDPAddr]

	raw    syscall.RawConn
	family int // AF_INET or AF_INET6
	batch  batch
	sends  sync.Pool // of *sendCall
	zone   atomic.Pointer[zone]
}

// open takes udp over.
func (s *socket) open(udp *net.UDPConn) error {
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if s.family, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, unix.SO_DOMAIN); failed == nil {
			// Where there is none (before Linux 5.0) packets come one by one.
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_UDP, unix.UDP_GRO, 1)
		}
	})
	s.UDPConn, s.raw = udp, raw
	s.sends.New = newSendCall
	s.batch.init(s)
	return errors.Join(err, failed)
}

// WriteMsgUDP reports what quic-go acts upon, and nothing else: a packet that
// is too large (path MTU discovery, RFC 8899), a card that can not segment,
// and that the socket is closed.
func (s *socket) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	addr = s.way(addr)
	if err = s.send(b, oob, addr); err == nil {
		return len(b), len(oob), nil
	} else if matters(err) {
		return 0, 0, err
	}
	if rest, changed := anySource(oob); changed {
		if err := s.send(b, rest, addr); err != nil && matters(err) {
			return 0, 0, err
		}
	}
	return len(b), len(oob), nil
}

func matters(err error) bool {
	var errno syscall.Errno
	return !errors.As(err, &errno) || errno == syscall.EMSGSIZE || errno == syscall.EIO || errno == syscall.EBADF
}
