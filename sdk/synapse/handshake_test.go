package synapse_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// A pair is two sides of a handshake with somebody between them. Index 0 is
// the initiator.
type pair struct {
	c       [2]synapse.Config
	meeting *synapse.Meeting // instead of c
	random  [2][]byte        // ephemeral keys, where they are given
	// relay returns what arrives instead of message m, the nth (from 0) of
	// the side from; nil cuts the stream.
	relay func(from, n int, m []byte) []byte

	s    [2]*synapse.Session
	err  [2]error
	conn [2]net.Conn // of the sides
	log  events
}

// events is what happened, in order.
type events struct {
	sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.Lock()
	defer e.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

var sideNames = [2]string{"initiator", "responder"}

func newPair(tb testing.TB) *pair {
	p := &pair{relay: func(_, _ int, m []byte) []byte { return m }}
	for i := range p.c {
		key, err := synapse.GenerateKey()
		if err != nil {
			tb.Fatal(err)
		}
		p.c[i] = synapse.Config{
			Initiator: i == 0, Key: key, Certificate: []byte("certificate of the " + sideNames[i]),
			MeshID: [32]byte{1}, Header: []byte("header"), Binding: [32]byte{2},
			Admit: func(_ context.Context, peer synapse.Peer) error {
				p.log.add("%s admits %q finished=%t", sideNames[i], peer.Certificate, peer.Hash != nil)
				return nil
			},
		}
	}
	return p
}

// run runs both sides until they are done; a side that fails closes.
func (p *pair) run(ctx context.Context) {
	var outer [2]net.Conn
	for i := range outer {
		p.conn[i], outer[i] = net.Pipe()
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for from := range outer {
		wg.Go(func() { p.forward(from, outer[from], outer[1-from], stop) })
	}
	var sides sync.WaitGroup
	for i := range p.conn {
		sides.Go(func() {
			p.s[i], p.err[i] = p.side(ctx, i)
			if p.err[i] != nil {
				p.conn[i].Close()
			}
		})
	}
	sides.Wait()
	close(stop)
	for i := range outer {
		outer[i].Close()
	}
	wg.Wait()
}

func (p *pair) side(ctx context.Context, i int) (*synapse.Session, error) {
	var random io.Reader
	if p.random[i] != nil {
		random = bytes.NewReader(p.random[i])
	}
	if p.meeting != nil {
		m := *p.meeting
		m.Initiator = i == 0
		return synapse.MeetFrom(ctx, p.conn[i], m, random)
	}
	return synapse.SecureFrom(ctx, p.conn[i], p.c[i], random)
}

// forward carries messages one way until either end closes.
func (p *pair) forward(from int, r, w net.Conn, stop <-chan struct{}) {
	defer w.Close()
	for n := 0; ; n++ {
		m := make([]byte, 2, 2048)
		if _, err := io.ReadFull(r, m); err != nil {
			return
		}
		m = m[:2+int(binary.BigEndian.Uint16(m))]
		if _, err := io.ReadFull(r, m[2:]); err != nil {
			return
		}
		p.log.add("%s sends %d", sideNames[from], n)
		if m = p.relay(from, n, m); m == nil {
			<-stop // it is not told that it was cut off
			return
		}
		if _, err := w.Write(m); err != nil {
			return
		}
	}
}

func (p *pair) wantBoth(tb testing.TB) {
	tb.Helper()
	for i, err := range p.err {
		if err != nil {
			tb.Fatalf("%s: %v", sideNames[i], err)
		}
	}
}

// wantRefused checks that the side did not get a session, and nothing that
// tells what was wrong, and that its kernel was not asked to the end.
func (p *pair) wantRefused(tb testing.TB, i int) {
	tb.Helper()
	if p.s[i] != nil || p.err[i] == nil {
		tb.Fatalf("%s accepted", sideNames[i])
	}
	if p.err[i] != synapse.ErrHandshake && !errors.Is(p.err[i], context.DeadlineExceeded) {
		tb.Fatalf("%s: got %v, want %v", sideNames[i], p.err[i], synapse.ErrHandshake)
	}
	for _, e := range p.log.list {
		if strings.HasPrefix(e, sideNames[i]+" admits") && strings.HasSuffix(e, "finished=true") {
			tb.Fatalf("%s: kernel was asked to admit after a broken handshake", sideNames[i])
		}
	}
}

func TestOrderOfEvents(t *testing.T) {
	p := newPair(t)
	p.run(t.Context())
	p.wantBoth(t)
	got := strings.Join(p.log.list, "\n")
	for _, side := range [][]string{
		{
			"initiator sends 0", "responder sends 0", `initiator admits "certificate of the responder" finished=false`,
			"initiator sends 1",
		},
		{"initiator sends 1", `responder admits "certificate of the initiator" finished=true`},
		{"initiator sends 0", `initiator admits "certificate of the responder" finished=true`},
	} {
		rest := got
		for _, want := range side {
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Fatalf("no %q in its place in\n%s", want, got)
			}
			rest = after
		}
	}
}

func TestPeerIsWhoItIs(t *testing.T) {
	p := newPair(t)
	var mu sync.Mutex
	var peers [2][]synapse.Peer
	for i := range p.c {
		p.c[i].Admit = func(_ context.Context, peer synapse.Peer) error {
			mu.Lock()
			defer mu.Unlock()
			peers[i] = append(peers[i], peer)
			return nil
		}
	}
	p.run(t.Context())
	p.wantBoth(t)
	if len(peers[0]) != 2 || len(peers[1]) != 1 {
		t.Fatalf("admitted %d and %d times, want 2 and 1", len(peers[0]), len(peers[1]))
	}
	for i, list := range peers {
		last := list[len(list)-1]
		hash := p.s[i].Hash()
		if !bytes.Equal(last.Hash, hash[:]) || last.Key != p.c[1-i].Key.Public() || !bytes.Equal(last.Certificate, p.c[1-i].Certificate) {
			t.Errorf("%s was told %+v", sideNames[i], last)
		}
	}
	if peers[0][0].Hash != nil {
		t.Error("there is a hash before the handshake is finished")
	}
}

// A machine in the middle that ends the channel on both sides, another mesh,
// another link: the initiator finds out before it says who it is.
func TestContextMustAgree(t *testing.T) {
	for name, change := range map[string]func(*synapse.Config){
		"binding": func(c *synapse.Config) { c.Binding[31] ^= 1 },
		"mesh":    func(c *synapse.Config) { c.MeshID[0] ^= 1 },
		"header":  func(c *synapse.Config) { c.Header = []byte("headeR") },
		"longer":  func(c *synapse.Config) { c.Header = []byte("header\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			change(&p.c[1])
			p.run(t.Context())
			p.wantRefused(t, 0)
			p.wantRefused(t, 1)
			if got := strings.Join(p.log.list, "\n"); strings.Contains(got, "initiator sends 1") {
				t.Errorf("the initiator revealed itself:\n%s", got)
			}
		})
	}
}

var errNo = errors.New("this node is not k7q2")

func TestVerdicts(t *testing.T) {
	no := func(context.Context, synapse.Peer) error { return errNo }
	t.Run("initiator", func(t *testing.T) {
		p := newPair(t)
		p.c[0].Admit = no
		p.run(t.Context())
		if !errors.Is(p.err[0], errNo) {
			t.Errorf("got %v, want what the kernel said", p.err[0])
		}
		p.wantRefused(t, 1)
		if got := strings.Join(p.log.list, "\n"); strings.Contains(got, "initiator sends 1") {
			t.Errorf("the initiator revealed itself:\n%s", got)
		}
	})
	t.Run("initiator at the end", func(t *testing.T) {
		p := newPair(t)
		p.c[0].Admit = func(_ context.Context, peer synapse.Peer) error {
			if peer.Hash != nil {
				return errNo
			}
			return nil
		}
		p.run(t.Context())
		if !errors.Is(p.err[0], errNo) || p.s[0] != nil {
			t.Errorf("got %v, want what the kernel said", p.err[0])
		}
	})
	t.Run("responder", func(t *testing.T) {
		p := newPair(t)
		p.c[1].Admit = no
		p.run(t.Context())
		if !errors.Is(p.err[1], errNo) || p.s[1] != nil {
			t.Errorf("got %v, want what the kernel said", p.err[1])
		}
	})
}

// Whoever presents another's certificate proves another key: Admit sees that.
func TestStolenCertificate(t *testing.T) {
	p := newPair(t)
	owner := p.c[1].Key.Public()
	p.c[1].Key = must(synapse.GenerateKey())
	p.c[0].Admit = func(_ context.Context, peer synapse.Peer) error {
		if peer.Key != owner {
			return errNo
		}
		return nil
	}
	p.run(t.Context())
	if !errors.Is(p.err[0], errNo) {
		t.Errorf("got %v, want %v", p.err[0], errNo)
	}
	p.wantRefused(t, 1)
}

// victim is the side that receives the nth message of from, and messages are
// those of a handshake: initiator, responder, initiator.
func victim(message int) (from, n, victim int) {
	return message % 2, message / 2, 1 - message%2
}

// Every byte of every message, its length included, with one bit changed.
func TestEveryByteFlipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := runtime.NumGoroutine()
		cases := 0
		for message := range 3 {
			for at := 0; ; at++ {
				p := newPair(t)
				length := 0
				p.relay = flip(message, at, 1<<rand.IntN(8), &length)
				p.run(t.Context())
				if at >= length {
					p.wantBoth(t)
					break
				}
				cases++
				_, _, victim := victim(message)
				p.wantRefused(t, victim)
				if message < 2 {
					p.wantRefused(t, 1-victim)
				}
			}
		}
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > base {
			t.Errorf("%d goroutines, %d before", n, base)
		}
		t.Logf("%d bytes", cases)
	})
}

func flip(message, at int, bit byte, length *int) func(int, int, []byte) []byte {
	from, n, _ := victim(message)
	return func(f, i int, m []byte) []byte {
		if f == from && i == n {
			*length = len(m)
			if at < len(m) {
				m[at] ^= bit
			}
		}
		return m
	}
}

// Ten thousand handshakes with random damage. None is accepted by whom the
// damage reached, none panics; when it is the last message, the initiator is
// done already and learns of it by the end of the stream.
func TestMutatedHandshakes(t *testing.T) {
	runs := 10_000
	if testing.Short() {
		runs = 500
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	synctest.Test(t, func(t *testing.T) {
		for range runs {
			p := newPair(t)
			message, kind := r.IntN(3), r.IntN(len(mutations))
			from, n, victim := victim(message)
			var old []byte
			p.relay = func(f, i int, m []byte) []byte {
				if f != from || i != n {
					old = bytes.Clone(m)
					return m
				}
				before := bytes.Clone(m)
				m = mutations[kind](r, m, old)
				if bytes.Equal(m, before) {
					m[len(m)-1] ^= 1
				}
				return m
			}
			p.run(t.Context())
			p.wantRefused(t, victim)
			if message < 2 {
				p.wantRefused(t, 1-victim)
			}
		}
	})
}

// mutations damage message m; old is the one before it, in the other direction.
var mutations = []func(r *rand.Rand, m, old []byte) []byte{
	func(r *rand.Rand, m, _ []byte) []byte { // some bytes
		for range 1 + r.IntN(8) {
			m[r.IntN(len(m))] ^= byte(1 + r.IntN(255))
		}
		return m
	},
	func(r *rand.Rand, m, _ []byte) []byte { return m[:r.IntN(len(m))] }, // cut
	func(r *rand.Rand, m, _ []byte) []byte { // cut, with the right length
		return prefixed(m[2 : 2+r.IntN(len(m)-2)])
	},
	func(r *rand.Rand, m, _ []byte) []byte { // longer
		return prefixed(append(m[2:], make([]byte, 1+r.IntN(4096))...))
	},
	func(_ *rand.Rand, m, old []byte) []byte { // reflected
		if old == nil {
			return prefixed(make([]byte, 32))
		}
		return old
	},
	func(r *rand.Rand, m, _ []byte) []byte { // all of it noise
		for i := range m[2:] {
			m[2+i] = byte(r.Uint32())
		}
		m[2+31] |= 0x80 // or a first message would be as good as the true one
		return m
	},
	func(r *rand.Rand, m, _ []byte) []byte { // a point of small order as ephemeral key
		clear(m[2:34])
		m[2] = byte(r.IntN(2))
		return m
	},
	func(r *rand.Rand, m, _ []byte) []byte { // swapped halves
		k := 3 + r.IntN(len(m)-3)
		return append(append(m[:2:2], m[k:]...), m[2:k]...)
	},
	func(r *rand.Rand, m, _ []byte) []byte { // the longest length there is
		binary.BigEndian.PutUint16(m, 65535)
		return append(m, make([]byte, r.IntN(3000))...)
	},
}

// A message of an earlier handshake is worth nothing in a later one.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for message := range 3 {
			p := newPair(t)
			from, n, victim := victim(message)
			var kept []byte
			p.relay = func(f, i int, m []byte) []byte {
				if f == from && i == n {
					if kept != nil {
						return kept
					}
					kept = bytes.Clone(m)
				}
				return m
			}
			p.run(t.Context())
			p.wantBoth(t)
			p.s, p.log.list = [2]*synapse.Session{}, nil
			p.run(t.Context())
			if message == 0 {
				victim = 0 // it takes the next message to see that the first was not this one's
			}
			p.wantRefused(t, victim)
		}
	})
}

func TestSelfConnectionIsRefused(t *testing.T) {
	p := newPair(t)
	p.c[1].Key = p.c[0].Key
	p.run(t.Context())
	p.wantRefused(t, 0)
	p.wantRefused(t, 1)
}

// Two that both open, or both wait, never agree, and hold nothing for long.
func TestSameRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, initiator := range []bool{true, false} {
			p := newPair(t)
			p.c[0].Initiator, p.c[1].Initiator = initiator, initiator
			p.run(t.Context())
			p.wantRefused(t, 0)
			p.wantRefused(t, 1)
		}
	})
}

// Whoever stops in the middle is let go after five seconds, whether it sends
// nothing, a part, or the kernel does not answer.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for message := range 3 {
			for _, part := range []int{0, 1, 2, 20} {
				p := newPair(t)
				from, n, victim := victim(message)
				p.relay = func(f, i int, m []byte) []byte {
					switch {
					case f != from || i != n:
						return m
					case part == 0:
						return nil
					}
					return m[:part]
				}
				start := time.Now()
				p.run(t.Context())
				if d := time.Since(start); d != synapse.Budget {
					t.Errorf("message %d, %d bytes of it: took %s, want %s", message+1, part, d, synapse.Budget)
				}
				if !errors.Is(p.err[victim], context.DeadlineExceeded) {
					t.Errorf("message %d: got %v, want a deadline", message+1, p.err[victim])
				}
			}
		}
		p := newPair(t)
		p.c[1].Admit = func(ctx context.Context, _ synapse.Peer) error {
			<-ctx.Done()
			return ctx.Err()
		}
		start := time.Now()
		p.run(t.Context())
		if d := time.Since(start); d != synapse.Budget || !errors.Is(p.err[1], context.DeadlineExceeded) {
			t.Errorf("silent kernel: %v after %s", p.err[1], d)
		}
	})
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newPair(t)
	p.relay = func(int, int, []byte) []byte {
		cancel()
		return nil
	}
	p.run(ctx)
	for i, err := range p.err {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want it cancelled", sideNames[i], err)
		}
	}
}

// The stream is the caller's again afterwards: without a deadline, and with
// every byte behind the handshake still in it.
func TestNothingReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		a, b := net.Pipe()
		done := make(chan error)
		go func() {
			s, err := synapse.Secure(t.Context(), a, p.c[0])
			if err == nil {
				_, err = a.Write(s.Seal(nil, []byte("behind")))
			}
			done <- err
		}()
		s, err := synapse.Secure(t.Context(), b, p.c[1])
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * synapse.Budget) // in the bubble: no deadline is left behind
		buf := make([]byte, synapse.SealedLen(len("behind")))
		if _, err := io.ReadFull(b, buf); err != nil {
			t.Fatal(err)
		}
		if got := must2(s.Open(nil, buf)); string(got) != "behind" {
			t.Errorf("got %q", got)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	wiped := must(synapse.GenerateKey())
	wiped.Wipe()
	for name, change := range map[string]func(*synapse.Config){
		"no key":           func(c *synapse.Config) { c.Key = nil },
		"wiped key":        func(c *synapse.Config) { c.Key = wiped },
		"no certificate":   func(c *synapse.Config) { c.Certificate = nil },
		"long certificate": func(c *synapse.Config) { c.Certificate = make([]byte, synapse.MaxCertificate+1) },
		"long header":      func(c *synapse.Config) { c.Header = make([]byte, synapse.MaxHeader+1) },
		"nobody admits":    func(c *synapse.Config) { c.Admit = nil },
	} {
		p := newPair(t)
		change(&p.c[0])
		if _, err := synapse.Secure(t.Context(), nil, p.c[0]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := synapse.Meet(t.Context(), nil, synapse.Meeting{}); err == nil {
		t.Error("met without a secret")
	}
}

func TestLongestCertificate(t *testing.T) {
	p := newPair(t)
	p.c[0].Certificate, p.c[1].Certificate = make([]byte, synapse.MaxCertificate), make([]byte, synapse.MaxCertificate)
	p.run(t.Context())
	p.wantBoth(t)
}

// A wrong one-time secret or another prologue: the responder sends nothing.
func TestMeetRefuses(t *testing.T) {
	for name, change := range map[string]func(*synapse.Meeting){
		"secret":   func(m *synapse.Meeting) { m.Secret[31] ^= 1 },
		"prologue": func(m *synapse.Meeting) { m.Prologue = []byte("another") },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			right := synapse.Meeting{Secret: [32]byte(vectorPSK), Prologue: vectorPrologue}
			wrong := right
			wrong.Initiator = true
			change(&wrong)
			done := make(chan error)
			go func() {
				_, err := synapse.Meet(t.Context(), a, wrong)
				done <- err
			}()
			sent := &counter{Conn: b}
			if _, err := synapse.Meet(t.Context(), sent, right); err != synapse.ErrHandshake {
				t.Errorf("responder: got %v", err)
			}
			b.Close()
			if err := <-done; err != synapse.ErrHandshake {
				t.Errorf("initiator: got %v", err)
			}
			if sent.n != 0 {
				t.Errorf("responder sent %d bytes", sent.n)
			}
		})
	}
}

type counter struct {
	net.Conn
	n int
}

func (c *counter) Write(b []byte) (int, error) {
	c.n += len(b)
	return c.Conn.Write(b)
}

func TestKeyIsNotFormatted(t *testing.T) {
	key := must(synapse.KeyFrom(bytes.NewReader(vectorKeys.is)))
	type holder struct{ key any }
	type copied struct{ key synapse.Key }
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, v := range []any{key, *key, holder{key}, &holder{*key}, copied{*key}, &copied{*key}, []*synapse.Key{key}} {
			if got := fmt.Sprintf(format, v); strings.Contains(got, "0a0b0c") || strings.Contains(got, "10 11 12") || strings.Contains(got, "0xa, 0xb") {
				t.Errorf("%s of %T shows the key: %s", format, v, got)
			}
		}
	}
}
