package quictransport

import (
	"encoding/binary"
	"net"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sendCall is the arguments and the result of one sendmsg(2). It is used
// again and again: all of it would be allocated for each packet.
type sendCall struct {
	header unix.Msghdr
	vector unix.Iovec
	name   unix.RawSockaddrInet6 // or, in its first bytes, a RawSockaddrInet4
	errno  unix.Errno
	do     func(fd uintptr) bool
}

func newSendCall() any {
	c := &sendCall{}
	c.do = func(fd uintptr) bool {
		for {
			_, _, c.errno = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&c.header)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if c.errno != unix.EINTR {
				return c.errno != unix.EAGAIN
			}
		}
	}
	return c
}

// send sends one packet, or one for the operating system to cut, when the
// socket has room.
func (s *socket) send(b, oob []byte, addr *net.UDPAddr) error {
	c := s.sends.Get().(*sendCall)
	defer s.sends.Put(c)
	c.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&c.name)), Namelen: putName(&c.name, s.family, addr), Iov: &c.vector}
	c.header.SetIovlen(1)
	c.vector.Base = unsafe.SliceData(b)
	c.vector.SetLen(len(b))
	if len(oob) > 0 {
		c.header.Control = unsafe.SliceData(oob)
		c.header.SetControllen(len(oob))
	}
	err := s.raw.Write(c.do)
	c.vector.Base, c.header.Control = nil, nil
	if err == nil && c.errno != 0 {
		err = os.NewSyscallError("sendmsg", c.errno) // quic-go looks for one
	}
	return err
}

// putName writes an address as a socket of that family wants it, and returns
// how long it is. To an IPv6 socket an IPv4 address is one of IPv6 (RFC 4291,
// section 2.5.5.2).
func putName(to *unix.RawSockaddrInet6, family int, addr *net.UDPAddr) uint32 {
	if family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(to))
		*four = unix.RawSockaddrInet4{Family: unix.AF_INET}
		putPort(&four.Port, addr.Port)
		copy(four.Addr[:], addr.IP.To4())
		return unix.SizeofSockaddrInet4
	}
	*to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Scope_id: zoneID(addr.Zone)}
	putPort(&to.Port, addr.Port)
	copy(to.Addr[:], addr.IP.To16())
	return unix.SizeofSockaddrInet6
}

func putPort(to *uint16, port int) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(to))[:], uint16(port))
}

// zoneID returns the index of an interface. Those of packets that came are
// numbers: looking up a name for each would be work that strangers order.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	card, err := net.InterfaceByName(zone)
	if err != nil {
		return 0 // the packet has no way then
	}
	return uint32(card.Index)
}
