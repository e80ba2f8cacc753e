package cgroupbilling_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"github.com/cellkernel/cellkernel/plugins/billing-cgroup/cgroupbilling"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/cellkernel/cellkernel/sdk/plugin/plugintest"
)

const serve = "TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		plugin.Main(cgroupbilling.Plugin())
		return
	}
	os.Exit(m.Run())
}

// The contract holds on every rung of the ladder that this machine has.
func TestContract(t *testing.T) {
	for _, source := range cgroupbilling.DefaultConfig().Ladder {
		t.Run(source, func(t *testing.T) {
			if why := cgroupbilling.Try(source); why != nil {
				t.Skipf("%s does not work here: %v", source, why)
			}
			o := plugintest.Options{Config: map[string]any{"ladder": []string{source}}}
			t.Run("in this process", func(t *testing.T) {
				plugintest.Test(t, plugintest.InProcess(cgroupbilling.Plugin()), o)
			})
			t.Run("as a process", func(t *testing.T) {
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				o := o
				o.Env = []string{serve + "=1"}
				plugintest.Test(t, plugintest.Command(self), o)
			})
		})
	}
}

// Processes that want more CPUs than there are wait for them, and the reading
// says for how long, beside their memory.
func TestPressure(t *testing.T) {
	if why := cgroupbilling.Try("cgroup2"); why != nil {
		t.Skipf("cgroup2 does not work here: %v", why)
	}
	c, err := plugin.Pipe(t.Context(), cgroupbilling.Plugin(), plugin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	b, err := c.Billing()
	if err != nil {
		t.Fatal(err)
	}
	id := sdk.WorkloadID("cell/pressure#1@" + strconv.Itoa(os.Getpid()))
	p, err := b.Place(t.Context(), sdk.Workload{ID: id, Cell: "pressure"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(p.Cgroup, "cpu.pressure")); err != nil {
		t.Skipf("no PSI here: %v", err)
	}
	dir, err := os.Open(p.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "for i in $(seq "+strconv.Itoa(2*runtime.NumCPU())+"); do (while :; do :; done) & done; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started, err := start(cmd.Process.Pid)
	var u []sdk.Usage
	for end := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		u, err = b.Usage(t.Context(), []sdk.Running{{ID: id, PID: cmd.Process.Pid, StartTime: started, Placement: p}})
		if len(u) == 1 && u[0].Stall > 100*time.Millisecond {
			break
		}
	}
	kill := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait() // it was killed
	last, cerr := b.Close(t.Context(), sdk.Running{ID: id, PID: cmd.Process.Pid, StartTime: started, Placement: p}, sdk.Exit{Code: 137})
	if err := errors.Join(err, kill, cerr); err != nil {
		t.Fatal(err)
	}
	if len(u) != 1 || u[0].Stall <= 100*time.Millisecond || u[0].RSS < 100<<10 || u[0].Source != "cgroup2" || last.Stall < u[0].Stall {
		t.Errorf("while it ran %+v, in the end %+v", u, last)
	}
}

// start is when a process began, as /proc has it.
func start(pid int) (uint64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	s, err := p.Stat()
	return s.Starttime, err
}

func TestDefaultConfigIsValid(t *testing.T) {
	if err := cgroupbilling.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for _, ladder := range [][]string{nil, {"cgroup"}, {"procfs", "procfs"}} {
		if (cgroupbilling.Config{Ladder: ladder}).Validate() == nil {
			t.Errorf("ladder %q is valid", ladder)
		}
	}
}

func BenchmarkProcess(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	plugintest.BenchmarkBilling(b, plugintest.Command(self), plugintest.Options{Env: []string{serve + "=1"}})
}
