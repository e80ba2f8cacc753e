package netlab_test

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/netlab"
)

// BenchmarkCable asks an echo on another host, 512 datagrams in flight, and
// counts both directions.
func BenchmarkCable(b *testing.B) {
	for name, cable := range map[string]netlab.Cable{
		"perfect": {}, "delay": {Delay: 2 * time.Millisecond}, "jitter": {Delay: 2 * time.Millisecond, Jitter: 2 * time.Millisecond},
	} {
		for _, size := range []int{64, 1200} {
			b.Run(name+"/"+strconv.Itoa(size), func(b *testing.B) { benchmarkCable(b, cable, size) })
		}
	}
}

func benchmarkCable(b *testing.B, cable netlab.Cable, size int) {
	const window = 512
	lab := netlab.New(b)
	client, err := lab.Host("a", netlab.V4)
	check(b, err)
	server, err := lab.Host("b", netlab.V4)
	check(b, err)
	check(b, server.Shape(cable))
	p, err := server.ListenPacket("udp4", ":7")
	check(b, err)
	defer p.Close()
	u := p.(*net.UDPConn)
	check(b, u.SetReadBuffer(4<<20))
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			u.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	c, err := client.Dial(b.Context(), "udp4", netip.AddrPortFrom(server.Addr(netlab.V4), 7).String())
	check(b, err)
	defer c.Close()
	check(b, c.(*net.UDPConn).SetReadBuffer(4<<20))
	buf := make([]byte, 2048)
	for range 2 { // or a burst waits for ARP, where there is little room
		_, err = c.Write(nil)
		check(b, err)
		check(b, c.SetReadDeadline(time.Now().Add(patience)))
		_, err = c.Read(buf)
		check(b, err)
	}
	tokens := make(chan struct{}, window)
	go func() {
		buf := make([]byte, size)
		for range b.N {
			tokens <- struct{}{}
			c.Write(buf)
		}
	}()
	b.ResetTimer()
	for range b.N {
		check(b, c.SetReadDeadline(time.Now().Add(patience)))
		_, err := c.Read(buf)
		check(b, err)
		<-tokens
	}
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "packets/s")
	lost, err := server.Overrun()
	check(b, err)
	b.ReportMetric(float64(lost), "lost")
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
