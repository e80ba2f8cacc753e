package quictransport_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// A mumbler is a socket that lets a handshake begin and never finish its first
// word: of what is sent after the proof of the address, one packet leaves. A
// hello that is longer is never understood.
type mumbler struct {
	net.PacketConn
	retried atomic.Bool
	sent    atomic.Int64
	said    func()
}

// ReadFrom looks out for Retry packets (RFC 9000, section 17.2.5).
func (m *mumbler) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := m.PacketConn.ReadFrom(b)
	if n > 0 && b[0]&0xf0 == 0xf0 && m.retried.CompareAndSwap(false, true) {
		m.sent.Store(0)
	}
	return n, from, err
}

func (m *mumbler) WriteTo(b []byte, to net.Addr) (int, error) {
	if m.sent.Add(1) > 1 {
		return len(b), nil
	}
	defer m.said()
	return m.PacketConn.WriteTo(b, to)
}

// holders begin handshakes at an address, again and again, and finish none,
// until the test ends. It returns how to ask of how many the server kept
// something.
func holders(t *testing.T, ip net.IP, to net.Addr, n int, speak func(*quic.Transport, *tls.Config, func())) (held func() int64) {
	t.Helper()
	at, err := net.ResolveUDPAddr("udp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var count atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			pace := time.NewTicker(time.Second) // they are here to hold places, not to take the processors
			defer pace.Stop()
			for ; ctx.Err() == nil; <-pace.C {
				udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
				if err != nil {
					return
				}
				tr, conf := &quic.Transport{Conn: udp}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"cellkernel/1"}}
				speak(tr, conf, func() { count.Add(1) })
				once, cancel := context.WithTimeout(ctx, 2*time.Second)
				if conn, err := tr.Dial(once, at, conf, nil); err == nil {
					t.Error("a handshake that nobody finished is complete")
					conn.CloseWithError(0, "")
				}
				cancel()
				tr.Close()
				udp.Close()
			}
		})
	}
	t.Cleanup(func() { stop(); wg.Wait() })
	return count.Load
}

// T5: whoever begins handshakes and does not finish them takes places from
// nobody, whether he says a whole hello or the half of one.
func TestUnfinishedHandshakesLockNobodyOut(t *testing.T) {
	const places, sources = 16, 20 // each source may have one place before it has to make room
	for name, speak := range map[string]func(*quic.Transport, *tls.Config, func()){
		"after the hello": func(_ *quic.Transport, conf *tls.Config, held func()) {
			over := time.After(1500 * time.Millisecond) // what it waits for is the server's patience
			conf.VerifyConnection = func(tls.ConnectionState) error {
				held()
				<-over
				return net.ErrClosed
			}
		},
		"in the hello": func(tr *quic.Transport, conf *tls.Config, held func()) {
			for _, x := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
				conf.NextProtos = append(conf.NextProtos, strings.Repeat(x, 250)) // it takes three packets
			}
			tr.Conn = &mumbler{PacketConn: tr.Conn, said: held}
		},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			server := transport(t, open(t, map[string]any{"max-connections": places, "max-per-source": places / 2}))
			l := listenAt(t, server, "127.0.0.1:0")
			answering(t, l)
			near, err := transport(t, open(t, nil)).Dial(t.Context(), addrOf(l))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { near.Close() })
			if err := asks(near); err != nil {
				t.Fatal(err)
			}
			var counts []func() int64
			for i := range sources {
				counts = append(counts, holders(t, net.IPv4(127, 0, 2, byte(1+i)), l.Addr(), 1, speak))
			}
			held := func() (sum int64) {
				for _, c := range counts {
					sum += c()
				}
				return sum
			}
			for fresh := 0; fresh < 3; {
				if held() < int64(places*(fresh+1)) { // more than there may be
					if err := asks(near); err != nil {
						t.Fatalf("the link in use: %v", err)
					}
					continue
				}
				dialled := time.Now()
				c, err := transport(t, open(t, nil)).Dial(t.Context(), addrOf(l))
				if err != nil {
					t.Fatalf("a new peer, after %v: %v", time.Since(dialled), err)
				}
				t.Cleanup(func() { c.Close() })
				if err := asks(c); err != nil {
					t.Fatalf("a new peer's link: %v", err)
				}
				fresh++
			}
		})
	}
}
