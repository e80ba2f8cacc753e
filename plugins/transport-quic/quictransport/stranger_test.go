package quictransport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/quic-go/quic-go"
)

// answer is more than the kernel writes to a link that it refuses.
var answer = bytes.Repeat([]byte("yes!"), 256)

// serves carries a question from near to far and an answer back, as a link
// does that the kernel accepted.
func serves(t *testing.T, near, far net.Conn) {
	t.Helper()
	pass(t, near, far)
	if _, err := far.Write(answer); err != nil {
		t.Fatal(err)
	}
	near.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(near, make([]byte, len(answer))); err != nil {
		t.Fatal(err)
	}
}

// answering accepts links as a kernel does: it answers those that ask, and
// keeps the silent ones.
func answering(t *testing.T, l net.Listener) {
	t.Helper()
	go func() {
		for {
			far, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { far.Close() })
			go func() {
				for ask := make([]byte, 4); ; {
					if _, err := io.ReadFull(far, ask); err != nil {
						return
					}
					far.Write(answer)
				}
			}()
		}
	}()
}

// asks reports whether an answering listener answers over near.
func asks(near net.Conn) error {
	near.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := near.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(near, make([]byte, len(answer)))
	return err
}

// strangersAt opens connections from an address, each with a link that says
// nothing.
func strangersAt(t *testing.T, ip net.IP, to net.Addr, n int) []*quic.Conn {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
	if err != nil {
		t.Fatal(err)
	}
	at, err := net.ResolveUDPAddr("udp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: udp}
	t.Cleanup(func() { tr.Close(); udp.Close() })
	var all []*quic.Conn
	for i := range n {
		conn, err := tr.Dial(t.Context(), at, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"cellkernel/1"}}, nil)
		if err != nil {
			t.Fatalf("connection %d from %v: %v", i+1, ip, err)
		}
		s, err := conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		all = append(all, conn)
	}
	return all
}

// madeRoom waits until one of these connections was ended in favour of others:
// the one whose handshake was complete first, which on two cores need not be
// the one that was dialled first.
func madeRoom(t *testing.T, conns []*quic.Conn) {
	t.Helper()
	ended := make(chan *quic.Conn, len(conns))
	for _, c := range conns {
		defer context.AfterFunc(c.Context(), func() { ended <- c })()
	}
	select {
	case c := <-ended:
		var e *quic.ApplicationError
		if err := context.Cause(c.Context()); !errors.As(err, &e) || e.ErrorCode != 3 {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("all connections go on")
	}
}

// T5: whoever opens connections and says nothing takes places from nobody:
// not from links in use, not from other addresses, and not even from others
// at its own.
func TestSilentConnectionsLockNobodyOut(t *testing.T) {
	noLeaks(t)
	server := transport(t, open(t, map[string]any{"max-connections": 16, "max-per-source": 12}))
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
	first := strangersAt(t, net.IPv4(127, 0, 0, 2), l.Addr(), 8) // half of all
	other := strangersAt(t, net.IPv4(127, 0, 0, 3), l.Addr(), 1)
	madeRoom(t, first)
	own := strangersAt(t, net.IPv4(127, 0, 0, 1), l.Addr(), 11) // all that one source may have
	fresh, err := transport(t, open(t, nil)).Dial(t.Context(), addrOf(l))
	if err != nil {
		t.Fatalf("a new peer at the address of strangers: %v", err)
	}
	t.Cleanup(func() { fresh.Close() })
	madeRoom(t, own)
	for name, c := range map[string]net.Conn{"link in use": near, "new link": fresh} {
		if err := asks(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := context.Cause(other[0].Context()); err != nil {
		t.Errorf("the one connection of another address ended: %v", err)
	}
}

// startAt makes a stream send as if its first bytes had been sent already:
// what a peer without manners does, and what quic-go has no method for.
func startAt(t *testing.T, s *quic.Stream, offset int64) {
	t.Helper()
	f := reflect.ValueOf(s).Elem().FieldByName("sendStr").Elem().FieldByName("writeOffset")
	if !f.IsValid() {
		t.Fatal("quic-go's send streams have no writeOffset any more: this test needs another way")
	}
	reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().SetInt(offset)
}

// The bytes of a stream whose first one never comes are kept by quic-go
// whatever its reader does. Who is of no use yet gets little of that.
func TestStrangersFillNoMemory(t *testing.T) {
	noLeaks(t)
	for name, offset := range map[string]int64{"first byte never sent": 1, "never read": 0} {
		t.Run(name, func(t *testing.T) {
			l := listenAt(t, transport(t, open(t, nil)), "127.0.0.1:0")
			conn, err := stranger(t, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			for range 256 {
				s, err := conn.OpenStream()
				if err != nil {
					break // it ended already
				}
				startAt(t, s, offset)
				go s.Write(make([]byte, 60<<10))
			}
			madeRoom(t, []*quic.Conn{conn})
			if n := conn.ConnectionStats().BytesSent; n > 8<<20 {
				t.Errorf("it took %d bytes to notice", n)
			}
		})
	}
}

// A peer whose links are in use may have as many bytes unread as the windows
// allow.
func TestLinksInUseAreNotCountedAsStrangers(t *testing.T) {
	noLeaks(t)
	l := listenAt(t, transport(t, open(t, nil)), "127.0.0.1:0")
	tr := transport(t, open(t, nil))
	near, far := connectTo(t, tr, l)
	serves(t, near, far)
	for range 4 { // which nobody reads
		stuck, _ := connectTo(t, tr, l)
		go stuck.Write(make([]byte, 128<<10))
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); { // many looks
		serves(t, near, far)
	}
}
