package netlab_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/examples/netlab"
	"golang.org/x/sys/unix"
)

// victims starts two programs on a host, the second by the first.
const victims = `sleep 1000 & echo $! $$; exec sleep 1000`

// openAndWait is a process that has everything a lab has, says so, and waits
// to be killed.
func openAndWait() {
	err := func() error {
		lab, err := netlab.Open()
		if err != nil {
			return err
		}
		h, err := lab.Host("a", netlab.V4)
		if err != nil {
			return err
		}
		if err := h.Shape(netlab.Cable{Delay: time.Millisecond, Loss: 0.1, Rate: 1e6}); err != nil {
			return err
		}
		cmd := exec.Command("sh", "-c", victims)
		cmd.Stdout = os.Stdout
		return h.Start(cmd)
	}()
	if err != nil {
		fmt.Println(err)
		return
	}
	select {}
}

// hold opens a process that a line names, first or second.
func hold(t *testing.T, line string, field int) *os.File {
	t.Helper()
	pid, err := strconv.Atoi(strings.Fields(line)[field])
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// gone waits for the end of a process.
func gone(t *testing.T, process *os.File) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process.Fd()), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			t.Errorf("a program of the host lives on: %v", err)
		}
		return
	}
}

// cards are the network cards outside of all labs.
func cards(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCloseLeavesNothing(t *testing.T) {
	netlab.New(t) // what a first use opens once for all is open then
	before, fds := cards(t), openFiles(t)
	lab, err := netlab.Open()
	must(t, err)
	h, err := lab.Host("a", netlab.V4)
	must(t, err)
	must(t, h.Shape(netlab.Cable{Delay: time.Millisecond}))
	cmd := exec.Command("sh", "-c", victims)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, h.Start(cmd))
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	child := hold(t, line, 0)
	must(t, lab.Close())
	gone(t, child)
	child.Close()
	var killed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the program ended by itself: %v", err)
	}
	must(t, lab.Close()) // does nothing
	if err := h.Start(exec.Command("true")); err == nil {
		t.Error("a program starts on a closed host")
	}
	if after := cards(t); !slices.Equal(after, before) {
		t.Errorf("cards were %v and are %v", before, after)
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d files were open, %d are", fds, n)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestKilledLabLeavesNothing(t *testing.T) {
	netlab.New(t) // or skip
	before := cards(t)
	cmd := self(t, "victim")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	own := hold(t, line, 1)
	must(t, cmd.Process.Kill())
	cmd.Wait()
	gone(t, own)
	// What programs of the host have started is theirs to end, as the kernel's
	// cells are the kernel's.
	must(t, unix.PidfdSendSignal(int(hold(t, line, 0).Fd()), unix.SIGKILL, nil, 0))
	if after := cards(t); !slices.Equal(after, before) {
		t.Errorf("cards were %v and are %v", before, after)
	}
}

func TestLabsTakeRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to be nobody takes root")
	}
	exe, err := os.Executable()
	must(t, err)
	fd, err := os.Open(exe) // nobody may not enter the directory
	must(t, err)
	defer fd.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.Env = []string{role + "=open"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{fd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	must(t, err)
	if !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), "takes root") {
		t.Errorf("without rights: %s", out)
	}
}
