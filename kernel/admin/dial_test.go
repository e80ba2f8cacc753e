package admin_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/admin/admintest"
	"github.com/cellkernel/cellkernel/sdk"
)

func TestListenRefusesOpenDirectories(t *testing.T) {
	dir := privateDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := admin.Listen(filepath.Join(dir, admin.SocketName))
	if err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("got %v, want an error about the mode", err)
	}
}

func TestListenReplacesADeadSocket(t *testing.T) {
	path := filepath.Join(privateDir(t), admin.SocketName)
	for range 2 {
		ln, err := admin.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		ln.(*net.UnixListener).SetUnlinkOnClose(false) // as if killed
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode: got %v, %v, want 0600", info.Mode(), err)
		}
		ln.Close()
	}
}

func TestDialFindsNobody(t *testing.T) {
	dir := privateDir(t)
	_, err := admin.Dial(t.Context(), filepath.Join(dir, admin.SocketName))
	wantCode(t, err, sdk.CodeUnavailable, "no such file")
}

func TestDialDoesNotWaitForAStoppedKernel(t *testing.T) {
	path := filepath.Join(privateDir(t), admin.SocketName)
	ln, err := net.Listen("unix", path) // connections stay in the backlog
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = admin.Dial(t.Context(), path)
	wantCode(t, err, sdk.CodeUnavailable, fmt.Sprintf("process %d does not answer", os.Getpid()))
}

func TestDialRefusesAnotherVersion(t *testing.T) {
	f := admintest.New()
	f.V.API = admin.APIVersion + 1
	dir := privateDir(t)
	stop, err := f.Serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	_, err = admin.Dial(t.Context(), filepath.Join(dir, admin.SocketName))
	wantCode(t, err, sdk.CodeIncompatible, "version 2")
}

func TestDialTakesLongPaths(t *testing.T) {
	base := privateDir(t)
	dir := filepath.Join(base, strings.Repeat("d", 60), strings.Repeat("e", 60))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// The socket is made under a short name of the same directory.
	if err := os.Symlink(dir, base+"/s"); err != nil {
		t.Fatal(err)
	}
	stop, err := admintest.New().Serve(base + "/s")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c, err := admin.Dial(t.Context(), filepath.Join(dir, admin.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
