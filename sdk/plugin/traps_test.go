package plugin_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// These tests are named after the traps of go-plugin that they guard against.

// T1: one line of JSON on standard error panics a host that lets go-plugin
// read it.
func TestT1JSONOnStderr(t *testing.T) {
	var log lines
	c := mustLaunch(t, "json-stderr", plugin.Options{Log: log.add})
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	log.until(t, `{"@message":5`)
}

// T3, T4: what is printed before the handshake breaks the start, what is
// printed after it is lost.
func TestT4Printing(t *testing.T) {
	var log lines
	c := mustLaunch(t, "chatty", plugin.Options{Log: log.add})
	log.until(t, "a library says hello")
	log.until(t, "xxx")
	log.until(t, "yyy")
	ask(t, c, "print")
	log.until(t, "printed to stdout")
	log.until(t, "printed to stderr")
	log.until(t, `WARN {"time"`)
	log.until(t, `"msg":"logged","answer":42`)
}

// T5, T6: stopping a plugin that does not run never returns.
func TestT5StopIsBounded(t *testing.T) {
	c := mustLaunch(t, "probe", plugin.Options{})
	if err := syscall.Kill(c.Info().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx); err == nil {
		t.Error("a stopped process ended nicely")
	}
	if alive(c.Info().PID) {
		t.Error("the process is still there")
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// runKernel is a kernel that starts a plugin, says its number and waits.
func runKernel() {
	path, err := os.Executable()
	if err == nil {
		var c *plugin.Client
		c, err = plugin.Start(context.Background(), plugin.Command{Path: path}, plugin.Options{Env: []string{role + "=probe"}, RunDir: os.Getenv("TEST_RUNDIR")})
		if err == nil {
			fmt.Println(c.Info().PID)
			<-make(chan struct{})
		}
	}
	fmt.Println(err)
}

// T8: plugins outlive a host that was killed.
func TestT8NoOrphans(t *testing.T) {
	dir := shortDir(t)
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), role+"=kernel", "TEST_RUNDIR="+dir)
	out, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for begin := time.Now(); alive(pid); <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the plugin outlived its kernel")
		}
	}
	if sockets, _ := filepath.Glob(filepath.Join(dir, "p*", "plugin-dir*", "*")); len(sockets) > 0 {
		t.Errorf("the plugin left its socket: %v", sockets)
	}
}

// T11: the host's environment reaches plugins, secrets included.
func TestT11CleanEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_KERNEL", "hunter2")
	t.Setenv("LANG", "xx_XX")
	env := ask(t, mustLaunch(t, "probe", plugin.Options{Env: []string{"EXTRA=1"}}), "env")
	for _, bad := range []string{"hunter2", "xx_XX", "HOME="} {
		if strings.Contains(env, bad) {
			t.Errorf("the plugin sees %q in %s", bad, env)
		}
	}
	for _, want := range []string{"EXTRA=1", "CELLKERNEL_FD=3", "PATH=/", "LANG=C.UTF-8"} {
		if !strings.Contains(env, want) {
			t.Errorf("the plugin does not see %q in %s", want, env)
		}
	}
}

// T12: a plugin shares the host's standard input.
func TestT12Stdin(t *testing.T) {
	if got := ask(t, mustLaunch(t, "probe", plugin.Options{}), "stdin"); got != "/dev/null" {
		t.Errorf("standard input is %q", got)
	}
}

// T13: sockets are made in /tmp whatever the host says.
func TestT13SocketIsInItsDirectory(t *testing.T) {
	dir := shortDir(t)
	mustLaunch(t, "probe", plugin.Options{RunDir: dir})
	sockets, err := filepath.Glob(filepath.Join(dir, "p*", "plugin-dir*", "plugin*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets %v, %v", sockets, err)
	}
	private := filepath.Dir(filepath.Dir(sockets[0]))
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of %s: %v, %v", private, info.Mode(), err)
	}
}

// T14: a long path is reported as something else entirely.
func TestT14LongRunDir(t *testing.T) {
	dir := filepath.Join(shortDir(t), strings.Repeat("d", 80))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := launch(t, "probe", plugin.Options{RunDir: dir})
	if err == nil || !strings.Contains(err.Error(), "use a shorter one") {
		t.Errorf("got %v, want what is wrong and what to do", err)
	}
}

// T15: a killed plugin leaves its socket behind.
func TestT15NothingIsLeftBehind(t *testing.T) {
	check := noLeaks(t)
	dir := shortDir(t)
	for _, end := range []func(*plugin.Client){
		func(c *plugin.Client) { syscall.Kill(c.Info().PID, syscall.SIGKILL); <-c.Done() },
		func(c *plugin.Client) { c.Kill() },
		func(c *plugin.Client) { c.Stop(t.Context()) },
		func(c *plugin.Client) { c.Abandon(); <-c.Done() },
	} {
		c, err := plugin.Start(t.Context(), plugin.Command{Path: self(t)}, plugin.Options{RunDir: dir, Env: []string{role + "=probe"}})
		if err != nil {
			t.Fatal(err)
		}
		end(c)
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	check()
}

// T18: messages over 4 MiB fail with a code of gRPC; here nothing of ours is
// that long, and who tries is told.
func TestT18LargeMessages(t *testing.T) {
	c := mustLaunch(t, "huge", plugin.Options{})
	b, err := c.Billing()
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Place(t.Context(), sdk.Workload{ID: "a"})
	if sdk.CodeOf(err) != sdk.CodeTooLarge || !strings.HasPrefix(err.Error(), "billing(huge): ") {
		t.Errorf("an answer of 5 MiB: %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("ping afterwards: %v", err)
	}
	_, err = launch(t, "probe", plugin.Options{Config: map[string]any{"a": strings.Repeat("x", 5<<20)}})
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a configuration of 5 MiB: %v", err)
	}
}

// intrude asks the plugin at $TEST_SOCKET for its health.
func intrude() {
	cc, err := grpc.NewClient("unix://"+os.Getenv("TEST_SOCKET"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err = grpc_health_v1.NewHealthClient(cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "plugin"})
	}
	if err != nil {
		os.Exit(5)
	}
}

// T28: everyone of the same user may call a plugin, its Shutdown included.
func TestT28IntrudersAreRefused(t *testing.T) {
	dir := shortDir(t)
	c := mustLaunch(t, "probe", plugin.Options{RunDir: dir})
	sockets, err := filepath.Glob(filepath.Join(dir, "p*", "plugin-dir*", "plugin*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets %v, %v", sockets, err)
	}
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), role+"=intruder", "TEST_SOCKET="+sockets[0])
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("an intruder was served: %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
