package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dirs makes a directory with a genome and a short runtime directory.
func dirs(t *testing.T, boot string) (dir, run string) {
	t.Helper()
	base, err := os.MkdirTemp("", "ck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir, run = filepath.Join(base, "d"), filepath.Join(base, "x")
	for _, err := range []error{
		os.Mkdir(dir, 0o755), os.Mkdir(run, 0o700),
		os.WriteFile(filepath.Join(dir, "genome.toml"), []byte("[cells.worker]\ncommand = [\"true\"]\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "boot"), []byte(boot), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir, run
}

// A session is a command that runs in the background. What it writes fits
// into pipes that nobody reads.
type session struct {
	t          *testing.T
	cmd        *exec.Cmd
	outs, errs *bufio.Reader
}

func start(t *testing.T, dir, run, path string, args ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command(path, args...)}
	s.cmd.Dir = dir
	s.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+run)
	// Pipes of our own: those of StdoutPipe are closed by Wait.
	pipe := func() (*bufio.Reader, *os.File) {
		r, w, err := os.Pipe()
		if err == nil {
			t.Cleanup(func() { r.Close() })
			err = r.SetReadDeadline(time.Now().Add(30 * time.Second))
		}
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(r), w
	}
	var out, errs *os.File
	s.outs, out = pipe()
	s.errs, errs = pipe()
	s.cmd.Stdout, s.cmd.Stderr = out, errs
	err := s.cmd.Start()
	out.Close()
	errs.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// until reads standard error to the first line with the given text.
func (s *session) until(text string) {
	s.t.Helper()
	s.find(s.errs, text)
}

// untilOut does the same with standard output.
func (s *session) untilOut(text string) {
	s.t.Helper()
	s.find(s.outs, text)
}

func (s *session) find(r *bufio.Reader, text string) {
	s.t.Helper()
	var seen strings.Builder
	for {
		line, err := r.ReadString('\n')
		seen.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			s.t.Fatalf("%s: waiting for %q: %v, got %q", s.cmd, text, err, seen.String())
		}
	}
}

func (s *session) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// exit waits for the end and checks the code.
func (s *session) exit(want int) {
	s.t.Helper()
	rest, _ := io.ReadAll(s.errs)
	err := s.cmd.Wait()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		s.t.Fatal(err)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != want {
		s.t.Errorf("%s: exit code %d, want %d; stderr ends with %q", s.cmd, got, want, rest)
	}
}

func TestInterruptDrainsAndSaysSo(t *testing.T) {
	dir, run := dirs(t, "wait")
	s := start(t, dir, run, "cellkernel", "up")
	s.until("ready     node")
	s.signal(os.Interrupt)
	s.until("draining; once more to kill")
	s.until("waiting for worker#1 (2 calls)")
	s.exit(130)
	if got, _ := io.ReadAll(s.outs); string(got) != "result 42\n" {
		t.Errorf("stdout: got %q", got)
	}
}

func TestSecondInterruptKills(t *testing.T) {
	dir, run := dirs(t, "stuck")
	s := start(t, dir, run, "cellkernel", "up")
	s.until("ready     node")
	s.signal(os.Interrupt)
	s.until("waiting for worker#1")
	time.Sleep(onceMore) // the promise is about time
	s.signal(os.Interrupt)
	s.exit(130)
}

// timeout(1) signals its child and the child's group: that is one order, and
// what is at work is drained.
func TestEchoOfASignalDoesNotKill(t *testing.T) {
	ctx, kill, stop := signals(t.Context())
	defer stop()
	raise := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	raise()
	<-ctx.Done()
	raise()
	select {
	case <-kill:
		if time.Since(began) < onceMore {
			t.Fatal("two signals at once kill")
		}
	case <-time.After(onceMore):
	}
	raise()
	<-kill
}

func TestTerminationIsAnOrdinaryEnd(t *testing.T) {
	dir, run := dirs(t, "wait")
	s := start(t, dir, run, "cellkernel", "up")
	s.until("ready     node")
	s.signal(syscall.SIGTERM)
	s.exit(0)
}

func TestDownEndsAForegroundKernel(t *testing.T) {
	dir, run := dirs(t, "wait")
	s := start(t, dir, run, "cellkernel", "up")
	s.until("ready     node")
	start(t, dir, run, "cellkernel", "down", "--within", "5s").exit(0)
	s.exit(0)
	start(t, dir, run, "cellkernel", "status").exit(5)
}

func TestFollowedLogsEndWithAnInterrupt(t *testing.T) {
	dir, run := dirs(t, "")
	stop, err := startFake(dir, run)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	s := start(t, dir, run, "cellkernel", "logs", "-f", "--genome", dir)
	s.untilOut("third")
	s.signal(os.Interrupt)
	s.exit(130)
}

func TestFollowedLogsOfAKilledKernel(t *testing.T) {
	dir, run := dirs(t, "")
	stop, err := startFake(dir, run)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	s := start(t, dir, run, "cellkernel", "logs", "-f", "--genome", dir)
	s.untilOut("third")
	stop()
	s.until("follow logs: the kernel of genome.toml was killed")
	if rest, _ := io.ReadAll(s.errs); len(rest) > 0 {
		t.Errorf("and then: %q", rest)
	}
	s.exit(5)
}

// A kernel that is stopped is there, but does not answer: 5 within moments.
func TestStoppedKernelDoesNotHangTheCommand(t *testing.T) {
	dir, run := dirs(t, "wait")
	s := start(t, dir, run, "cellkernel", "up")
	s.until("ready     node")
	s.signal(syscall.SIGSTOP)
	c := start(t, dir, run, "cellkernel", "ps")
	c.until("does not answer within")
	c.until("hint: it may be stopped")
	c.exit(5)
	s.signal(syscall.SIGCONT)
	s.signal(syscall.SIGTERM)
	s.exit(0)
}

// Every exit code, on the binary that people run, with a kernel beside it.
func TestExitCodesOfTheBuiltBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary")
	}
	none, noneRun := dirs(t, "")
	dir, run := dirs(t, "")
	bin := filepath.Join(filepath.Dir(none), "cellkernel")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	stop, err := startFake(dir, run, "changes")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for _, c := range []struct {
		want int
		args string
	}{
		{0, "ps"}, {1, "call worker.Break"}, {2, "fly"}, {3, "config check --set golgi.linsk=3"},
		{4, "restart nobody"}, {6, "call worker.Deny"}, {7, "call worker.Pay"},
		{8, "call worker.Sleep --timeout 10ms"}, {9, "up --dry-run"},
	} {
		start(t, dir, run, bin, strings.Fields(c.args)...).exit(c.want)
	}
	start(t, none, noneRun, bin, "ps").exit(5)
	s := start(t, dir, run, bin, "logs", "-f")
	s.untilOut("third")
	s.signal(os.Interrupt)
	s.exit(130)
	if os.Getuid() != 0 {
		return // nobody else to be
	}
	stranger := exec.Command(bin, "ps")
	stranger.Dir = dir
	stranger.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+noneRun)
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, d := range []string{filepath.Dir(none), filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, _ := stranger.CombinedOutput(); stranger.ProcessState.ExitCode() != exitDenied {
		t.Errorf("ps of a stranger: exit code %d, want %d: %s", stranger.ProcessState.ExitCode(), exitDenied, out)
	}
}
