package synapse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/sdk/synapse"
)

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
				// Both sides may be late at the same moment; the first closes.
				if p.s[victim] != nil || !errors.Is(errors.Join(p.err[:]...), context.DeadlineExceeded) {
					t.Errorf("message %d: got %v, want a deadline", message+1, p.err)
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
