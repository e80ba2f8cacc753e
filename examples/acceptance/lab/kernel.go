package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	bootWithin = 30 * time.Second
	downWithin = 30 * time.Second
	pollPause  = 25 * time.Millisecond // between two looks at ps
)

// A Kernel is one "cellkernel up" in the foreground.
type Kernel struct {
	Dir string // of its genome.toml
	PID int

	lab    *Lab
	site   *Site // where it runs; nil is this machine
	cmd    *exec.Cmd
	admin  *http.Client
	stderr tail
	stdout tail
	ready  <-chan struct{} // closed when it has said so
	ended  chan struct{}   // closed when the process has ended
	err    error           // how; valid when ended is closed
}

// A Process is an object of "ps -o json".
type Process struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Replica  int    `json:"replica"`
	PID      int    `json:"pid"`
	State    string `json:"state"`
	Restarts int    `json:"restarts"`
	UptimeMS int64  `json:"uptime_ms"`
	RSSBytes int64  `json:"rss_bytes"`
	CPUUS    int64  `json:"cpu_us"`
}

// Boot starts a kernel with the genome and waits until all is ready.
func (l *Lab) Boot(ctx context.Context, name, genome string) (*Kernel, error) {
	dir, err := l.Write(name, genome)
	if err != nil {
		return nil, err
	}
	return l.BootDir(ctx, dir)
}

// BootDir is Boot for a directory that has a genome.toml.
func (l *Lab) BootDir(ctx context.Context, dir string, args ...string) (*Kernel, error) {
	k, err := l.begin(nil, dir, args...)
	if err != nil {
		return nil, err
	}
	return k, k.Ready(ctx)
}

// begin starts a kernel and waits for nothing.
func (l *Lab) begin(at *Site, dir string, args ...string) (*Kernel, error) {
	k := &Kernel{Dir: dir, lab: l, site: at, admin: adminOf(dir), ended: make(chan struct{})}
	k.cmd = exec.Command(l.Command, append([]string{"up", filepath.Join(dir, "genome.toml")}, args...)...)
	k.cmd.Dir, k.cmd.Env, k.cmd.Stdout, k.cmd.Stderr = dir, at.environ(l), &k.stdout, &k.stderr
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // not ended by our Ctrl-C but by Close
	k.ready = k.stderr.saw("ready     node")
	if err := at.start(k.cmd); err != nil {
		return nil, fmt.Errorf("boot kernel: %w", err)
	}
	k.PID = k.cmd.Process.Pid
	l.kernels = append(l.kernels, k)
	go func() { // Close and Down wait for it
		k.err = k.cmd.Wait()
		k.admin.CloseIdleConnections()
		close(k.ended)
	}()
	return k, nil
}

// Ready waits until all is ready; else it kills the kernel.
func (k *Kernel) Ready(ctx context.Context) error {
	late := time.NewTimer(bootWithin)
	defer late.Stop()
	var err error
	select {
	case <-k.ready:
		return nil
	case <-k.ended:
		err = fmt.Errorf("it ended: %w", errors.Join(k.err, errors.New("without getting ready")))
	case <-late.C:
		err = fmt.Errorf("it is not ready after %s", bootWithin)
	case <-ctx.Done():
		err = ctx.Err()
	}
	k.kill()
	return fmt.Errorf("boot kernel: %w\n%s", err, k.stderr.String())
}

// Stderr returns what the kernel has written.
func (k *Kernel) Stderr() string { return k.stderr.String() }

// Ended reports whether the kernel's process has ended.
func (k *Kernel) Ended() bool {
	select {
	case <-k.ended:
		return true
	default:
		return false
	}
}

// kill kills the kernel and waits for its process.
func (k *Kernel) kill() {
	if !k.Ended() {
		_ = k.cmd.Process.Kill() // it may have ended meanwhile
	}
	<-k.ended
}

// Kill ends the kernel with SIGKILL and waits for its process.
func (k *Kernel) Kill() { k.kill() }

// Down ends the kernel as a user does.
func (k *Kernel) Down(ctx context.Context) error {
	if k.Ended() {
		return nil
	}
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end kernel: %w", err)
	}
	late := time.NewTimer(downWithin)
	defer late.Stop()
	select {
	case <-k.ended:
		return nil
	case <-late.C:
	case <-ctx.Done():
	}
	k.kill()
	return fmt.Errorf("end kernel: it did not drain within %s\n%s", downWithin, k.stderr.String())
}

// Command runs a subcommand for this kernel.
func (k *Kernel) Command(ctx context.Context, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	return k.lab.execute(ctx, k.Dir, k.site.environ(k.lab), exec.CommandContext(ctx, k.lab.Command, args...))
}

// PS lists the processes.
func (k *Kernel) PS(ctx context.Context) ([]Process, error) {
	r, err := k.Command(ctx, "ps", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []Process
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		return nil, fmt.Errorf("read ps: exit code %d: %w\n%s", r.Code, err, r.Stderr)
	}
	return list, nil
}

// Process returns one process of ps; replica is 0 for plugins.
func (k *Kernel) Process(ctx context.Context, kind, name string, replica int) (Process, error) {
	list, err := k.PS(ctx)
	if err != nil {
		return Process{}, err
	}
	for _, p := range list {
		if p.Kind == kind && p.Name == name && p.Replica == replica {
			return p, nil
		}
	}
	return Process{}, fmt.Errorf("find %s %s#%d: ps does not list it", kind, name, replica)
}

// Await looks at ps until ok says so, and returns how long that took.
func (k *Kernel) Await(ctx context.Context, within time.Duration, what string, ok func([]Process) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	begin := time.Now()
	pause := time.NewTicker(pollPause)
	defer pause.Stop()
	for {
		list, err := k.PS(ctx)
		if err == nil && ok(list) {
			return time.Since(begin), nil
		}
		select {
		case <-ctx.Done():
			return time.Since(begin), fmt.Errorf("wait until %s: not within %s: %v", what, within, list)
		case <-pause.C:
		}
	}
}

// Call makes a call with JSON and decodes the reply into out.
func (k *Kernel) Call(ctx context.Context, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	r, err := k.Command(ctx, "call", method, string(body))
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("call %s: exit code %d: %s", method, r.Code, r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), out); err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	return nil
}

// Signal sends a signal to one of this kernel's processes.
func (k *Kernel) Signal(p Process, sig syscall.Signal) error {
	live, err := k.lab.Processes()
	if err != nil {
		return err
	}
	for _, x := range live {
		if x.PID == p.PID {
			return x.signal(sig)
		}
	}
	return fmt.Errorf("signal %s#%d: process %d is not of this lab", p.Name, p.Replica, p.PID)
}

// Text runs the command until it has written text, on standard output or
// error, and returns how long that took; then it waits for the end of the
// command, which is to be 0.
func (l *Lab) Text(ctx context.Context, within time.Duration, text string, args ...string) (took time.Duration, r Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, l.Command, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = l.Repo, l.environ(), &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 15 * time.Second
	onOut, onErr, ended := stdout.saw(text), stderr.saw(text), make(chan struct{})
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, r, fmt.Errorf("start command: %w", err)
	}
	var wait error
	go func() { wait = cmd.Wait(); close(ended) }()
	select {
	case <-onOut:
	case <-onErr:
	case <-ended:
	}
	took = time.Since(begin)
	<-ended
	r = Result{Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(begin), Code: cmd.ProcessState.ExitCode()}
	if wait != nil {
		return took, r, fmt.Errorf("run %v: %w\n%s", args, errors.Join(wait, ctx.Err()), r.Stderr)
	}
	select {
	case <-onOut:
	case <-onErr:
	default:
		return took, r, fmt.Errorf("run %v: it never wrote %q\n%s", args, text, r.Stderr)
	}
	return took, r, nil
}
