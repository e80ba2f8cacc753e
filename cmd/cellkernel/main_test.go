package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/memplugin"
)

// The test binary is also the command, with a kernel of the imagination to
// boot, and such a kernel that runs already.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cellkernel": func() {
			ctx, kill, stop := signals(context.Background())
			a := newApp(os.Stdin, os.Stdout, os.Stderr)
			a.kill, a.boot = kill, bootFake
			code := a.run(ctx, os.Args[1:])
			stop()
			os.Exit(code)
		},
		"fakekernel": fakeKernelMain,
		"memplugin":  func() { plugin.Main(memplugin.Ledger()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			run := filepath.Join(e.WorkDir, ".x")
			e.Setenv("XDG_RUNTIME_DIR", run)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("GOFLAGS", "-mod=mod -buildvcs=false")
			for _, v := range []string{"GOMODCACHE", "GOPROXY", "GOSUMDB", "GOCACHE"} {
				out, err := exec.Command("go", "env", v).Output()
				if err != nil {
					return err
				}
				e.Setenv(v, strings.TrimSpace(string(out)))
			}
			mem, err := exec.LookPath("memplugin")
			if err != nil {
				return err
			}
			e.Setenv("MEMPLUGIN", mem)
			root, err := filepath.Abs("../..")
			e.Setenv("CHECKOUT", root)
			return errors.Join(err, os.Mkdir(run, 0o700))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":   scriptCode,
			"kernel": scriptKernel,
		},
	})
}

// scriptCode runs a command and compares its exit code: code 4 cellkernel ps.
func scriptCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var e *exec.ExitError
	if errors.As(err, &e) {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("run %s: %v", args[1], err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("%s: exit code %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// scriptKernel starts a fake kernel for a directory: kernel [FLAG...] DIR.
func scriptKernel(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[len(args)-1])
	ts.Check(os.MkdirAll(dir, 0o755))
	stop, err := startFake(dir, ts.Getenv("XDG_RUNTIME_DIR"), args[:len(args)-1]...)
	ts.Check(err)
	ts.Defer(stop)
}
