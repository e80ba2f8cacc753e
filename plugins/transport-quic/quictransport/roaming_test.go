package quictransport_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

// A wire is two network namespaces with a cable between them.
type wire struct{ a, b string }

const (
	addrA, addrB = "10.77.0.1", "10.77.0.2"
	roamed       = "10.77.0.9"
)

func newWire(t *testing.T) wire {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("the command ip is missing (iproute2)")
	}
	w := wire{fmt.Sprintf("qa%d", os.Getpid()), fmt.Sprintf("qb%d", os.Getpid())}
	t.Cleanup(func() {
		exec.Command("ip", "netns", "del", w.a).Run()
		exec.Command("ip", "netns", "del", w.b).Run()
	})
	for _, c := range []string{
		"netns add " + w.a, "netns add " + w.b,
		"-n " + w.a + " link add va type veth peer name vb netns " + w.b,
	} {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %s", c, out)
		}
	}
	for _, c := range []string{
		"-n " + w.a + " addr add " + addrA + "/24 dev va", "-n " + w.a + " link set va up",
		"-n " + w.b + " addr add " + addrB + "/24 dev vb", "-n " + w.b + " link set vb up",
	} {
		ip(t, c)
	}
	return w
}

func ip(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
}

// in starts the plugin inside a namespace. Its links lead here all the same.
func in(t *testing.T, namespace string) sdk.Transport {
	t.Helper()
	c, err := plugin.Start(t.Context(), plugin.Command{Name: "quic", Path: "/usr/bin/env", Args: []string{"ip", "netns", "exec", namespace, self(t)}},
		plugin.Options{Env: []string{serve + "=1", "PATH=" + os.Getenv("PATH")}, Certify: plugintest.Certify})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	return transport(t, c)
}

// call sends a number and wants it back.
func call(t *testing.T, c net.Conn, n uint64) {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if err := binary.Write(c, binary.LittleEndian, n); err != nil {
		t.Fatalf("call %d: %v", n, err)
	}
	var got uint64
	if err := binary.Read(c, binary.LittleEndian, &got); err != nil || got != n {
		t.Fatalf("call %d: got %d, %v", n, got, err)
	}
}

// The dialling host loses its address, has none for a moment, and gets
// another: the socket is bound to none, and the connection goes on.
func TestAddressChangeLosesNoCall(t *testing.T) {
	w := newWire(t)
	noLeaks(t)
	near, far := connect(t, in(t, w.a), in(t, w.b), addrB+":0")
	go io.Copy(far, far)
	done := make(chan struct{})
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		from, to := addrA, roamed
		for {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond): // of load
			}
			ip(t, "-n "+w.a+" addr del "+from+"/24 dev va")
			<-time.After(100 * time.Millisecond) // without any address
			ip(t, "-n "+w.a+" addr add "+to+"/24 dev va")
			from, to = to, from
		}
	}()
	calls := uint64(0)
	for begin := time.Now(); time.Since(begin) < 3*time.Second; calls++ {
		call(t, near, calls)
	}
	close(done)
	<-changed
	t.Logf("%d calls", calls)
}

// The host that was dialled gets another address, three times, the last time
// the first one again. Who dialled it hears of it a moment later and dials it
// there: the links that are open follow.
func TestLinksFollowAPeerThatMoves(t *testing.T) {
	w := newWire(t)
	noLeaks(t)
	client, server := in(t, w.a), in(t, w.b)
	l, err := server.Listen(t.Context(), sdk.Addr{Scheme: "quic", Host: ":0"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := addrOf(l)
	_, port, err := net.SplitHostPort(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	to.Host = net.JoinHostPort(addrB, port)
	near, err := client.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go io.Copy(far, far)
	calls := uint64(0)
	for _, move := range []struct{ from, to string }{{addrB, roamed}, {roamed, "10.77.0.10"}, {"10.77.0.10", addrB}} {
		call(t, near, calls)
		ip(t, "-n "+w.b+" addr del "+move.from+"/24 dev vb") // the last address takes its likes along
		ip(t, "-n "+w.b+" addr add "+move.to+"/24 dev vb")
		waits := make(chan struct{})
		go func() {
			defer close(waits)
			call(t, near, calls+1) // before anybody knows
		}()
		to.Host = net.JoinHostPort(move.to, port)
		again, err := client.Dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
		<-waits
		calls += 2
	}
}

// A network card that can not segment is answered by sending packet by packet.
func TestWithoutGSO(t *testing.T) {
	noLeaks(t)
	server, tr := transport(t, open(t, nil)), transport(t, process(t, map[string]any{"gso": false}))
	l := listenAt(t, server, "127.0.0.1:0")
	near, far := connectTo(t, tr, l)
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	msg := make([]byte, 1<<20)
	go near.Write(msg)
	near.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := io.ReadFull(near, make([]byte, len(msg))); err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}
