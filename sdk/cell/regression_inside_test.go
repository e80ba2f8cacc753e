package cell

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk/wire"
	"golang.org/x/sys/unix"
)

func looseLink(t *testing.T) (*outLink, func()) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "x")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWriter(conn)
	if err != nil {
		t.Fatal(err)
	}
	l := &outLink{link: &link{w: w, m: &Membrane{reaper: newReaper()}}, takeOver: make(chan struct{}, 1)}
	l.theirs = wire.Settings{Calls: 2, Message: 1 << 20}
	l.slots = slotTable{link: l, freed: make(chan struct{}, 1)}
	l.turn.Store(turnKeeper)
	return l, func() { conn.Close(); unix.Close(fds[1]) }
}

func TestCloseIfIdleRace(t *testing.T) {
	bad := 0
	const rounds = 20000
	for i := range rounds {
		l, end := looseLink(t)
		l.closing.Store(true) // the caller picked the link just before
		at := &moment{now: nanos()}
		var sent error
		var s *slot
		var wg sync.WaitGroup
		wg.Go(func() { l.closeIfIdle() })
		for range i % 50 {
		}
		if s, sent = l.begin(context.Background(), at, nil); sent == nil {
			sent = l.request(context.Background(), s, wire.Header{}, new(bytesMessage("hello123")), at)
		}
		wg.Wait()
		if sent == nil && l.w.reason() != nil {
			bad++ // written, or about to be, and closed under it: "maybe"
		}
		end()
	}
	if bad > 0 {
		t.Fatalf("%d of %d requests were sent on a link that was then closed as idle: executed maybe", bad, rounds)
	}
}

func TestFreedSlotWakesAllWaiters(t *testing.T) {
	for i := range 30000 {
		l, end := looseLink(t)
		a, _ := l.begin(context.Background(), &moment{}, nil)
		b, _ := l.begin(context.Background(), &moment{}, nil)
		got := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := l.begin(context.Background(), &moment{nanos(), nanos() + int64(300*time.Millisecond)}, nil)
				got <- err
			}()
		}
		for range (i % 64) * 8 {
		}
		l.slots.put(a)
		l.slots.put(b)
		for range 2 {
			if err := <-got; err != nil {
				t.Fatalf("round %d: two slots are free and a caller sleeps: %v", i, err)
			}
		}
		end()
	}
}
