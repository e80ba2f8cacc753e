package multicastdiscovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A recorder is a place in a test: it notes when what was said.
type recorder struct {
	mu   sync.Mutex // guards said
	said []string
	at   []time.Time
}

func (r *recorder) send(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said, r.at = append(r.said, string(b)), append(r.at, time.Now())
	return nil
}

// take returns what was said since it was called last.
func (r *recorder) take() (said []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	said, r.said = r.said, nil
	return said
}

func speaking(t *testing.T, do func(s *speaker[*recorder], r *recorder)) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSpeaker[*recorder](3*time.Second, quiet()), &recorder{}
		s.enter(r)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.run(ctx) })
		do(s, r)
		cancel()
		wg.Wait()
	})
}

func envelopes(texts ...string) (list []sdk.Envelope) {
	for _, t := range texts {
		list = append(list, sdk.Envelope(t))
	}
	return list
}

func said(t *testing.T, r *recorder, after time.Duration, want ...string) {
	t.Helper()
	time.Sleep(after)
	synctest.Wait()
	if got := r.take(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("said %q, want %q", got, want)
	}
}

func TestBurstThenBeats(t *testing.T) {
	speaking(t, func(s *speaker[*recorder], r *recorder) {
		said(t, r, time.Hour) // nothing to say
		s.announce(envelopes("a", "b"))
		said(t, r, time.Second, "a", "b", "a", "b", "a", "b")
		said(t, r, 3*time.Second, "a", "b")
		r.take()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(r.take()) / 2; n < 9 || n > 11 {
			t.Errorf("%d repetitions in ten beats", n)
		}
	})
}

// What comes with each beat is the same news signed anew; what comes between
// is a change.
func TestRefreshIsNoBurst(t *testing.T) {
	speaking(t, func(s *speaker[*recorder], r *recorder) {
		s.announce(envelopes("0"))
		said(t, r, 2500*time.Millisecond, "0", "0", "0")
		for i := range 5 {
			e := fmt.Sprint(i + 1)
			s.announce(envelopes(e))
			said(t, r, 2500*time.Millisecond, e)
		}
		s.announce(envelopes("x"))
		said(t, r, time.Second, "x")
		s.announce(envelopes("change"))
		said(t, r, time.Second, "change", "change", "change")
		s.announce(envelopes("change")) // is none
		said(t, r, time.Second)
	})
}

func TestAnswers(t *testing.T) {
	speaking(t, func(s *speaker[*recorder], r *recorder) {
		s.announce(envelopes("a"))
		said(t, r, time.Second, "a", "a", "a")
		for range 1000 { // all at once get one answer
			s.answer(r)
		}
		said(t, r, 300*time.Millisecond, "a")
		for range 1000 {
			s.answer(r)
		}
		said(t, r, 300*time.Millisecond)
		said(t, r, 950*time.Millisecond, "a") // and there is one a second
	})
}

func TestFloodOfNewNodesIsAnsweredOnceASecond(t *testing.T) {
	speaking(t, func(s *speaker[*recorder], r *recorder) {
		s.announce(envelopes("a"))
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			s.answer(r)
		}
		if n := len(r.take()); n > 3+10+1 {
			t.Errorf("%d datagrams in 10 s", n)
		}
	})
}

func TestGoodbye(t *testing.T) {
	speaking(t, func(s *speaker[*recorder], r *recorder) {
		s.announce(nil) // there is nothing to take back
		said(t, r, time.Second)
		s.announce(envelopes("a"))
		said(t, r, time.Second, "a", "a", "a")
		s.announce(nil)
		said(t, r, time.Minute, "", "", "")
		s.announce(envelopes("b"))
		said(t, r, time.Second, "b", "b", "b")
	})
}

// What was announced right before the end is said in full.
func TestLastWords(t *testing.T) {
	var r *recorder
	speaking(t, func(s *speaker[*recorder], rec *recorder) {
		r = rec
		s.announce(envelopes("bye"))
	})
	if got := r.take(); len(got) != 3 {
		t.Errorf("said %q: want it three times", got)
	}
}

// fakeLinks are interfaces whose subscription breaks.
type fakeLinks struct {
	mu      sync.Mutex // guards the fields below
	scans   int
	watches int
	lose    chan struct{}
}

func (f *fakeLinks) watch(ctx context.Context, changed func(int)) error {
	f.mu.Lock()
	f.watches++
	f.mu.Unlock()
	changed(0)
	select {
	case <-f.lose:
		return errors.New("no buffer space available")
	case <-ctx.Done():
		return nil
	}
}

func (f *fakeLinks) scan() ([]iface, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scans++
	return nil, nil
}

func (f *fakeLinks) counts() (scans, watches int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scans, f.watches
}

func TestOverflowMeansLookingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLinks{lose: make(chan struct{})}
		n := newNetwork(DefaultConfig(), quiet(), f)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { n.run(ctx) })
		for range 20 {
			time.Sleep(time.Minute)
			synctest.Wait()
			scans, watches := f.counts()
			f.lose <- struct{}{}
			time.Sleep(time.Minute)
			synctest.Wait()
			if s, w := f.counts(); s <= scans || w != watches+1 {
				t.Fatalf("after an overflow: %d scans and %d subscriptions more", s-scans, w-watches)
			}
		}
		cancel()
		wg.Wait()
	})
}

// The same with the real thing: more updates than the socket holds.
func TestRealOverflow(t *testing.T) {
	if os.Getenv("TEST_NAMESPACE") == "" {
		t.Skip("not root: no network namespace to change")
	}
	first, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ended := make(chan error, 1)
	go func() {
		ended <- netlinks{buffer: 1}.watch(t.Context(), func(int) {
			once.Do(func() { close(first) })
			<-held
		})
	}()
	<-first
	for i := range 20 {
		name := fmt.Sprintf("ov%d", i)
		if out, err := exec.Command("ip", "link", "add", name, "type", "bridge").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		defer exec.Command("ip", "link", "del", name).Run()
	}
	close(held)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("an overflow is no error")
		}
		t.Log(err)
	case <-time.After(20 * time.Second):
		t.Fatal("the overflow was not noticed")
	}
}

func random() netip.AddrPort {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], rand.Uint32()|1<<24)
	a[0] = 10
	return netip.AddrPortFrom(netip.AddrFrom4(a), uint16(1+rand.N(65000)))
}

// A million forged datagrams: the tables stay within their limits, and every
// envelope of who was heard before gets through to a watcher that takes a
// hundredth of what arrives.
func TestFlood(t *testing.T) {
	e := newEar(3*time.Second, quiet())
	own := append([]byte("ckA\x01ourmesh."), 1)
	e.know([]sdk.Envelope{own})
	w, _, err := e.watch(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	legit := netip.MustParseAddrPort("10.0.0.7:40000")
	seq := 0
	want, got := 0, 0
	beat := func() {
		now = now.Add(2500 * time.Millisecond)
		seq++
		want++
		e.hear(legit, fmt.Appendf(nil, "ckA\x01ourmesh.legit %d", seq), now)
	}
	take := func(n int) {
		for range n {
			ev, ok := e.next(w)
			if !ok {
				return
			}
			if ev.Origin == legit.String() {
				got++
			}
		}
	}
	for range 5 { // it is there before the flood
		beat()
		take(1)
	}
	forged := make([]byte, 600)
	copy(forged, "ckA\x01ourmesh.")
	const flood = 1_000_000
	for i := range flood {
		if i%25_000 == 0 { // 10 000 a second
			beat()
		}
		binary.LittleEndian.PutUint64(forged[20:], uint64(i))
		e.hear(random(), forged, now.Add(time.Duration(i%25_000)*100*time.Microsecond))
		if i%100 == 0 {
			take(1)
		}
		if n := len(e.sources.new); n > maxNew || len(e.sources.hosts) > maxNew+maxSettled {
			t.Fatalf("%d new sources", n)
		}
	}
	take(flood)
	if got != want {
		t.Errorf("%d of %d envelopes of a settled node arrived", got, want)
	}
	if n := e.settled.order.Len() + e.new.order.Len(); n > 2*maxShelf {
		t.Errorf("%d envelopes kept", n)
	}
	for i := range w.queue.ranks {
		if n := w.queue.ranks[i].count; n > maxRank {
			t.Errorf("%d events queued in rank %d", n, i)
		}
	}
}

// Who sends from the address of a node that is there does not have it dropped.
func TestForgedAddress(t *testing.T) {
	e := newEar(3*time.Second, quiet())
	w, _, err := e.watch(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	at, now := netip.MustParseAddrPort("10.0.0.1:1"), time.Now()
	want, got := 0, 0
	said := func(what string) {
		e.hear(at, []byte(what), now)
		for ev, ok := e.next(w); ok; ev, ok = e.next(w) {
			if bytes.HasPrefix(ev.Envelope, []byte("true")) {
				got++
			}
		}
	}
	for i := range 100_000 { // 2 000 a second
		if i%5000 == 0 || i < 10 {
			want++
			said(fmt.Sprint("true ", i))
		}
		if i < 10 { // it is there before
			now = now.Add(2500 * time.Millisecond)
			continue
		}
		now = now.Add(500 * time.Microsecond)
		said(fmt.Sprint("forged ", i))
	}
	if got != want {
		t.Errorf("%d of %d envelopes arrived", got, want)
	}
}

// One sender can not have more than its share, and does no harm to others.
func TestOneLoudSource(t *testing.T) {
	e := newEar(3*time.Second, quiet())
	w, _, err := e.watch(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	loud, calm := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1")
	now := time.Now()
	for i := range 100_000 {
		e.hear(loud, fmt.Appendf(nil, "loud %d", i), now)
	}
	e.hear(calm, []byte("calm"), now)
	ev, _ := e.next(w)
	next, _ := e.next(w)
	if ev.Origin != calm.String() && next.Origin != calm.String() {
		t.Errorf("the first two events are of %s and %s", ev.Origin, next.Origin)
	}
	n := 2
	for ; n < 1000; n++ {
		if _, ok := e.next(w); !ok {
			break
		}
	}
	if n > maxLane+1 {
		t.Errorf("%d events waited", n)
	}
}

// A goodbye of somebody who is still there is a forgery.
func TestForgedGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEar(3*time.Second, quiet())
		w, _, err := e.watch(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		at := netip.MustParseAddrPort("10.0.0.1:1")
		kinds := func() (list []sdk.EventKind) {
			for {
				ev, ok := e.next(w)
				if !ok {
					return list
				}
				list = append(list, ev.Kind)
			}
		}
		for i := range 10 {
			e.hear(at, fmt.Append(nil, "here ", i), time.Now())
			e.hear(at, nil, time.Now())
			time.Sleep(3 * time.Second)
		}
		if got := kinds(); len(got) != 10 {
			t.Errorf("events %v: want ten of kind seen", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := kinds(); len(got) != 1 || got[0] != sdk.EventGone {
			t.Errorf("after the silence: %v, want gone", got)
		}
		if len(e.sources.new)+len(e.sources.settled)+len(e.sources.hosts)+e.new.order.Len()+e.settled.order.Len() != 0 {
			t.Error("something is left of who has gone")
		}
		e.close()
	})
}

// FuzzHear feeds the receive path with any datagrams from any origins, over
// any time. Each record is: u8 host, u8 port, u8 seconds, u8 length/5, bytes.
func FuzzHear(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 'h', 'e', 'l', 'l', 'o', 1, 1, 0, 0, 1, 1, 9, 0})
	f.Add([]byte{1, 1, 3, 0, 2, 2, 2, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := newEar(3*time.Second, quiet())
		defer e.close()
		e.know([]sdk.Envelope{[]byte("ckA\x01ourmesh.")})
		now := time.Now()
		w, _, err := e.watch(now)
		if err != nil {
			t.Fatal(err)
		}
		sent := map[string]bool{}
		for len(b) >= 4 {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, b[0]}), uint16(b[1]))
			now = now.Add(time.Duration(b[2]) * time.Second)
			n := min(5*int(b[3]), len(b)-4)
			e.hear(from, b[4:4+n], now)
			sent[string(b[4:4+n])] = true
			b = b[4+n:]
		}
		for {
			ev, ok := e.next(w)
			if !ok {
				break
			}
			if ev.Kind != sdk.EventSeen || len(ev.Envelope) == 0 || !sent[string(ev.Envelope)] || ev.Origin == "" {
				t.Fatalf("event %+v", ev)
			}
		}
		total := 0
		for _, n := range e.sources.hosts {
			total += n
		}
		if total != len(e.sources.new)+len(e.sources.settled) {
			t.Fatalf("%d sources by host, %d in the table", total, len(e.sources.new)+len(e.sources.settled))
		}
	})
}

// BenchmarkHear is what one datagram costs: of a known source, and forged.
func BenchmarkHear(b *testing.B) {
	for _, forged := range []bool{false, true} {
		b.Run(fmt.Sprintf("forged=%v", forged), func(b *testing.B) {
			e := newEar(3*time.Second, quiet())
			at, now, text := random(), time.Now(), make([]byte, 600)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if binary.LittleEndian.PutUint64(text, uint64(i)); forged {
					at = random()
				}
				now = now.Add(20 * time.Millisecond)
				e.hear(at, text, now)
			}
		})
	}
}
