package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What TestMain built; read-only afterwards.
var binary, probe, pluginFile, ledgerFile, otherLedger, checkout string

// The binaries are static: one of the tests boots them where there is nothing
// else. They are built once, for all tests.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: skipped with -short: it builds programs and starts hundreds of processes")
		return
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cke")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if checkout, err = filepath.Abs("../../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary, probe, pluginFile = filepath.Join(dir, "cellkernel"), filepath.Join(dir, "probe"), filepath.Join(dir, "transport-uds")
	ledgerFile, otherLedger = filepath.Join(dir, "ledger-json"), filepath.Join(dir, "ledger-other")
	for out, pkg := range map[string]string{
		binary: "./cmd/cellkernel", probe: "./cmd/cellkernel/e2e/testdata/probe", pluginFile: "./plugins/transport-uds",
		ledgerFile: "./plugins/ledger-json", otherLedger: "./cmd/cellkernel/e2e/testdata/memledger",
	} {
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Dir, cmd.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, text)
			return 1
		}
	}
	return m.Run()
}
