package quictransport_test

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

// process starts the plugin as a process of its own, always with the same secret.
func process(t *testing.T, config map[string]any) *plugin.Client {
	t.Helper()
	secret := []byte("0123456789abcdef0123456789abcdef")
	c, err := plugin.Start(t.Context(), plugin.Command{Name: "quic", Path: self(t)}, plugin.Options{
		Env: []string{serve + "=1"}, Certify: plugintest.Certify, Secret: secret, Config: config,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	return c
}

// P18: who crashed and is back answers what belongs to its former life with a
// stateless reset, because its key is the same.
func TestRestartedPeerIsNoticed(t *testing.T) {
	noLeaks(t)
	tr, first := transport(t, open(t, nil)), process(t, nil)
	l, err := transport(t, first).Listen(t.Context(), sdk.Addr{Scheme: "quic", Host: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	near, far := connectTo(t, tr, l)
	pass(t, near, far)
	pass(t, far, near)
	syscall.Kill(first.Info().PID, syscall.SIGKILL)
	<-first.Done()
	again := listenAt(t, transport(t, process(t, nil)), l.Addr().String())
	back := time.Now()
	broken := make(chan error, 1)
	go func() {
		near.SetReadDeadline(back.Add(20 * time.Second))
		_, err := near.Read(make([]byte, 1))
		broken <- err
	}()
	tick := time.NewTicker(50 * time.Millisecond) // a caller that has something to say
	defer tick.Stop()
	for err = nil; err == nil; {
		select {
		case <-tick.C:
			near.Write([]byte("call"))
		case err = <-broken:
		}
	}
	t.Logf("noticed %v after the restart", time.Since(back))
	if isTimeout(err) || time.Since(back) > 5*time.Second { // the goal is 500 ms; silence alone would take 6 s
		t.Errorf("the restart was noticed by %v after %v", err, time.Since(back))
	}
	near, far = connectTo(t, tr, again)
	pass(t, near, far)
}

// A peer that is stopped says nothing: both the keep-alive and the silence
// after it pass.
func TestSilentPeerIsNoticed(t *testing.T) {
	noLeaks(t)
	t.Parallel()
	tr, server := transport(t, open(t, nil)), process(t, nil)
	l := listenAt(t, transport(t, server), "127.0.0.1:0")
	near, far := connectTo(t, tr, l)
	pass(t, near, far)
	pid := server.Info().PID
	syscall.Kill(pid, syscall.SIGSTOP)
	defer syscall.Kill(pid, syscall.SIGCONT)
	stopped := time.Now()
	near.SetReadDeadline(stopped.Add(30 * time.Second))
	_, err := near.Read(make([]byte, 1)) // idle: nobody writes
	if isTimeout(err) || time.Since(stopped) > 12*time.Second {
		t.Errorf("the silence was noticed by %v after %v", err, time.Since(stopped))
	}
}

// A dead connection is not dialled over again.
func TestDeadConnectionsAreReplaced(t *testing.T) {
	noLeaks(t)
	tr, first := transport(t, open(t, nil)), process(t, nil)
	l, err := transport(t, first).Listen(t.Context(), sdk.Addr{Scheme: "quic", Host: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	near, far := connectTo(t, tr, l)
	pass(t, near, far)
	if err := first.Stop(t.Context()); err != nil { // says goodbye
		t.Fatal(err)
	}
	near.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := near.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("the link of a peer that ended: %v", err)
	}
	again := listenAt(t, transport(t, process(t, nil)), l.Addr().String())
	near, far = connectTo(t, tr, again)
	pass(t, near, far)
}

// A proxy that changes the port it sends from plays a NAT that forgot: no byte
// is lost.
func TestNATRebindingLosesNothing(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, open(t, nil))
	l := listenAt(t, server, "127.0.0.1:0")
	nat := newNAT(t, l.Addr().String())
	near, err := tr.Dial(t.Context(), sdk.Addr{Scheme: "quic", Host: nat.Addr(), Hint: l.(sdk.Hinter).Hint()})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	for i := range 200 {
		if i%50 == 25 {
			nat.rebind(t)
		}
		near.SetDeadline(time.Now().Add(10 * time.Second))
		msg := []byte{byte(i), byte(i >> 8)}
		if _, err := near.Write(msg); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		got := make([]byte, 2)
		if _, err := io.ReadFull(near, got); err != nil || got[0] != msg[0] {
			t.Fatalf("call %d: %v %v", i, got, err)
		}
	}
}

// A nat forwards between one client and one server.
type nat struct {
	in     *net.UDPConn
	server *net.UDPAddr
	out    chan *net.UDPConn // of size 1: who forwards takes it
	client func() net.Addr
}

func newNAT(t *testing.T, server string) *nat {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	n := &nat{in: in, server: to, out: make(chan *net.UDPConn, 1)}
	var client net.Addr
	n.out <- n.outside(t, func() net.Addr { return client })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 2048); ; {
			k, from, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			out := <-n.out
			client = from // there is one
			out.WriteTo(buf[:k], to)
			n.out <- out
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-done
		(<-n.out).Close()
	})
	return n
}

func (n *nat) Addr() string { return n.in.LocalAddr().String() }

// outside is a port towards the server; what comes back there goes to client.
func (n *nat) outside(t *testing.T, client func() net.Addr) *net.UDPConn {
	t.Helper()
	out, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for buf := make([]byte, 2048); ; {
			k, _, err := out.ReadFrom(buf)
			if err != nil {
				return
			}
			held := <-n.out // orders the read of client
			to := client()
			n.out <- held
			n.in.WriteTo(buf[:k], to)
		}
	}()
	n.client = client
	return out
}

// rebind sends from another port from now on; the former is lost.
func (n *nat) rebind(t *testing.T) {
	t.Helper()
	fresh := n.outside(t, n.client)
	(<-n.out).Close()
	n.out <- fresh
}

// A peer that breaks in the middle of a message leaves an error or an end, and
// never a byte that was not sent. (The frames above know the length.)
func TestKilledPluginEndsItsLinks(t *testing.T) {
	noLeaks(t)
	tr, server := transport(t, open(t, nil)), process(t, nil)
	l := listenAt(t, transport(t, server), "127.0.0.1:0")
	_, far := connectTo(t, tr, l)
	syscall.Kill(server.Info().PID, syscall.SIGKILL)
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the cell's end of a killed plugin's link: %v", err)
	}
}
