package lighthouse

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A path is ancillary data that makes an answer leave from the address that
// was asked: nodes take answers from no other, and a machine may have many.
type path string

// A Socket is what a [Server] needs of a *net.UDPConn.
type Socket interface {
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error)
	LocalAddr() net.Addr
	Close() error
}

// listen opens a socket that reports where datagrams were sent to.
func listen(ctx context.Context, addr string) (Socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var inner error
		err := rc.Control(func(fd uintptr) {
			inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			if errors.Is(inner, unix.ENOPROTOOPT) { // an IPv4 socket
				inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			}
		})
		return errors.Join(err, inner)
	}}
	c, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // "udp" makes no other
}

// answerPath returns the path for answers to a datagram that came with oob.
// The interface is left to the routing table.
func answerPath(oob []byte) path {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return ""
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			ip := netip.AddrFrom16([16]byte(m.Data[:16]))
			if ip.IsLinkLocalUnicast() || ip.IsMulticast() {
				return "" // means nothing without its interface
			}
			return path(unix.PktInfo6(&unix.Inet6Pktinfo{Addr: ip.As16()}))
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// in_pktinfo of ip(7): interface, local address, address in the packet.
			return path(unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])}))
		}
	}
	return ""
}
