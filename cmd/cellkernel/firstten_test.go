package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/page"
)

const firstTen = "../../docs/first-ten-minutes.md"

// A reader is somebody who follows a page: with a home of its own, and sure
// not to meet other kernels of this user.
type reader struct {
	ctx  context.Context
	env  []string
	dir  string // where the last step ended
	note string // file that says so
}

func newReader(t *testing.T) *reader {
	t.Helper()
	base, err := os.MkdirTemp("", "ck") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	home, run, bin := filepath.Join(base, "home"), filepath.Join(base, "x"), filepath.Join(base, "bin")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	r := &reader{ctx: ctx, note: filepath.Join(base, "pwd"), env: append(os.Environ(),
		"HOME="+home, "XDG_RUNTIME_DIR="+run, "GOBIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"), "NO_COLOR=1",
		"CELLKERNEL_FILE="+filepath.Join(home, "cells/shop/genome.toml"), "GOFLAGS=-buildvcs=false", "NOTE="+filepath.Join(base, "pwd"))}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOSUMDB"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		r.env = append(r.env, name+"="+strings.TrimSpace(string(out)))
	}
	r.dir, err = filepath.Abs("../..")
	if err := errors.Join(err, os.Mkdir(home, 0o700), os.Mkdir(run, 0o700)); err != nil {
		t.Fatal(err)
	}
	return r
}

// do runs a step as typed, where the one before it ended.
func (r *reader) do(sh string) (string, error) {
	cmd := exec.CommandContext(r.ctx, "bash", "-euo", "pipefail", "-c", sh+"\npwd > \"$NOTE\"\n")
	cmd.Dir, cmd.Env = r.dir, r.env
	// A shell that hangs is ended with what it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), err
	}
	dir, err := os.ReadFile(r.note)
	r.dir = strings.TrimSpace(string(dir))
	return string(out), err
}

// The page is done as it is written.
func TestFirstTenMinutes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	text, err := os.ReadFile(firstTen)
	if err != nil {
		t.Fatal(err)
	}
	list := slices.DeleteFunc(page.Blocks(string(text)), func(b page.Block) bool { return b.Lang != "sh" })
	if len(list) < 8 {
		t.Fatalf("%s: %d blocks of shell: the page or this test is wrong", firstTen, len(list))
	}
	r := newReader(t)
	down := false
	defer func() {
		if !down { // CELLKERNEL_FILE names the kernel: no other is meant
			r.ctx = context.WithoutCancel(r.ctx)
			out, err := r.do("cellkernel down --now || true")
			t.Log(out, err)
		}
	}()
	for _, s := range list {
		at := fmt.Sprintf("first-ten-minutes.md:%d", s.Line)
		out, err := r.do(s.Text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", at, err, out)
		}
		if w := page.Missing(out, s.Want); w != "" {
			t.Fatalf("%s: no line %q in\n%s", at, w, out)
		}
		down = strings.HasPrefix(s.Text, "cellkernel down")
	}
	if !down {
		t.Error("the page leaves a kernel running")
	}
}
