package quictransport

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
	"github.com/quic-go/quic-go/testutils/simnet"
)

// A simulation is a network without machines, in which time is that of
// synctest: the lab of examples/netlab as a function of a seed. (Goroutines
// are not scheduled by it: which packets are lost may differ between runs.)
type simulation struct {
	routes simnet.PerfectRouter
	delay  time.Duration // one way
	loss   float64       // of packets
	cut    atomic.Bool   // nothing arrives

	mu   sync.Mutex // guards rand
	rand *rand.Rand
}

func newSimulation(seed uint64, delay time.Duration, loss float64) *simulation {
	return &simulation{delay: delay, loss: loss, rand: rand.New(rand.NewPCG(seed, seed))}
}

// SendPacket implements [simnet.Router].
func (s *simulation) SendPacket(p simnet.Packet) error {
	s.mu.Lock()
	lost := s.cut.Load() || s.rand.Float64() < s.loss
	s.mu.Unlock()
	if !lost {
		_ = s.routes.SendPacket(p) // to nobody: it is lost, too
	}
	return nil
}

// AddNode implements [simnet.Router].
func (s *simulation) AddNode(addr net.Addr, r simnet.PacketReceiver) { s.routes.AddNode(addr, r) }

// A simHost is a host of the simulation.
type simHost struct {
	*simulation
	ip   net.IP
	port atomic.Uint32 // the last that was given
}

// simConn takes its cable along when it is closed.
type simConn struct {
	*simnet.SimConn
	cable *simnet.SimulatedLink
}

func (c *simConn) Close() error { return errors.Join(c.SimConn.Close(), c.cable.Close()) }

func (h *simHost) listen(_ string, addr *net.UDPAddr) (net.PacketConn, error) {
	at := &net.UDPAddr{IP: h.ip}
	if addr != nil {
		at.Port = addr.Port
	}
	if at.Port == 0 {
		at.Port = int(30000 + h.port.Add(1))
	}
	cable := &simnet.SimulatedLink{Latency: h.delay, UploadPacket: h}
	c := &simConn{simnet.NewBlockingSimConn(at, cable), cable}
	h.AddNode(at, cable)
	cable.Start()
	return c, nil
}

func (*simHost) knock(ctx context.Context, _ *net.UDPAddr) error { return nil }

// testHost is what a plugin gets from its kernel.
type testHost struct{}

func (testHost) Log() *slog.Logger          { return slog.New(slog.DiscardHandler) }
func (testHost) State() *os.Root            { return nil }
func (testHost) Subkey(string) (k [32]byte) { return k }
func (testHost) Certify(ctx context.Context, spki []byte) ([]byte, error) {
	return plugintest.Certify(ctx, spki)
}

// host adds a host with a transport.
func (s *simulation) host(t *testing.T, ip string) *Transport {
	t.Helper()
	tr, err := New(t.Context(), DefaultConfig(), testHost{})
	if err != nil {
		t.Fatal(err)
	}
	tr.network = &simHost{simulation: s, ip: net.ParseIP(ip).To4()} // routes compare bytes
	return tr
}

// simLinks opens links between two hosts, whose far ends echo.
func (s *simulation) links(t *testing.T, n int) (links []net.Conn, end func()) {
	t.Helper()
	near, far := s.host(t, "10.0.0.1"), s.host(t, "10.0.0.2")
	l, err := far.Listen(t.Context(), sdk.Addr{Scheme: "quic", Host: "10.0.0.2:9000"})
	if err != nil {
		t.Fatal(err)
	}
	var echoes sync.WaitGroup
	echoes.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			echoes.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	for range n {
		c, err := near.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: "10.0.0.2:9000", Hint: l.(sdk.Hinter).Hint()})
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, c)
	}
	return links, func() {
		for _, c := range links {
			c.Close()
		}
		near.Close()
		l.Close()
		far.Close()
		echoes.Wait()
	}
}

// ask sends a number over a link and wants it back.
func ask(c net.Conn, n uint64) error {
	if err := binary.Write(c, binary.LittleEndian, n); err != nil {
		return err
	}
	var got uint64
	if err := binary.Read(c, binary.LittleEndian, &got); err != nil {
		return err
	}
	if got != n {
		return errors.New("another number came back")
	}
	return nil
}

// A fifth of the packets is lost each way, and each takes 20 ms: every call
// ends well, none after more than 5 s.
func TestSimulatedLoss(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			s := newSimulation(seed, 20*time.Millisecond, 0.2)
			links, end := s.links(t, 8)
			defer end()
			var all sync.WaitGroup
			for i, c := range links {
				all.Go(func() {
					for n := range uint64(25) {
						begin := time.Now()
						if err := ask(c, uint64(i)<<32|n); err != nil {
							t.Errorf("seed %d, link %d, call %d: %v", seed, i, n, err)
							return
						}
						if took := time.Since(begin); took > 5*time.Second {
							t.Errorf("seed %d, link %d, call %d: took %v", seed, i, n, took)
						}
					}
				})
			}
			all.Wait()
		})
	}
}

// A cut that is shorter than the silence is survived by every link; after a
// longer one all of them have ended, neither before [silence] nor after
// [keepAlive] + [silence].
func TestSimulatedCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(1, 20*time.Millisecond, 0)
		links, end := s.links(t, 8)
		defer end()
		for i, c := range links { // both ends know that the handshake is over
			if err := ask(c, uint64(i)); err != nil {
				t.Fatal(err)
			}
		}
		s.cut.Store(true)
		answered := make(chan error, len(links))
		for i, c := range links {
			go func() { answered <- ask(c, uint64(i)) }()
		}
		time.Sleep(silence - keepAlive - time.Second)
		s.cut.Store(false)
		for range links {
			if err := <-answered; err != nil {
				t.Errorf("a call during a short cut: %v", err)
			}
		}
		s.cut.Store(true)
		began := time.Now()
		for i, c := range links {
			go func() { answered <- ask(c, uint64(i)) }()
		}
		for range links {
			if err := <-answered; err == nil {
				t.Error("a call over a cut network is answered")
			}
		}
		if took := time.Since(began); took < silence-time.Second || took > keepAlive+silence {
			t.Errorf("the links have ended after %v: want about %v to %v", took, silence, keepAlive+silence)
		}
	})
}
