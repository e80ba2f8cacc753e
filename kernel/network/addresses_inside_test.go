package network

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An address that comes, and one that goes, are told.
func TestChangesOfAddressAreTold(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("the command ip is missing (iproute2)")
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{}, 1)
	ended := make(chan error, 1)
	ready := make(chan int)
	go func() { // its thread ends with it: nobody else gets the namespace
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		f, err := openAddresses()
		if err != nil {
			ended <- err
			return
		}
		ready <- unix.Gettid()
		ended <- watchAddresses(ctx, f, func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
	}()
	var tid int
	select {
	case tid = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ip := func(args string) {
		t.Helper()
		space := "--net=/proc/" + strconv.Itoa(os.Getpid()) + "/task/" + strconv.Itoa(tid) + "/ns/net"
		cmd := exec.Command("nsenter", append([]string{space, "ip"}, strings.Fields(args)...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	wait := func(what string) {
		t.Helper()
		select {
		case <-told:
		case err := <-ended:
			ended <- err
			t.Fatal(err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nothing was told", what)
		}
	}
	ip("addr add 10.77.9.1/24 dev lo")
	wait("an address comes")
	ip("addr del 10.77.9.1/24 dev lo")
	wait("an address goes")
}
