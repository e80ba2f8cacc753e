package multicastdiscovery_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/discovery-multicast/multicastdiscovery"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	serve    = "TEST_SERVE"     // be the plugin
	flooder  = "TEST_FLOOD"     // be an attacker who sends so many datagrams
	sender   = "TEST_SEND"      // send this, in hexadecimal, to an address of this machine
	isolated = "TEST_NAMESPACE" // this process is in a network namespace of its own
)

// TestMain moves the whole process into a network namespace that has nothing
// but a loopback interface: no datagram of these tests reaches a real network.
func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(multicastdiscovery.Plugin())
		return
	}
	if n, err := strconv.Atoi(os.Getenv(flooder)); err == nil {
		flood(n)
		return
	}
	if text := os.Getenv(sender); text != "" {
		direct(text)
		return
	}
	if os.Getenv(isolated) == "" && os.Getuid() == 0 {
		fmt.Fprintln(os.Stderr, "enter a network namespace:", isolate())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// isolate executes this program again in a new namespace. It returns only if
// that does not work.
func isolate() error {
	runtime.LockOSThread() // the namespace is the thread's, and goes with it through exec
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, append(os.Environ(), isolated+"=1"))
}

// needNamespace skips where there is no namespace to send in.
func needNamespace(t testing.TB) {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv(flooder)); err == nil {
		flood(n)
		return
	}
	if os.Getenv(isolated) == "" {
		t.Skip("not root: no network namespace to multicast in")
	}
}

// flood sends n forged envelopes with our tag, from 1 000 ports.
func flood(n int) {
	var from []net.Conn
	for range 1000 {
		c, err := net.Dial("udp4", "239.255.0.1:9099")
		if err != nil {
			fmt.Fprintln(os.Stderr, "flood:", err)
			os.Exit(1)
		}
		from = append(from, c)
	}
	b := make([]byte, 1200)
	copy(b, envelopeHead("one"))
	for i := range n {
		binary.LittleEndian.PutUint64(b[20:], uint64(i))
		if _, err := from[i%len(from)].Write(b); err != nil {
			fmt.Fprintln(os.Stderr, "flood:", err)
			os.Exit(1)
		}
	}
}

// direct sends one datagram to the port of the group, but not to the group.
func direct(text string) {
	b, err := hex.DecodeString(text)
	if err == nil {
		var c net.Conn
		if c, err = net.Dial("udp4", "127.0.0.1:9099"); err == nil {
			_, err = c.Write(b)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "send:", err)
		os.Exit(1)
	}
}

// envelopeHead is what everybody can read, and forge, of a mesh's envelopes.
func envelopeHead(mesh string) string { return fmt.Sprintf("ckA\x01%-8s", mesh) }
