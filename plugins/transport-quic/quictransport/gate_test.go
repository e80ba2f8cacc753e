package quictransport_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/quic-go/quic-go"
)

// stranger opens a connection without the transport: it speaks QUIC and our
// protocol's name, and does what it likes. It reports whether it had to prove
// its address.
func stranger(t *testing.T, addr string) (*quic.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"cellkernel/1"}}, nil)
	if err == nil {
		t.Cleanup(func() { conn.CloseWithError(0, "") })
	}
	return conn, err
}

// What is of use gives way to nobody.
func TestConnectionsAreLimited(t *testing.T) {
	noLeaks(t)
	server := transport(t, open(t, map[string]any{"max-connections": 4, "max-per-source": 3}))
	l := listenAt(t, server, "127.0.0.1:0")
	var last *plugin.Client
	for range 3 {
		last = open(t, nil)
		near, far := connectTo(t, transport(t, last), l)
		serves(t, near, far)
	}
	_, err := stranger(t, l.Addr().String())
	var refused *quic.TransportError
	if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
		t.Errorf("the fourth of one source: %v, want refused", err)
	}
	_, err = transport(t, open(t, nil)).Dial(t.Context(), addrOf(l))
	if sdk.CodeOf(err) != sdk.CodeOverloaded {
		t.Errorf("a dial beyond the limit: %v, want overloaded", err)
	}
	last.Kill() // makes room
	for begin := time.Now(); ; {
		near, err := transport(t, open(t, nil)).Dial(t.Context(), addrOf(l))
		if err == nil {
			near.Close()
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("no room after a connection ended: %v", err)
		}
	}
}

func TestStreamsAreLimited(t *testing.T) {
	noLeaks(t)
	l := listenAt(t, transport(t, open(t, nil)), "127.0.0.1:0")
	conn, err := stranger(t, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for err == nil {
		var s *quic.Stream
		if s, err = conn.OpenStream(); err == nil {
			n++
			s.Write([]byte{1})
		}
	}
	if n != 256 {
		t.Errorf("a stranger could open %d streams, want 256", n)
	}
	if _, err := conn.OpenUniStream(); err == nil {
		t.Error("a stranger could open a unidirectional stream")
	}
}

// Other protocols, older TLS and other first bytes get nothing.
func TestStrangersAreRefused(t *testing.T) {
	noLeaks(t)
	l := listenAt(t, transport(t, open(t, nil)), "127.0.0.1:0")
	if _, err := quic.DialAddr(t.Context(), l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil); err == nil {
		t.Error("another protocol was accepted")
	}
	conn, err := stranger(t, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("\x02hello"))
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := far.Read(make([]byte, 8)); err == nil || isTimeout(err) {
		t.Errorf("a link of version 2 delivers %d bytes, %v", n, err)
	}
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	var reset *quic.StreamError
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, &reset) {
		t.Errorf("the stranger got %v, want a reset", err)
	}
}

// T5, P15: forged Initials cost the ones that opened links nothing, and a new
// peer proves its address and connects.
func TestForgedInitialsLockNobodyOut(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, nil))
	l := listenAt(t, server, "127.0.0.1:0")
	near, far := connectTo(t, tr, l)
	to, err := net.ResolveUDPAddr("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sent := flood(t, to)
	for fresh := 0; fresh < 3; {
		passWithin(t, 5*time.Second, near, far)
		passWithin(t, 5*time.Second, far, near)
		if sent() < int64(700*(fresh+1)) { // more than there may be connections
			continue
		}
		a, b := connectTo(t, transport(t, open(t, nil)), l)
		passWithin(t, 5*time.Second, a, b)
		fresh++
	}
}

// flood writes what looks like Initials of ever new connections from 250
// addresses, 2 000 a second, until the test ends. It returns how to ask for
// how many.
func flood(t *testing.T, to *net.UDPAddr) func() int64 {
	t.Helper()
	var sources []*net.UDPConn
	for i := range 250 {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))})
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, c)
	}
	var sent atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-done
		for _, c := range sources {
			c.Close()
		}
	})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for k := range 10 {
				if _, err := sources[(i*10+k)%len(sources)].WriteTo(forged(), to); err == nil {
					sent.Add(1)
				}
			}
		}
	}()
	return sent.Load
}

// forged has the header of RFC 9000, section 17.2.2: Initial, version 1, ids of
// 8 and 8 bytes, no token, the length of the rest. The rest is noise.
func forged() []byte {
	p := make([]byte, 1200)
	rand.Read(p)
	copy(p, []byte{0xc3, 0, 0, 0, 1, 8})
	p[14] = 8
	copy(p[23:], []byte{0, 0x40 | (1200-26)>>8, (1200 - 26) & 0xff})
	return p
}
