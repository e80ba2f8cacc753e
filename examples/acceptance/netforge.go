package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/cellkernel/cellkernel/examples/netlab"
	"golang.org/x/sys/unix"
)

// headers is how long those of IPv4 and UDP are, without options.
const headers = 20 + 8

// A forger sends datagrams from addresses that are not its own. The switch
// knows it by its card.
type forger struct {
	fd int
	to *unix.SockaddrInet4
}

// newForger makes one that sends to an address, which may be of a group, from
// the host's card.
func newForger(h *netlab.Host, to netip.Addr) (*forger, error) {
	f := &forger{fd: -1, to: &unix.SockaddrInet4{Addr: to.As4()}}
	if err := h.Do(func() (err error) {
		f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}); err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	return f, nil
}

func (f *forger) close() { unix.Close(f.fd) }

// send sends a datagram that seems to come from an address.
func (f *forger) send(from netip.AddrPort, port uint16, payload []byte) error {
	if err := unix.Sendto(f.fd, forgedPacket(from, netip.AddrPortFrom(netip.AddrFrom4(f.to.Addr), port), payload), 0, f.to); err != nil {
		return fmt.Errorf("send a forged packet: %w", err)
	}
	return nil
}

// forgedPacket is an IPv4 packet with a UDP datagram. The system fills in what
// is left of the IP header; a UDP checksum of 0 is none (RFC 768).
func forgedPacket(from, to netip.AddrPort, payload []byte) []byte {
	p := make([]byte, headers, headers+len(payload))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[20:], from.Port())
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	return append(p, payload...)
}

// nobody is one of the first n addresses of hosts that are not there.
func nobody(n int) netip.AddrPort {
	i := 1 + rand.N(n)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(64 + i/250), byte(1 + i%250)}), uint16(1024+rand.N(60000)))
}
