package multicastdiscovery_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/discovery-multicast/multicastdiscovery"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	serve    = "TEST_SERVE"     // be the plugin
	isolated = "TEST_NAMESPACE" // this process is in a network namespace of its own
)

// TestMain moves the whole process into a network namespace that has nothing
// but a loopback interface: no datagram of these tests reaches a real network.
func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(multicastdiscovery.Plugin())
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
	if os.Getenv(isolated) == "" {
		t.Skip("not root: no network namespace to multicast in")
	}
}
