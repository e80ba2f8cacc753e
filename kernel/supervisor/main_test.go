package supervisor_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/internal/procstat"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
)

// The test binary is its own cast: the hidden commands, and cells that behave
// in all the ways cells behave.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch args := os.Args[2:]; os.Args[1] {
		case supervisor.StubCommand:
			os.Exit(supervisor.ExecStub(args))
		case supervisor.SweepCommand:
			os.Exit(supervisor.SweepMain(args))
		case "act":
			os.Exit(act(args))
		}
	}
	if err := supervisor.SealDescriptors(); err != nil { // as a kernel does
		panic(err)
	}
	os.Exit(m.Run())
}

// act plays a part.
func act(args []string) int {
	switch args[0] {
	case "exit": // code, lines to say before
		code, _ := strconv.Atoi(args[1])
		for _, line := range args[2:] {
			fmt.Println(line)
		}
		return code
	case "serve": // until SIGTERM
		return actServe(args[1:])
	case "show":
		return actShow()
	case "stubborn": // depth: descendants that nothing but SIGKILL ends
		return actStubborn(args[1])
	case "orphan": // leaves a child behind and exits
		return actOrphan()
	case "burn": // milliseconds of CPU
		return actBurn(args[1])
	case "kernel": // run directory, "cgroup" or "none"
		return actKernel(args[1], args[2])
	}
	return 99
}

// actServe says "up" and exits with 0 at SIGTERM, or with the code in a file.
func actServe(args []string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("up", os.Getpid())
	if len(args) > 0 && args[0] == "deaf" {
		signal.Ignore(syscall.SIGTERM)
	}
	<-term
	fmt.Println("down")
	return 0
}

// actShow prints the environment, the open descriptors and some limits.
func actShow() int {
	for _, e := range os.Environ() {
		fmt.Println("env", e)
	}
	names, _ := filepath.Glob("/proc/self/fd/*")
	sort.Strings(names)
	for _, n := range names {
		target, err := os.Readlink(n)
		if err != nil || strings.HasPrefix(target, "anon_inode:") || strings.Contains(target, "/fd") ||
			strings.Contains(target, "/cgroup/") {
			continue // the runtime's own, and that of this listing
		}
		fmt.Println("fd", filepath.Base(n), target)
	}
	var l unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &l)
	fmt.Println("core", l.Cur)
	nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	fmt.Println("nnp", nnp)
	dir, _ := os.Getwd()
	fmt.Println("dir", dir)
	group, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(group)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			fmt.Println("cgroup", strings.TrimSpace(rest))
		}
	}
	return 0
}

// actStubborn ignores SIGTERM and makes a descendant in a session of its own,
// three deep. Each says its pid.
func actStubborn(depth string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	if n, _ := strconv.Atoi(depth); n > 0 {
		self, _ := os.Executable()
		c := exec.Command(self, "act", "stubborn", strconv.Itoa(n-1))
		c.Stdout = os.Stdout
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return 1
		}
	}
	fmt.Println("pid", os.Getpid())
	select {}
}

func actOrphan() int {
	self, _ := os.Executable()
	c := exec.Command(self, "act", "stubborn", "1")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.StdoutPipe()
	if err != nil || c.Start() != nil {
		return 1
	}
	lines := bufio.NewScanner(out)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	return 0
}

func actBurn(ms string) int {
	n, _ := strconv.Atoi(ms)
	var ru syscall.Rusage
	for {
		syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
		if time.Duration(ru.Utime.Nano()+ru.Stime.Nano()) >= time.Duration(n)*time.Millisecond {
			break
		}
	}
	fmt.Println("burnt")
	select {}
}

// actKernel is a kernel: a spawner, a sweeper and a stubborn cell. It says the
// pids of all and waits to be killed.
func actKernel(dir, groups string) int {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return 1
	}
	s, err := supervisor.NewSpawner(supervisor.SpawnerOptions{Self: self, NoCgroup: groups == "none"})
	if err != nil {
		return 2
	}
	sockets := filepath.Join(dir, "sockets")
	if os.MkdirAll(sockets, 0o700) != nil {
		return 3
	}
	ctx := context.Background()
	w, err := supervisor.StartSweeper(ctx, s, s.State(filepath.Join(dir, "state.json"), sockets))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 4
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil || unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(sockets, "k.sock")}) != nil {
		return 5
	}
	path, _ := os.Executable()
	p, err := s.Spawn(ctx, supervisor.Spec{
		Name: "stubborn", Argv: []string{path, "act", "stubborn", "2"}, Stderr: os.Stderr,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	lines := bufio.NewScanner(p.Stdout)
	for range 3 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	cg, _ := s.Cgroup()
	fmt.Println("sweeper", w.PID())
	fmt.Println("run", s.RunID(), cg)
	fmt.Println("ready")
	select {}
}

// newSpawner returns a spawner that is closed at the end of the test.
func newSpawner(t testing.TB, groups string) *supervisor.Spawner {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	s, err := supervisor.NewSpawner(supervisor.SpawnerOptions{Self: self, NoCgroup: groups == "none"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close spawner: %v", err)
		}
		self.Close()
	})
	if _, why := s.Cgroup(); groups == "cgroup" && why != "" {
		t.Skipf("no cgroup: %s", why)
	}
	return s
}

// program returns the command line that plays a part.
func program(t testing.TB, args ...string) []string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{path, "act"}, args...)
}

// alive reports whether pid is a process that is no zombie.
func alive(pid int) bool {
	st, err := procstat.Read(pid)
	return err == nil && st.State != 'Z'
}

// awaitGone fails the test if one of pids lives longer than d. It waits on
// descriptors of the processes.
func awaitGone(t testing.TB, d time.Duration, pids ...int) {
	t.Helper()
	deadline := time.Now().Add(d)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		for alive(pid) {
			left := time.Until(deadline)
			if left <= 0 {
				t.Errorf("process %d lives after %s", pid, d)
				break
			}
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
		}
		unix.Close(fd)
	}
}

// pidsOf reads n lines "pid N".
func pidsOf(t testing.TB, lines *bufio.Scanner, n int) []int {
	t.Helper()
	var pids []int
	for len(pids) < n && lines.Scan() {
		if s, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	if len(pids) < n {
		t.Fatalf("got pids %v, want %d of them", pids, n)
	}
	return pids
}
