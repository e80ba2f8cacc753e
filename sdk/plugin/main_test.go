package plugin_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

const role = "TEST_ROLE"

// The test binary is every process of these tests.
func TestMain(m *testing.M) {
	name := os.Getenv(role)
	if name == "" {
		os.Exit(m.Run())
	}
	serve, ok := roles()[name]
	if !ok {
		panic("no role " + name)
	}
	serve()
}

func roles() map[string]func() {
	rs := map[string]func(){
		"probe":     func() { plugin.Main(probePlugin()) },
		"transport": func() { plugin.Main(unixPlugin(nil)) },
		"set-up":    func() { plugin.Main(probePlugin().WithSetup(func() { os.Setenv("SET_UP", "yes") })) },
		"kernel":    runKernel,
		"intruder":  intrude,
		"json-stderr": func() {
			fmt.Fprintln(os.Stderr, `{"@message":5,"@level":{},"@timestamp":[]}`)
			plugin.Main(probePlugin())
		},
		"chatty": func() {
			fmt.Println("a library says hello")
			fmt.Print(strings.Repeat("x", 300_000), "\n")
			fmt.Fprint(os.Stderr, strings.Repeat("y", 300_000), "\n")
			plugin.Main(probePlugin())
		},
		"silent": func() { <-make(chan struct{}) },
		"exits": func() {
			fmt.Fprintln(os.Stderr, "config file is missing")
			os.Exit(7)
		},
		"tcp":     func() { fmt.Println("1|1|tcp|127.0.0.1:22|grpc|"); <-make(chan struct{}) },
		"outside": func() { fmt.Println("1|1|unix|/run/docker.sock|grpc|"); <-make(chan struct{}) },
		"old":     func() { fmt.Println("1|99|unix|/a|grpc|"); <-make(chan struct{}) },
	}
	for name, h := range hostiles() {
		rs[name] = h.serve
	}
	return rs
}

// A probe is a billing that tells about its process in the note of Place: the
// workload's id says what.
type probe struct {
	sdk.Billing
	host plugin.Host
}

func probePlugin() plugin.Plugin {
	return plugin.Billing("probe", struct{}{}, func(_ context.Context, _ struct{}, h plugin.Host) (*probe, error) {
		return &probe{host: h}, nil
	})
}

func (p *probe) Place(ctx context.Context, w sdk.Workload) (sdk.Placement, error) {
	note := ""
	switch w.ID {
	case "env":
		note = strings.Join(os.Environ(), " ")
	case "stdin":
		note, _ = os.Readlink("/proc/self/fd/0")
	case "subkey":
		a, b := p.host.Subkey("a"), p.host.Subkey("b")
		note = fmt.Sprintf("%x %x", a[:4], b[:4])
	case "state":
		err := p.host.State().WriteFile("f", []byte("kept"), 0o600)
		note = fmt.Sprint(err)
	case "certify":
		_, err := p.host.Certify(ctx, []byte("key"))
		note = fmt.Sprint(err)
	case "print":
		fmt.Println("printed to stdout")
		fmt.Fprintln(os.Stderr, "printed to stderr")
		p.host.Log().Warn("logged", "answer", 42)
	case "panic":
		panic("on purpose")
	case "plain":
		return sdk.Placement{}, fmt.Errorf("an author's error\nof two lines")
	case "typed":
		return sdk.Placement{}, sdk.Errorf(sdk.CodeNoATP, "billing(probe): place typed: poor")
	}
	return sdk.Placement{Note: note}, nil
}

// unixTransport is a transport over Unix sockets that can wrap what it dials
// and accepts.
type unixTransport struct{ wrap func(net.Conn) net.Conn }

func unixPlugin(wrap func(net.Conn) net.Conn) plugin.Plugin {
	if wrap == nil {
		wrap = func(c net.Conn) net.Conn { return c }
	}
	return plugin.Transport("unix", struct{}{}, func(context.Context, struct{}, plugin.Host) (*unixTransport, error) {
		return &unixTransport{wrap}, nil
	})
}

func (t *unixTransport) Dial(ctx context.Context, a sdk.Addr) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", a.Host)
	if err != nil {
		return nil, err
	}
	return t.wrap(c), nil
}

func (t *unixTransport) Listen(_ context.Context, a sdk.Addr) (net.Listener, error) {
	l, err := net.Listen("unix", a.Host)
	if err != nil {
		return nil, err
	}
	return &unixListener{l, t.wrap}, nil
}

type unixListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l *unixListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(c), nil
}

// lines collects what a plugin logs.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) add(level slog.Level, line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.buf, "%v %.200s\n", level, line)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// until waits for text to be logged.
func (l *lines) until(t *testing.T, text string) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < 10*time.Second; runtime.Gosched() {
		if strings.Contains(l.String(), text) {
			return
		}
	}
	t.Errorf("%q was not logged, but\n%s", text, l.String())
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// launch starts this binary in a role; the plugin is stopped with the test.
func launch(t *testing.T, name string, o plugin.Options) (*plugin.Client, error) {
	t.Helper()
	o.Env = append(o.Env, role+"="+name)
	if o.RunDir == "" {
		o.RunDir = shortDir(t)
	}
	c, err := plugin.Start(t.Context(), plugin.Command{Name: name, Path: self(t)}, o)
	if err == nil {
		t.Cleanup(func() { c.Kill() })
		return c, nil
	}
	if left, _ := filepath.Glob(filepath.Join(o.RunDir, "*")); len(left) > 0 {
		t.Errorf("a failed start left %v", left)
	}
	return nil, err
}

func mustLaunch(t *testing.T, name string, o plugin.Options) *plugin.Client {
	t.Helper()
	c, err := launch(t, name, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask returns the note a probe answers.
func ask(t *testing.T, c *plugin.Client, what string) string {
	t.Helper()
	b, err := c.Billing()
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Place(t.Context(), sdk.Workload{ID: sdk.WorkloadID(what)})
	if err != nil {
		t.Fatal(err)
	}
	return p.Note
}

// noLeaks compares goroutines and descriptors with those at its call.
func noLeaks(t *testing.T) func() {
	t.Helper()
	goroutines, fds := runtime.NumGoroutine(), countFDs(t)
	return func() {
		t.Helper()
		var g, f int
		for begin := time.Now(); time.Since(begin) < 10*time.Second; <-time.After(10 * time.Millisecond) {
			g, f = runtime.NumGoroutine(), countFDs(t)
			if g <= goroutines && f <= fds {
				return
			}
		}
		buf := make([]byte, 1<<20)
		t.Errorf("goroutines %d, were %d; descriptors %d, were %d\n%s", g, goroutines, f, fds, buf[:runtime.Stack(buf, true)])
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}
