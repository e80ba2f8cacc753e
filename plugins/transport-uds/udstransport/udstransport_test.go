package udstransport_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/transport-uds/udstransport"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const serve = "TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(udstransport.Plugin())
		return
	}
	os.Exit(m.Run())
}

func asProcess(t testing.TB) (plugintest.Target, plugintest.Options) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return plugintest.Command(self), plugintest.Options{Env: []string{serve + "=1"}}
}

func TestContractInThisProcess(t *testing.T) {
	plugintest.Test(t, plugintest.InProcess(udstransport.Plugin()), plugintest.Options{})
}

func TestContractAsProcess(t *testing.T) {
	target, o := asProcess(t)
	plugintest.Test(t, target, o)
}

func BenchmarkProcess(b *testing.B) {
	target, o := asProcess(b)
	plugintest.BenchmarkTransport(b, target, o)
}

func open(t *testing.T) sdk.Transport {
	t.Helper()
	c, err := plugin.Pipe(t.Context(), udstransport.Plugin(), plugin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Kill() })
	tr, err := c.Transport()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "u")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stale leaves a socket behind as a killed process does.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func uds(path string) sdk.Addr { return sdk.Addr{Scheme: "uds", Host: path} }

func TestStaleSocketIsReplaced(t *testing.T) {
	tr, path := open(t), filepath.Join(shortDir(t), "s")
	stale(t, path)
	l, err := tr.Listen(t.Context(), uds(path))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v: want 0600", info.Mode(), err)
	}
}

func TestSocketInUseIsLeftAlone(t *testing.T) {
	tr, path := open(t), filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := tr.Listen(t.Context(), uds(path)); err == nil || !strings.Contains(err.Error(), "address in use") {
		t.Errorf("got %v, want address in use", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener lost its socket: %v", err)
	}
	c.Close()
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	tr, dir := open(t), shortDir(t)
	path := filepath.Join(dir, "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "l")
	stale(t, filepath.Join(dir, "target"))
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		if _, err := tr.Listen(t.Context(), uds(p)); err == nil {
			t.Errorf("listened at %s", p)
		}
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestOpenDirectoriesAreRefused(t *testing.T) {
	tr, dir := open(t), shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := tr.Listen(t.Context(), uds(filepath.Join(dir, "s")))
	if sdk.CodeOf(err) != sdk.CodeDenied {
		t.Errorf("got %v, want denied", err)
	}
	l, err := tr.Listen(t.Context(), uds(filepath.Join(dir, "new", "s")))
	if err != nil {
		t.Fatalf("a missing directory: %v", err)
	}
	defer l.Close()
	info, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory's mode is %v, %v: want 0700", info.Mode(), err)
	}
}

// Trap T14: everyone else reports a long path as something else.
func TestT14LongPathSaysSo(t *testing.T) {
	tr := open(t)
	for _, n := range []int{107, 108} {
		path := filepath.Join(shortDir(t), strings.Repeat("a", 108))[:n]
		l, err := tr.Listen(t.Context(), uds(path))
		if err == nil {
			l.Close()
		}
		if ok := err == nil; ok != (n == 107) {
			t.Errorf("path of %d bytes: %v", n, err)
		}
		if n == 108 && !strings.Contains(err.Error(), "108 bytes") {
			t.Errorf("the error does not say why: %v", err)
		}
	}
}

func TestAddresses(t *testing.T) {
	tr := open(t)
	for _, host := range []string{"relative", "/a/../b", "/a//b", "@abstract"} {
		if _, err := tr.Dial(t.Context(), uds(host)); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("dial %q: %v, want invalid", host, err)
		}
	}
	_, err := tr.Dial(t.Context(), uds("/nonexistent/s"))
	want := "transport(uds): dial uds:///nonexistent/s: connect to \"/nonexistent/s\": no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// The plugin is off the path: both ends of a link are one socket pair, so
// killing the plugin changes nothing.
func TestLinksOutliveThePlugin(t *testing.T) {
	c, err := plugin.Pipe(t.Context(), udstransport.Plugin(), plugin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	tr, err := c.Transport()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tr.Listen(t.Context(), uds(filepath.Join(shortDir(t), "s")))
	if err != nil {
		t.Fatal(err)
	}
	near, err := tr.Dial(t.Context(), uds(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	c.Kill()
	if _, err := near.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EINVAL) {
		t.Errorf("accept after the plugin's death: %v", err)
	}
}
