package plugintest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/internal/procstat"
	"github.com/cellkernel/cellkernel/sdk"
)

func billingClauses() []clause {
	return []clause{
		{"billing/place", "places a workload before it exists", checkPlace, false},
		{"billing/usage", "measures the CPU time of a busy process within a quarter", onJob(checkUsage), false},
		{"billing/monotonic", "never counts back", onJob(checkMonotonic), false},
		{"billing/unknown", "leaves out a process that it can not find", checkUnknown, false},
		{"billing/reused", "leaves out a process whose number is another's now", onJob(checkReused), false},
		{"billing/close", "closes with a reading not below the last, and closing again is no error", onJob(checkClose), false},
		{"billing/close-unknown", "closes what it never saw", checkCloseUnknown, false},
	}
}

func openBilling(e *env) (sdk.Billing, error) {
	c, err := e.open()
	if err != nil {
		return nil, err
	}
	return c.Billing()
}

// A job is a busy process that was born where the billing said.
type job struct {
	e       *env
	b       sdk.Billing
	cmd     *exec.Cmd
	running sdk.Running
}

func onJob(check func(*job) error) func(*env) error {
	return func(e *env) error {
		b, err := openBilling(e)
		if err != nil {
			return err
		}
		j := &job{e: e, b: b}
		if err := j.start(); err != nil {
			return err
		}
		e.later(j.end)
		return check(j)
	}
}

// start lets a shell move itself to its place before it begins to work.
func (j *job) start() error {
	id := sdk.WorkloadID(fmt.Sprintf("cell/plugintest#1@%d", time.Now().UnixNano()))
	place, err := j.b.Place(j.e.ctx, sdk.Workload{ID: id, Cell: "plugintest"})
	if err != nil {
		return err
	}
	script := "while :; do :; done"
	if place.Cgroup != "" {
		script = fmt.Sprintf("echo $$ > '%s' && %s", filepath.Join(place.Cgroup, "cgroup.procs"), script)
	}
	j.cmd = exec.Command("/bin/sh", "-c", script)
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := j.cmd.Start(); err != nil {
		return skipError(err.Error())
	}
	start, err := startTime(j.cmd.Process.Pid)
	j.running = sdk.Running{ID: id, PID: j.cmd.Process.Pid, StartTime: start, Placement: place}
	return err
}

// end kills the job and removes its place, which not every clause closes.
func (j *job) end() {
	if j.cmd.ProcessState == nil {
		j.cmd.Process.Kill()
		j.cmd.Wait() // a killed process is an error
	}
	if dir := j.running.Placement.Cgroup; dir != "" {
		os.Remove(dir) // it may be gone
	}
}

// startTime is field 22 of proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	st, err := procstat.Read(pid)
	return st.StartTime, err
}

// read returns the reading of the job alone.
func (j *job) read() (sdk.Usage, error) {
	us, err := j.b.Usage(j.e.ctx, []sdk.Running{j.running})
	if err != nil {
		return sdk.Usage{}, err
	}
	if len(us) != 1 || us[0].ID != j.running.ID {
		return sdk.Usage{}, fmt.Errorf("got readings %v of one live process", us)
	}
	return us[0], nil
}

// work waits until the kernel of the machine has seen the job run for d.
func (j *job) work(d time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := cpuTime(j.running.PID)
		if err != nil || got >= d {
			return err
		}
		select {
		case <-tick.C:
		case <-j.e.ctx.Done():
			return skipError("the machine is too busy to measure anything")
		}
	}
}

func cpuTime(pid int) (time.Duration, error) {
	st, err := procstat.Read(pid)
	return st.Own, err
}

func checkPlace(e *env) error {
	b, err := openBilling(e)
	if err != nil {
		return err
	}
	p, err := b.Place(e.ctx, sdk.Workload{ID: "cell/plugintest#1@1", Cell: "plugintest", Limits: sdk.Limits{CPUs: 0.5, Memory: 64 << 20, Pids: 16}})
	if err != nil {
		return err
	}
	if p.Cgroup == "" {
		return nil
	}
	if info, err := os.Stat(p.Cgroup); err != nil || !info.IsDir() {
		return fmt.Errorf("placed in %q, which is no directory: %w", p.Cgroup, err)
	}
	_, err = b.Close(e.ctx, sdk.Running{ID: "cell/plugintest#1@1", PID: 1 << 21, Placement: p}, sdk.Exit{})
	return err
}

func checkUsage(j *job) error {
	if err := j.work(400 * time.Millisecond); err != nil {
		return err
	}
	before, err := cpuTime(j.running.PID)
	if err != nil {
		return err
	}
	got, err := j.read()
	if err != nil {
		return err
	}
	after, err := cpuTime(j.running.PID)
	if err != nil {
		return err
	}
	if got.CPU < before*3/4 || got.CPU > after*5/4+20*time.Millisecond {
		return fmt.Errorf("measured %v of a process that ran between %v and %v", got.CPU, before, after)
	}
	return nil
}

func checkMonotonic(j *job) error {
	var last time.Duration
	for i := range 50 {
		u, err := j.read()
		if err != nil {
			return err
		}
		if u.CPU < last {
			return fmt.Errorf("reading %d is %v, after %v", i+1, u.CPU, last)
		}
		last = u.CPU
	}
	return nil
}

func checkUnknown(e *env) error {
	b, err := openBilling(e)
	if err != nil {
		return err
	}
	us, err := b.Usage(e.ctx, []sdk.Running{{ID: "cell/nobody#1@1", PID: 1 << 22, StartTime: 1}})
	if err == nil && len(us) != 0 {
		err = fmt.Errorf("got readings %v of a process that does not exist", us)
	}
	return err
}

func checkReused(j *job) error {
	other := j.running
	other.ID, other.StartTime, other.Placement = "cell/another#1@1", other.StartTime+1, sdk.Placement{}
	us, err := j.b.Usage(j.e.ctx, []sdk.Running{other})
	if err == nil && len(us) != 0 {
		err = fmt.Errorf("got readings %v of a process that had this number before", us)
	}
	return err
}

func checkClose(j *job) error {
	if err := j.work(100 * time.Millisecond); err != nil {
		return err
	}
	last, err := j.read()
	if err != nil {
		return err
	}
	j.end()
	usage := j.cmd.ProcessState.SysUsage().(*syscall.Rusage) // on Linux it is
	exit := sdk.Exit{
		Code:   137,
		CPU:    time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		MaxRSS: int64(usage.Maxrss) << 10,
	}
	for i := range 2 {
		ctx, cancel := context.WithTimeout(j.e.ctx, 10*time.Second)
		final, err := j.b.Close(ctx, j.running, exit)
		cancel()
		if err != nil {
			return fmt.Errorf("close %d: %w", i+1, err)
		}
		if final.CPU < last.CPU {
			return fmt.Errorf("close %d: the last reading is %v, after %v", i+1, final.CPU, last.CPU)
		}
	}
	return nil
}

func checkCloseUnknown(e *env) error {
	b, err := openBilling(e)
	if err != nil {
		return err
	}
	_, err = b.Close(e.ctx, sdk.Running{ID: "cell/nobody#1@1", PID: 1 << 22, StartTime: 1}, sdk.Exit{CPU: time.Second})
	return err
}
