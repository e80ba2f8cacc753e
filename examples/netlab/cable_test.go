package netlab_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/netlab"
	"golang.org/x/sys/unix"
)

const last = 1<<32 - 1 // the number of the datagram after which none comes

// stream sends numbered datagrams from one host to another, then calls settle
// and sends the last one. It returns the numbers that arrived before that.
func stream(t *testing.T, from, to *netlab.Host, n int, settle func()) []uint32 {
	t.Helper()
	p, err := to.ListenPacket("udp", ":9")
	must(t, err)
	defer p.Close()
	must(t, roomy(p))
	c, err := from.Dial(t.Context(), "udp", netip.AddrPortFrom(to.Addr(netlab.V4), 9).String())
	must(t, err)
	defer c.Close()
	for i := range n {
		_, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		must(t, err)
	}
	settle()
	_, err = c.Write(binary.BigEndian.AppendUint32(nil, last))
	must(t, err)
	var got []uint32
	buf := make([]byte, 16)
	for {
		must(t, p.SetReadDeadline(time.Now().Add(patience)))
		_, _, err := p.ReadFrom(buf)
		must(t, err)
		i := binary.BigEndian.Uint32(buf)
		if i == last {
			return got
		}
		got = append(got, i)
	}
}

func TestLoss(t *testing.T) {
	const n = 2000
	_, h := hosts(t, 2, netlab.V4)
	perfect := func() { must(t, h[0].Shape(netlab.Cable{})) }
	if got := stream(t, h[0], h[1], n, perfect); len(got) != n {
		t.Fatalf("without loss %d of %d arrive", len(got), n)
	}
	for _, c := range []struct {
		name     string
		up, down float64
		min, max int // six standard deviations around the mean
	}{
		{"sent", 0.2, 0, 1492, 1708},
		{"received is the other direction", 0, 0.2, n, n},
		{"half", 0.5, 0.5, 865, 1135},
		{"a tenth of a percent", 0.001, 0, 1989, 2000},
		{"all", 1, 0, 0, 0},
	} {
		must(t, h[0].ShapeEach(netlab.Cable{Loss: c.up}, netlab.Cable{Loss: c.down}))
		if got := stream(t, h[0], h[1], n, perfect); len(got) < c.min || len(got) > c.max {
			t.Errorf("%s: %d of %d arrive, want %d to %d", c.name, len(got), n, c.min, c.max)
		}
	}
}

// roomy gives a socket room for all that a test sends before it reads, which
// SetReadBuffer does not on a machine with a low limit.
func roomy(p net.PacketConn) error {
	raw, err := p.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	})
	return errors.Join(err, set)
}

// rtts returns the sorted round trips of some questions.
func rtts(t *testing.T, from, to *netlab.Host, n int) []time.Duration {
	t.Helper()
	var list []time.Duration
	for range n {
		d, err := ask(from, "udp", to.Addr(netlab.V4), patience)
		must(t, err)
		list = append(list, d)
	}
	slices.Sort(list)
	return list
}

func TestDelay(t *testing.T) {
	_, h := hosts(t, 2, netlab.V4)
	echo(t, h[1])
	rtts(t, h[0], h[1], 1) // ARP
	for _, c := range []struct {
		name     string
		up, down netlab.Cable
		min, max time.Duration
	}{
		{"both ways", netlab.Cable{Delay: 10 * time.Millisecond}, netlab.Cable{Delay: 10 * time.Millisecond}, 20 * time.Millisecond, 25 * time.Millisecond},
		{"one way", netlab.Cable{}, netlab.Cable{Delay: 5 * time.Millisecond}, 5 * time.Millisecond, 10 * time.Millisecond},
		{"jitter", netlab.Cable{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}, netlab.Cable{}, 5 * time.Millisecond, 20 * time.Millisecond},
		{"none", netlab.Cable{}, netlab.Cable{}, 0, 5 * time.Millisecond},
	} {
		must(t, h[1].ShapeEach(c.up, c.down))
		list := rtts(t, h[0], h[1], 40)
		t.Logf("%s: %v %v %v", c.name, list[0], list[len(list)/2], list[len(list)-1])
		if fastest := list[0]; fastest < c.min || fastest > c.max { // others may be slow for other reasons
			t.Errorf("%s: the fastest took %s: want %s to %s", c.name, fastest, c.min, c.max)
		}
		if spread := list[len(list)-1] - list[0]; c.up.Jitter > 0 && spread < c.up.Jitter/2 {
			t.Errorf("%s: all within %s", c.name, spread)
		}
	}
}

func TestOrder(t *testing.T) {
	const n = 2000
	_, h := hosts(t, 2, netlab.V4)
	jitter := netlab.Cable{Delay: 4 * time.Millisecond, Jitter: 4 * time.Millisecond}
	must(t, h[0].Shape(jitter))
	if got := stream(t, h[0], h[1], n, func() {}); len(got) != n || !slices.IsSorted(got) {
		t.Errorf("with jitter %d of %d arrive, in order: %v", len(got), n, slices.IsSorted(got))
	}
	jitter.Reorder = 0.1
	must(t, h[0].Shape(jitter))
	jitter.Reorder = 0
	got := stream(t, h[0], h[1], n, func() { must(t, h[0].Shape(jitter)) }) // so that the last one is
	if len(got) != n || slices.IsSorted(got) {
		t.Errorf("with reordering %d of %d arrive, in order: %v", len(got), n, slices.IsSorted(got))
	}
	if lost, err := h[0].Overrun(); lost != 0 || err != nil {
		t.Errorf("the box lost %d frames: %v", lost, err)
	}
}

func TestRate(t *testing.T) {
	const (
		size = 2 << 20
		rate = 40_000_000
		free = 256 << 10 // bytes that are ahead of the rate: the bucket, and what is in queues when the last is written
	)
	_, h := hosts(t, 2, netlab.V4)
	echo(t, h[1])
	for name, shape := range map[string]func() error{
		"up":   func() error { return h[1].ShapeEach(netlab.Cable{Rate: rate}, netlab.Cable{}) },
		"down": func() error { return h[1].ShapeEach(netlab.Cable{}, netlab.Cable{Rate: rate}) },
	} {
		must(t, shape())
		c, err := h[0].Dial(t.Context(), "tcp", netip.AddrPortFrom(h[1].Addr(netlab.V4), 7).String())
		must(t, err)
		begin := time.Now()
		go func() { c.Write(make([]byte, size)) }()
		_, err = io.ReadFull(c, make([]byte, size))
		must(t, err)
		took := time.Since(begin)
		c.Close()
		t.Logf("%s: %.1f Mbit/s", name, size*8/took.Seconds()/1e6)
		if least := time.Duration((size - free) * 8 * float64(time.Second) / rate); took < least || took > 6*least {
			t.Errorf("%s: %d bytes took %s, want %s to %s", name, size, took, least, 6*least)
		}
	}
	must(t, h[1].Shape(netlab.Cable{}))
}

func TestImpossibleCables(t *testing.T) {
	lab, h := hosts(t, 1, netlab.V4)
	for _, c := range []netlab.Cable{
		{Delay: -1}, {Delay: time.Minute}, {Jitter: -1}, {Loss: -0.1}, {Loss: 1.1}, {Reorder: 0.5}, {Delay: 1, Reorder: 2}, {Rate: 1},
	} {
		if err := h[0].Shape(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	alone, err := lab.Host("alone", 0)
	must(t, err)
	if err := alone.Shape(netlab.Cable{Loss: 0.5}); err == nil {
		t.Error("a host without a cable has one with loss")
	}
}
