package quictransport

import (
	"encoding/binary"
	"net"
	"os"
	"strconv"
	"time"
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
	size, err := s.putName(&c.name, addr)
	if err != nil {
		return err
	}
	c.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&c.name)), Namelen: size, Iov: &c.vector}
	c.header.SetIovlen(1)
	c.vector.Base = unsafe.SliceData(b)
	c.vector.SetLen(len(b))
	if len(oob) > 0 {
		c.header.Control = unsafe.SliceData(oob)
		c.header.SetControllen(len(oob))
	}
	err = s.raw.Write(c.do)
	c.vector.Base, c.header.Control = nil, nil
	if err == nil && c.errno != 0 {
		err = os.NewSyscallError("sendmsg", c.errno) // quic-go looks for one
	}
	return err
}

// putName writes an address as the socket wants it, and returns how long it
// is. To an IPv6 socket an IPv4 address is one of IPv6 (RFC 4291, section
// 2.5.5.2). One that the socket can not reach is an error: as zeros it would be
// this machine.
func (s *socket) putName(to *unix.RawSockaddrInet6, addr *net.UDPAddr) (uint32, error) {
	if four := addr.IP.To4(); s.family == unix.AF_INET && four != nil {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(to))
		*name = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: [4]byte(four)}
		putPort(&name.Port, addr.Port)
		return unix.SizeofSockaddrInet4, nil
	}
	ip := addr.IP.To16()
	if s.family == unix.AF_INET || ip == nil {
		return 0, os.NewSyscallError("sendmsg", unix.EAFNOSUPPORT)
	}
	*to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: [16]byte(ip), Scope_id: s.zoneID(addr.Zone)}
	putPort(&to.Port, addr.Port)
	return unix.SizeofSockaddrInet6, nil
}

func putPort(to *uint16, port int) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(to))[:], uint16(port))
}

// zoneFor is how long the index of an interface is believed: asking for it
// lists all interfaces of the machine.
const zoneFor = 10 * time.Second

// A zone is the name of an interface and its index at a time.
type zone struct {
	name string
	id   uint32
	at   time.Time
}

// zoneID returns the index of an interface. Those of packets that came are
// numbers: looking up a name for each would be work that strangers order.
// Names are those of addresses that this machine dials; the latest is kept.
func (s *socket) zoneID(name string) uint32 {
	if name == "" {
		return 0
	}
	if z := s.zone.Load(); z != nil && z.name == name && time.Since(z.at) < zoneFor {
		return z.id
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n)
	}
	z := &zone{name: name, at: time.Now()}
	if card, err := net.InterfaceByName(name); err == nil { // else the packet has no way
		z.id = uint32(card.Index)
	}
	s.zone.Store(z)
	return z.id
}
