package netlab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/netlab"
	"go.uber.org/goleak"
)

// patience is for what must happen and takes no time.
const patience = 10 * time.Second

// role is the variable that makes this test binary a program of a test.
const role = "NETLAB_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "addresses":
		printAddresses()
	case "victim":
		openAndWait()
	case "open":
		_, err := netlab.Open()
		fmt.Println(errors.Is(err, netlab.ErrUnavailable), err)
	default:
		goleak.VerifyTestMain(m)
	}
}

// self is this test binary in a role.
func self(t *testing.T, as string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), role+"="+as)
	return cmd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hosts makes a lab with hosts a, b, c…
func hosts(t *testing.T, n int, family netlab.Family) (*netlab.Lab, []*netlab.Host) {
	t.Helper()
	lab := netlab.New(t)
	for i := range n {
		_, err := lab.Host(string(rune('a'+i)), family)
		must(t, err)
	}
	return lab, lab.Hosts()
}

// echo answers datagrams and connections on port 7 of a host until the test ends.
func echo(t *testing.T, h *netlab.Host) {
	t.Helper()
	p, err := h.ListenPacket("udp", ":7")
	must(t, err)
	l, err := h.Listen("tcp", ":7")
	must(t, err)
	t.Cleanup(func() { p.Close(); l.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
}

// ask sends a line to an echo and returns the error of that, and how long the
// answer took.
func ask(h *netlab.Host, network string, to netip.Addr, within time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	begin := time.Now()
	c, err := h.Dial(ctx, network, netip.AddrPortFrom(to, 7).String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(begin.Add(within))
	buf := make([]byte, 5)
	if _, err := c.Write([]byte("hello")); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, buf); err != nil {
		return 0, err
	}
	if string(buf) != "hello" {
		return 0, fmt.Errorf("the answer is %q", buf)
	}
	return time.Since(begin), nil
}

func TestHostsTalk(t *testing.T) {
	for name, family := range map[string]netlab.Family{"v4": netlab.V4, "v6": netlab.V6, "both": netlab.V4 | netlab.V6} {
		t.Run(name, func(t *testing.T) {
			_, h := hosts(t, 2, family)
			echo(t, h[1])
			want := 1
			if name == "both" {
				want = 2
			}
			if len(h[1].Addrs()) != want {
				t.Fatalf("addresses: %v", h[1].Addrs())
			}
			for _, to := range h[1].Addrs() {
				for _, network := range []string{"tcp", "udp"} {
					if _, err := ask(h[0], network, to, patience); err != nil {
						t.Errorf("%s to %s: %v", network, to, err)
					}
				}
			}
		})
	}
}

func printAddresses() {
	list, err := net.InterfaceAddrs()
	if err != nil {
		fmt.Println(err)
	}
	for _, a := range list {
		fmt.Println(a)
	}
}

func TestProgramsSeeTheirHost(t *testing.T) {
	lab := netlab.New(t)
	for _, c := range []struct {
		name   string
		family netlab.Family
		want   string
	}{
		{"four", netlab.V4, "127.0.0.1/8 10.77.0.1/16 ::1/128"},
		{"six", netlab.V6, "127.0.0.1/8 ::1/128 fd00:77::2/64 fe80::2/64"},
		{"both", netlab.V4 | netlab.V6, "127.0.0.1/8 10.77.0.3/16 ::1/128 fd00:77::3/64 fe80::3/64"},
		{"alone", 0, "127.0.0.1/8 ::1/128"},
	} {
		h, err := lab.Host(c.name, c.family)
		must(t, err)
		var out strings.Builder
		cmd := self(t, "addresses")
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, h.Run(cmd))
		got := strings.Fields(out.String())
		want := strings.Fields(c.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: addresses %v, want %v", c.name, got, want)
		}
	}
}

func TestMulticastReachesAll(t *testing.T) {
	_, h := hosts(t, 3, netlab.V4|netlab.V6)
	must(t, h[2].Shape(netlab.Cable{Delay: time.Millisecond})) // a box is no obstacle
	for network, group := range map[string]string{"udp4": "239.255.0.1:9099", "udp6": "[ff02::4321]:9099"} {
		to, err := net.ResolveUDPAddr(network, group)
		must(t, err)
		var heard []*net.UDPConn
		for _, to6 := range h[1:] {
			must(t, to6.Do(func() error {
				card, err := net.InterfaceByName("eth0")
				if err != nil {
					return err
				}
				c, err := net.ListenMulticastUDP(network, card, to)
				if err == nil {
					heard = append(heard, c)
					t.Cleanup(func() { c.Close() })
				}
				return err
			}))
		}
		if network == "udp6" {
			to.Zone = "2" // the card's index: lo is 1
			must(t, h[0].Do(func() error {
				card, err := net.InterfaceByName("eth0")
				if err == nil {
					to.Zone = fmt.Sprint(card.Index)
				}
				return err
			}))
		}
		from, err := h[0].ListenPacket(network, ":0")
		must(t, err)
		t.Cleanup(func() { from.Close() })
		_, err = from.WriteTo([]byte("here"), to)
		must(t, err)
		for i, c := range heard {
			buf := make([]byte, 16)
			c.SetReadDeadline(time.Now().Add(patience))
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != "here" {
				t.Errorf("%s: receiver %d: %q, %v", network, i, buf[:n], err)
			}
		}
	}
}

func TestPartition(t *testing.T) {
	lab, h := hosts(t, 4, netlab.V4|netlab.V6)
	must(t, h[1].Shape(netlab.Cable{Delay: time.Millisecond})) // the switch has another port then
	for _, x := range h {
		echo(t, x)
	}
	// hear checks who reaches whom; the letters of a host's line are of those it reaches.
	hear := func(when string, want ...string) {
		t.Helper()
		for i, from := range h {
			for _, to := range h {
				expect := strings.Contains(want[i], to.Name)
				within := patience
				if !expect {
					within = 100 * time.Millisecond
				}
				for _, addr := range to.Addrs() {
					if _, err := ask(from, "udp", addr, within); (err == nil) != expect {
						t.Errorf("%s: %s to %s at %s: %v", when, from.Name, to.Name, addr, err)
					}
				}
			}
		}
	}
	hear("at first", "abcd", "abcd", "abcd", "abcd")
	must(t, lab.Partition(h[:1], h[1:3]))
	hear("a | bc", "ad", "bcd", "bcd", "abcd")
	must(t, lab.Partition(h[:1], h[1:2], h[2:]))
	hear("a | b | cd", "a", "b", "cd", "cd")
	must(t, lab.Heal())
	hear("healed", "abcd", "abcd", "abcd", "abcd")
}

func TestAddressChanges(t *testing.T) {
	_, h := hosts(t, 2, netlab.V4|netlab.V6)
	echo(t, h[1])
	old := h[1].Addrs()
	for _, to := range old { // now it is known who has the addresses
		_, err := ask(h[0], "udp", to, patience)
		must(t, err)
	}
	must(t, h[1].ChangeAddress())
	fresh := h[1].Addrs()
	for i, to := range fresh {
		if to == old[i] || to.Is4() != old[i].Is4() {
			t.Fatalf("addresses were %v and are %v", old, fresh)
		}
		if _, err := ask(h[0], "udp", to, patience); err != nil {
			t.Errorf("new address: %v", err)
		}
		if _, err := ask(h[0], "udp", old[i], 100*time.Millisecond); err == nil {
			t.Errorf("%s is still there", old[i])
		}
	}
	echo(t, h[0])
	for _, to := range h[0].Addrs() { // and in the other direction, for which it has to have routes
		if _, err := ask(h[1], "udp", to, patience); err != nil {
			t.Errorf("from the new address: %v", err)
		}
	}
}

func TestCaptureSeesBothDirections(t *testing.T) {
	_, h := hosts(t, 2, netlab.V4)
	echo(t, h[1])
	c, err := h[1].Capture()
	must(t, err)
	_, err = ask(h[0], "udp", h[1].Addr(netlab.V4), patience)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = c.Await(ctx, func(f netlab.Frame) bool {
		return f.Sent && len(netlab.Holding([]netlab.Frame{f}, []byte("hello"))) == 1
	})
	must(t, err)
	frames, err := c.Stop()
	must(t, err)
	hello := netlab.Holding(frames, []byte("hello"))
	if len(hello) != 2 || hello[0].Sent || !hello[1].Sent {
		t.Errorf("%d frames with the text: %v", len(hello), hello)
	}
	if found := netlab.Holding(frames, []byte("never sent")); len(found) > 0 {
		t.Errorf("%v was never sent", found)
	}
	if _, err := c.Await(t.Context(), func(netlab.Frame) bool { return false }); err == nil {
		t.Error("an ended capture sees more")
	}
}
