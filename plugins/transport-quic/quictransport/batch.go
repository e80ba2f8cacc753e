package quictransport

import (
	"encoding/binary"
	"net"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	batchReads = 8        // what one recvmmsg(2) takes
	batchBytes = 64 << 10 // the most that packets which were joined have
	batchNotes = 128      // bytes of control messages, as quic-go has; all that it and we ask for take 120
	batchAgain = 4        // reads at once, of which the first may fail
)

// A batch reads packets many at a time, and takes apart those that the
// operating system has joined (UDP_GRO, udp(7)): on the way through it a burst
// of one peer then is one packet, not forty-five. It belongs to the one
// goroutine that reads.
type batch struct {
	s       *socket
	headers [batchReads]messageHeader
	vectors [batchReads]unix.Iovec
	names   [batchReads]unix.RawSockaddrInet6
	notes   [batchReads][batchNotes]byte
	bytes   []byte // batchBytes for each

	got, at int    // how many were read, and the one that is handed out next
	rest    []byte // of that one, if some of it was handed out
	last    unix.RawSockaddrInet6
	from    *net.UDPAddr // last, as others want it

	errno unix.Errno
	do    func(fd uintptr) bool
}

// A messageHeader is a struct mmsghdr (recvmmsg(2)), which is aligned as its
// pointers are.
type messageHeader struct {
	unix.Msghdr
	Len uint32
}

// What Linux writes to is as long as what is here, on every architecture.
const _ = -(unsafe.Sizeof(messageHeader{}) % unsafe.Sizeof(uintptr(0)))

func (b *batch) init(s *socket) {
	b.s, b.bytes = s, make([]byte, batchReads*batchBytes)
	b.do = func(fd uintptr) bool {
		for range batchAgain {
			b.prepare()
			var n uintptr
			n, _, b.errno = unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.headers[0])), batchReads, unix.MSG_DONTWAIT, 0, 0)
			switch b.errno {
			case 0:
				b.got = int(n)
				return true
			case unix.EAGAIN:
				return false
			case unix.EBADF:
				return true
			}
		}
		return false
	}
}

// prepare undoes what the last call did to the headers.
func (b *batch) prepare() {
	for i := range b.headers {
		h := &b.headers[i].Msghdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet6
		b.vectors[i].Base = &b.bytes[i*batchBytes]
		b.vectors[i].SetLen(batchBytes)
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		h.Control = &b.notes[i][0]
		h.SetControllen(batchNotes)
		h.Flags = 0
	}
}

// ReadBatch fills ms with packets and returns how many: at least one, for
// which it waits.
func (s *socket) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	b := &s.batch
	if b.at == b.got {
		b.at, b.got = 0, 0
		if err := b.read(); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(ms) && b.at < b.got {
		b.take(&ms[n])
		n++
	}
	return n, nil
}

// read waits for packets. quic-go ends all connections of a socket that can
// not be read, so an error that is about what was sent before is read away, and
// one that stays, such as want of memory, waits for the next packet like others
// that find nothing.
func (b *batch) read() error {
	if err := b.s.raw.Read(b.do); err != nil {
		return err
	}
	if b.errno != 0 {
		return os.NewSyscallError("recvmmsg", b.errno)
	}
	return nil
}

// take hands out the next packet.
func (b *batch) take(m *ipv4.Message) {
	h := &b.headers[b.at]
	notes := b.notes[b.at][:h.Controllen]
	if b.rest == nil {
		start := b.at * batchBytes
		b.rest = b.bytes[start : start+int(h.Len)]
	}
	size := min(segment(notes, len(b.rest)), len(b.rest))
	m.N = copy(m.Buffers[0], b.rest[:size])
	m.NN = copy(m.OOB, notes)
	m.Flags = int(h.Flags)
	m.Addr = b.sender(&b.names[b.at])
	if b.rest = b.rest[size:]; len(b.rest) == 0 {
		b.rest = nil
		b.at++
	}
}

// segment returns the length of each packet but the last of those joined in
// one, or all if it is one.
func segment(notes []byte, all int) int {
	for len(notes) >= unix.SizeofCmsghdr {
		header, body, rest, err := unix.ParseOneSocketControlMessage(notes)
		if err != nil {
			break
		}
		if header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_GRO && len(body) >= 4 {
			if size := binary.NativeEndian.Uint32(body); size > 0 && size < batchBytes { // an int
				return int(size)
			}
		}
		notes = rest
	}
	return all
}

// sender returns the address that a packet came from. Packets in a row mostly
// have the same, and nobody changes one.
func (b *batch) sender(name *unix.RawSockaddrInet6) *net.UDPAddr {
	if b.from != nil && b.last == *name {
		return b.from
	}
	b.last = *name
	b.from = addressOf(name)
	return b.from
}

func addressOf(name *unix.RawSockaddrInet6) *net.UDPAddr {
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return &net.UDPAddr{IP: net.IPv4(four.Addr[0], four.Addr[1], four.Addr[2], four.Addr[3]).To4(), Port: port(&four.Port)}
	}
	addr := &net.UDPAddr{IP: append(net.IP(nil), name.Addr[:]...), Port: port(&name.Port)}
	if name.Scope_id != 0 {
		addr.Zone = strconv.FormatUint(uint64(name.Scope_id), 10)
	}
	return addr
}

func port(from *uint16) int { return int(binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(from))[:])) }
