package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
)

// Cells that no other machine may call, and that call none, open no socket but
// Unix ones: the example hello, in the default configuration, while it serves.
func TestHelloOpensUnixSocketsAlone(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // what the test would find
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := inetSockets(t, os.Getpid()); len(got) == 0 {
		t.Fatal("this process listens, and it was not seen")
	}
	n := newNode(t, "[cells.greeter]\ncommand = [\"DIR/greeter\"]\nreplicas = 2\n")
	build := exec.Command("go", "build", "-o", n.path("greeter"), "../../../examples/hello/greeter")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the greeter: %v: %s", err, out)
	}
	n.up()
	n.want(0, "call", "greeter.Hello", `{"name":"world"}`)
	kinds := map[string]int{}
	for _, p := range n.processes() {
		kinds[p.Kind]++
		for _, s := range inetSockets(t, p.PID) {
			t.Errorf("%s %s#%d has a socket of %s", p.Kind, p.Name, p.Replica, s)
		}
	}
	if kinds[admin.KindKernel] != 1 || kinds[admin.KindCell] != 2 || kinds[admin.KindPlugin] == 0 {
		t.Errorf("processes %v: want a kernel, two cells and plugins", kinds)
	}
}

// inetSockets lists the sockets of a process that are not Unix ones, by the
// tables of /proc/PID/net they are in.
func inetSockets(t *testing.T, pid int) (found []string) {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Fatalf("process %d has no descriptors: %v", pid, err)
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // a machine without that family
		}
		for _, fd := range fds {
			to, err := os.Readlink(fd)
			inode, ok := strings.CutPrefix(to, "socket:[")
			if err == nil && ok && strings.Contains(string(b), " "+strings.TrimSuffix(inode, "]")+" ") {
				found = append(found, table)
			}
		}
	}
	return found
}
