package quictransport

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func bind(t *testing.T, network, host string) *socket {
	t.Helper()
	udp, err := net.ListenUDP(network, &net.UDPAddr{IP: net.ParseIP(host)})
	if err != nil {
		t.Skipf("bind %s: %v", host, err)
	}
	t.Cleanup(func() { udp.Close() })
	s := &socket{}
	if err := s.open(udp); err != nil {
		t.Fatal(err)
	}
	udp.SetReadDeadline(time.Now().Add(10 * time.Second))
	return s
}

// receive returns the next n packets of s, and where they came from.
func receive(t *testing.T, s *socket, n int) (packets [][]byte, from []*net.UDPAddr) {
	t.Helper()
	ms := make([]ipv4.Message, 8)
	for len(packets) < n {
		for i := range ms {
			ms[i].Buffers, ms[i].OOB = [][]byte{make([]byte, 1452)}, make([]byte, batchNotes)
		}
		got, err := s.ReadBatch(ms, 0)
		if err != nil || got < 1 {
			t.Fatalf("read a batch after %d of %d packets: %d, %v", len(packets), n, got, err)
		}
		for _, m := range ms[:got] {
			if m.Flags&unix.MSG_CTRUNC != 0 {
				t.Fatal("control messages were cut off")
			}
			packets, from = append(packets, m.Buffers[0][:m.N]), append(from, m.Addr.(*net.UDPAddr))
		}
	}
	return packets, from
}

// segments says into what the operating system is to cut a packet (UDP_SEGMENT, udp(7)).
func segments(size uint16) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&b[unix.CmsgLen(0)])) = size
	return b
}

// What the operating system joins on its way is handed out as it was sent.
func TestJoinedPackets(t *testing.T) {
	for _, to := range []struct{ name, network, bound, dialled string }{
		{"IPv4", "udp4", "127.0.0.1", "127.0.0.1"},
		{"IPv6", "udp6", "::1", "::1"},
		{"IPv4 at a socket of both", "udp", "::", "127.0.0.1"},
	} {
		t.Run(to.name, func(t *testing.T) {
			a, b := bind(t, to.network, to.bound), bind(t, to.network, to.bound)
			at := &net.UDPAddr{IP: net.ParseIP(to.dialled), Port: b.LocalAddr().(*net.UDPAddr).Port}
			burst := make([]byte, 20*1200+300)
			for i := range burst {
				burst[i] = byte(i / 1200)
			}
			for range 3 {
				if n, _, err := a.WriteMsgUDP(burst, segments(1200), at); err != nil || n != len(burst) {
					t.Fatalf("send: %d, %v", n, err)
				}
			}
			got, from := receive(t, b, 63)
			for i, p := range got {
				if want := slices.Collect(slices.Chunk(burst, 1200))[i%21]; !bytes.Equal(p, want) {
					t.Fatalf("packet %d has %d bytes of %v, want %d of %d", i, len(p), p[:1], len(want), want[0])
				}
			}
			for _, f := range from {
				if !f.IP.Equal(at.IP) || f.Port != a.LocalAddr().(*net.UDPAddr).Port {
					t.Fatalf("a packet came from %s", f)
				}
			}
		})
	}
}

// Packets of any lengths, empty ones and too long ones too, come as they were
// sent and in this order, whoever of two sends them.
func TestPacketsOfAnyLength(t *testing.T) {
	to := bind(t, "udp4", "127.0.0.1")
	from := []*socket{bind(t, "udp4", "127.0.0.1"), bind(t, "udp4", "127.0.0.1")}
	at := to.LocalAddr().(*net.UDPAddr)
	rapid.Check(t, func(rt *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 2000), 1, 40).Draw(rt, "sizes")
		who := rapid.SliceOfN(rapid.IntRange(0, 1), len(sizes), len(sizes)).Draw(rt, "who")
		for i, n := range sizes {
			if _, _, err := from[who[i]].WriteMsgUDP(bytes.Repeat([]byte{byte(i)}, n), nil, at); err != nil {
				rt.Fatal(err)
			}
		}
		got, senders := receive(t, to, len(sizes))
		if len(got) != len(sizes) {
			rt.Fatalf("got %d packets, want %d", len(got), len(sizes))
		}
		for i, p := range got {
			if want := bytes.Repeat([]byte{byte(i)}, min(sizes[i], 1452)); !bytes.Equal(p, want) {
				rt.Fatalf("packet %d is %d bytes, want %d", i, len(p), len(want))
			}
			if want := from[who[i]].LocalAddr().(*net.UDPAddr); !senders[i].IP.Equal(want.IP) || senders[i].Port != want.Port {
				rt.Fatalf("packet %d came from %s, want %s", i, senders[i], want)
			}
		}
	})
}

func TestNamesOfAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		four := rapid.Bool().Draw(t, "IPv4")
		ip := net.IP(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip"))
		if four {
			ip = ip[:4]
		}
		want := &net.UDPAddr{IP: ip, Port: int(rapid.Uint16().Draw(t, "port"))}
		family := unix.AF_INET6
		if four && rapid.Bool().Draw(t, "IPv4 socket") {
			family = unix.AF_INET
		}
		var name unix.RawSockaddrInet6
		if n, err := (&socket{family: family}).putName(&name, want); n == 0 || err != nil {
			t.Fatalf("no name: %v", err)
		}
		if got := addressOf(&name); !got.IP.Equal(want.IP) || got.Port != want.Port || got.Zone != "" {
			t.Fatalf("%s became %s", want, got)
		}
	})
	var name unix.RawSockaddrInet6
	s := &socket{family: unix.AF_INET6}
	local := &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "lo"}
	s.putName(&name, local)
	if got := addressOf(&name); got.Zone != "1" || s.zoneID(got.Zone) != 1 {
		t.Errorf("zone lo became %q", got.Zone)
	}
	if n := testing.AllocsPerRun(100, func() { s.putName(&name, local) }); n != 0 {
		t.Errorf("a name with a zone takes %v allocations: its interface is looked up each time", n)
	}
	for family, ip := range map[int]net.IP{unix.AF_INET: net.ParseIP("fe80::1"), unix.AF_INET6: nil} {
		if _, err := (&socket{family: family}).putName(&name, &net.UDPAddr{IP: ip, Port: 1}); !errors.Is(err, unix.EAFNOSUPPORT) {
			t.Errorf("%v for a socket of family %d: %v", ip, family, err)
		}
	}
}

// What a control message claims to be is not believed.
func FuzzSegment(f *testing.F) {
	f.Add(segments(1200), 4000)
	f.Fuzz(func(t *testing.T, notes []byte, all int) {
		if n := segment(notes, all); n != all && (n < 1 || n > 1<<16) {
			t.Errorf("segments of %d bytes", n)
		}
	})
}

func TestClosedSocketEndsReads(t *testing.T) {
	s := bind(t, "udp4", "127.0.0.1")
	ended := make(chan error, 1)
	go func() {
		_, err := s.ReadBatch([]ipv4.Message{{Buffers: [][]byte{make([]byte, 1452)}}}, 0)
		ended <- err
	}()
	s.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of a closed socket: %v", err)
	}
	if _, _, err := s.WriteMsgUDP([]byte{1}, nil, s.LocalAddr().(*net.UDPAddr)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write to a closed socket: %v", err)
	}
}
