package catalog_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/kernel/catalog"
)

// runKernel is a kernel with a plugin, for a test that stops all of it. It
// prints the plugin's status for each line it reads.
func runKernel() {
	c := newCatalog(catalog.Options{})
	if err := c.Start(context.Background(), spec("billing")); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	in := bufio.NewScanner(os.Stdin)
	json.NewEncoder(os.Stdout).Encode(c.Status()[0])
	for in.Scan() {
		json.NewEncoder(os.Stdout).Encode(c.Status()[0])
	}
	c.Close(context.Background())
}

// A kernel that was stopped must not conclude that its plugins hang.
func TestStoppedKernelRestartsNothing(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TEST_ROLE=kernel")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	lines := json.NewDecoder(out)
	ask := func() (s catalog.Status) {
		t.Helper()
		if err := lines.Decode(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := ask()
	// Stopped at different moments of the ping's second; the plugin is
	// stopped a little longer, so that a ping is under way meanwhile.
	for i := range 3 {
		syscall.Kill(cmd.Process.Pid, syscall.SIGSTOP)
		syscall.Kill(before.PID, syscall.SIGSTOP)
		<-time.After(1500 * time.Millisecond)
		syscall.Kill(cmd.Process.Pid, syscall.SIGCONT)
		<-time.After(time.Duration(i) * 200 * time.Millisecond)
		syscall.Kill(before.PID, syscall.SIGCONT)
		<-time.After(700 * time.Millisecond)
	}
	fmt.Fprintln(in)
	after := ask()
	if after.PID != before.PID || after.Restarts != 0 || after.State != catalog.StateReady {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
}
