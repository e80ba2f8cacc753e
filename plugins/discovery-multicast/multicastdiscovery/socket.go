package multicastdiscovery

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	hearBuffer   = 1 << 20 // bytes asked for; net.core.rmem_max may allow less
	speakBuffer  = 1       // of a socket that hears nothing: the least there is
	speakTimeout = time.Second
)

// A place is where one can be a member of the group: an interface, once per
// family. One that comes back under another index or name is another place.
type place struct {
	index    int
	name     string
	six      bool
	loopback bool
}

// String returns the interface and the family, "eth0 IPv6".
func (p place) String() string {
	if p.six {
		return p.name + " IPv6"
	}
	return p.name + " IPv4"
}

// A member is our presence at one place: a socket that hears, and one that
// speaks from a port of its own, by which others can tell the nodes of one
// machine apart.
type member struct {
	place
	group       netip.AddrPort
	hear, speak *net.UDPConn
}

// join becomes a member at p.
func join(p place, group netip.AddrPort) (*member, error) {
	hear, err := p.hearing(group)
	if err != nil {
		return nil, err
	}
	speak, err := p.speaking()
	if err != nil {
		hear.Close()
		return nil, err
	}
	return &member{place: p, group: group, hear: hear, speak: speak}, nil
}

func (m *member) leave() {
	m.hear.Close()
	m.speak.Close()
}

// read gives take every datagram until the member has left. The bytes are
// take's only during the call. A longer datagram than an envelope arrives
// with one byte too many.
func (m *member) read(take func(from netip.AddrPort, b []byte)) error {
	b := make([]byte, sdk.MaxEnvelope+1)
	for {
		n, from, err := m.hear.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		addr := from.Addr().Unmap()
		if addr.Is6() && addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(m.name) // package net may know an older name
		}
		take(netip.AddrPortFrom(addr, from.Port()), b[:n])
	}
}

// send sends one datagram to the group.
func (m *member) send(b []byte) error {
	if err := m.speak.SetWriteDeadline(time.Now().Add(speakTimeout)); err != nil {
		return err
	}
	_, err := m.speak.WriteToUDPAddrPort(b, m.group)
	return err
}

// hearing opens a socket that gets the datagrams to the group that arrive at
// this interface, and no others: it is bound to the group, so nothing that is
// sent to an address of this machine ever reaches it. (Package net would bind
// it to all addresses instead.) Any number of processes can have one, whichever
// of the two options for that they use, and each gets every datagram.
func (p place) hearing(group netip.AddrPort) (*net.UDPConn, error) {
	return p.socket(func(fd int) error {
		err := set(fd, unix.SOL_SOCKET,
			option{unix.SO_REUSEADDR, 1}, option{unix.SO_REUSEPORT, 1}, option{unix.SO_RCVBUF, hearBuffer})
		if err != nil {
			return err
		}
		if p.six {
			to := unix.SockaddrInet6{Port: int(group.Port()), ZoneId: uint32(p.index), Addr: group.Addr().As16()}
			return errors.Join(set(fd, unix.IPPROTO_IPV6, option{unix.IPV6_V6ONLY, 1}), unix.Bind(fd, &to),
				unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
					&unix.IPv6Mreq{Multiaddr: to.Addr, Interface: uint32(p.index)}))
		}
		to := unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}
		// Without IP_MULTICAST_ALL 0 it would hear what other sockets of this
		// machine joined for, at interfaces that are not ours.
		return errors.Join(set(fd, unix.IPPROTO_IP, option{unix.IP_MULTICAST_ALL, 0}), unix.Bind(fd, &to),
			unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: to.Addr, Ifindex: int32(p.index)}))
	})
}

// speaking opens a socket that sends to the group at this interface, no
// further than one hop, and to the other processes of this machine. The
// address it sends from is chosen at every datagram, except at the loopback
// interface, where the system would choose none: 0.0.0.0.
func (p place) speaking() (*net.UDPConn, error) {
	return p.socket(func(fd int) error {
		if err := set(fd, unix.SOL_SOCKET, option{unix.SO_RCVBUF, speakBuffer}); err != nil {
			return err
		}
		if p.six {
			return errors.Join(set(fd, unix.IPPROTO_IPV6, option{unix.IPV6_V6ONLY, 1}, option{unix.IPV6_MULTICAST_IF, p.index},
				option{unix.IPV6_MULTICAST_HOPS, 1}, option{unix.IPV6_MULTICAST_LOOP, 1}), unix.Bind(fd, &unix.SockaddrInet6{}))
		}
		out := unix.IPMreqn{Ifindex: int32(p.index)}
		if p.loopback {
			out.Address = [4]byte{127, 0, 0, 1}
		}
		return errors.Join(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &out),
			set(fd, unix.IPPROTO_IP, option{unix.IP_MULTICAST_TTL, 1}, option{unix.IP_MULTICAST_LOOP, 1}),
			unix.Bind(fd, &unix.SockaddrInet4{}))
	})
}

// socket makes a datagram socket of the family and has it prepared.
func (p place) socket(prepare func(fd int) error) (*net.UDPConn, error) {
	family := unix.AF_INET
	if p.six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "multicast")
	defer f.Close() // FilePacketConn has a duplicate
	if err := prepare(fd); err != nil {
		return nil, err
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // a datagram socket of an internet family is one
}

type option struct{ name, value int }

func set(fd, level int, options ...option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}
