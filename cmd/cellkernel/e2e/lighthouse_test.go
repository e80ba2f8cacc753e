package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// freePort returns a port of 127.0.0.1 that nobody has at present.
func freePort(t *testing.T, network string) string {
	t.Helper()
	var at net.Addr
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at = c.LocalAddr()
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		at = l.Addr()
	}
	return at.String()
}

// A lighthouse is an ordinary cell: it does not speak the sdk, so the genome
// says when it is ready.
func TestLighthouseAsACell(t *testing.T) {
	t.Parallel()
	at, metrics := freePort(t, "udp"), freePort(t, "tcp")
	n := newNode(t, fmt.Sprintf(`
[cells.beacon]
command = [%q, "lighthouse", "--listen", %q, "--metrics", %q]
ready = { http = "http://%s/metrics" }
`, binary, at, metrics, metrics))
	n.up()
	n.want(0, "lighthouse", "--probe", at)
	if out := n.want(0, "logs", "beacon").out; !strings.Contains(out, "lighthouse listens") {
		t.Errorf("logs: got %q", out)
	}
	n.want(0, "down")
	n.want(5, "lighthouse", "--probe", at)
}

// The plugin's own binary keeps the contract against the command's server,
// which ends with 0 when it is told to.
func TestLighthousePlugin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plug := filepath.Join(dir, "discovery-lighthouse")
	build := exec.Command("go", "build", "-o", plug, "./plugins/discovery-lighthouse")
	build.Dir, build.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	at := freePort(t, "udp")
	server := exec.Command(binary, "lighthouse", "--listen", at)
	pipe, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewReader(pipe)
	if line, err := log.ReadString('\n'); err != nil || !strings.Contains(line, `"lighthouse listens"`) {
		t.Fatalf("got the line %q, %v", line, err)
	}
	n := newNode(t, "")
	n.want(0, "lighthouse", "--probe", at)
	n.want(0, "plugin", "test", plug, "--config", fmt.Sprintf(`{"servers":[%q],"timeout":"500ms"}`, at))
	n.want(2, "lighthouse", "--listen", at) // in use
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(log)
	if err := errors.Join(err, server.Wait()); err != nil || !strings.Contains(string(rest), `"lighthouse ends"`) {
		t.Errorf("it ended with %v and logged %s", err, rest)
	}
}
