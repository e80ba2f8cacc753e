package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/internal/procstat"
)

// A Process is a child of the kernel together with everything it starts. It
// is safe for concurrent use.
//
// When the child itself ends, for whatever reason, its descendants are killed
// and its cgroup is removed; only then does the process count as ended.
type Process struct {
	// Stdout and Stderr are the read ends of the output pipes, the caller's to
	// read until the end and to close. nil where the [Spec] gave files.
	Stdout, Stderr *os.File

	name      string
	spawner   *Spawner
	seq       uint64
	proc      *os.Process
	pidfd     *os.File // nil where the system has none
	startTime uint64
	group     cgroup // where it was born; empty for none
	ownGroup  bool   // the directory is ours to remove
	detached  bool   // no part of the run: it has no descendants that are

	exited chan struct{} // closed when the fields below are final
	exit   Exit
	final  Reading

	mu     sync.Mutex // guards reaped, and the pid while it is false
	reaped bool
}

// PID returns the process id. It may have been reused after the end.
func (p *Process) PID() int { return p.proc.Pid }

// StartTime returns field 22 of /proc/PID/stat, in clock ticks since boot.
// Together with the pid it names the process for good.
func (p *Process) StartTime() uint64 { return p.startTime }

// Cgroup returns the directory the process was born in, empty for none.
func (p *Process) Cgroup() string { return string(p.group) }

// PidFD returns a new descriptor of the process, close-on-exec, that polls
// readable when it ends. It is the caller's to close.
func (p *Process) PidFD() (*os.File, error) {
	if p.pidfd == nil {
		return nil, errors.ErrUnsupported
	}
	var fd int
	var derr error
	rc, err := p.pidfd.SyscallConn()
	if err == nil {
		err = rc.Control(func(own uintptr) { fd, derr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	}
	if err = errors.Join(err, derr); err != nil {
		return nil, fmt.Errorf("pidfd of %q: %w", p.name, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Exited returns a channel that is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Exit returns how the process ended. Call it after [Process.Exited].
func (p *Process) Exit() Exit {
	<-p.exited
	return p.exit
}

// Wait blocks until the process has ended, or ctx is done.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.exited:
		return p.exit, nil
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// Signal sends sig to the process and to those of its descendants that are
// in its process group. After the end it does nothing.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return nil
	}
	err := unix.Kill(-p.proc.Pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Kill ends the process and all its descendants, those included that left
// its process group or session or ignore signals, and waits for it. What is
// stuck inside the operating system is an error after a few seconds.
func (p *Process) Kill() error {
	deadline := time.Now().Add(killWait)
	err := p.killAll(deadline)
	t := time.NewTimer(time.Until(deadline) + killWait)
	defer t.Stop()
	select {
	case <-p.exited:
		return nil
	case <-t.C:
		return errors.Join(fmt.Errorf("kill %q: process %d does not end", p.name, p.PID()), err)
	}
}

// killAll sends SIGKILL to whatever belongs to p.
func (p *Process) killAll(deadline time.Time) error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	if p.group == "" && !p.detached {
		_, err := killMarked(processMark(p.spawner.RunID(), p.seq), time.Until(deadline))
		return err
	}
	if p.group == "" {
		return nil
	}
	if err := p.group.kill(deadline); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil // removed: nothing was left in it
}

// reap waits for the process's end and clears up behind it. One goroutine
// calls it.
func (p *Process) reap() {
	p.awaitExit()
	p.bury()
	close(p.exited)
}

// awaitExit blocks until the child itself has ended. It stays a zombie.
func (p *Process) awaitExit() {
	ended := func(kind, id, flags int) bool {
		var info unix.Siginfo
		err := unix.Waitid(kind, id, &info, unix.WEXITED|unix.WNOWAIT|flags, nil)
		return errors.Is(err, unix.ECHILD) || err == nil && info.Signo != 0
	}
	if p.pidfd != nil {
		if rc, err := p.pidfd.SyscallConn(); err == nil {
			// Read waits in the runtime's poller until the function is content.
			err = rc.Read(func(fd uintptr) bool { return ended(unix.P_PIDFD, int(fd), unix.WNOHANG) })
			if err == nil {
				return
			}
		}
	}
	for !ended(unix.P_PID, p.proc.Pid, 0) { // interrupted; this way blocks a thread
	}
}

// bury kills what the child left behind, collects the child and removes its
// cgroup.
func (p *Process) bury() {
	log, deadline := p.spawner.opt.Log, time.Now().Add(killWait)
	// While the child is a zombie, its process group's number is taken.
	_ = p.Signal(unix.SIGKILL)
	p.final = p.measure()
	p.collect()
	if err := p.killRest(deadline); err != nil {
		log.Warn("kill what a process left behind", "process", p.name, "error", err)
	}
	if p.group != "" {
		if cpu, err := p.group.cpu(); err == nil {
			p.final = Reading{CPU: cpu, Source: "cgroup2"}
		}
	}
	if p.group == "" || p.final.Source == "procfs" {
		p.final = Reading{CPU: max(p.final.CPU, p.exit.CPU), Source: "rusage"}
	}
	if p.ownGroup {
		if err := p.group.remove(); err != nil {
			log.Warn("remove a cgroup", "process", p.name, "error", err)
		}
	}
}

// collect takes the child's exit status; from now on its pid may be reused.
func (p *Process) collect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	state, err := p.proc.Wait() // at once: it is a zombie
	p.reaped = true
	if p.pidfd != nil {
		p.pidfd.Close()
	}
	if err == nil {
		p.exit = exitOf(state)
	}
}

// killRest kills the descendants of a child that has ended.
func (p *Process) killRest(deadline time.Time) error {
	if p.detached {
		return nil
	}
	if p.group == "" {
		_, err := killMarked(processMark(p.spawner.RunID(), p.seq), time.Until(deadline))
		return err
	}
	if !p.group.populated() {
		return nil
	}
	return p.group.kill(deadline)
}

// Usage reads what the process and its descendants use. After the end it is
// the last reading.
func (p *Process) Usage() Reading {
	select {
	case <-p.exited:
		return p.final
	default:
		return p.measure()
	}
}

// measure reads the cgroup, or where there is none the process alone.
func (p *Process) measure() Reading {
	if p.group != "" {
		if cpu, err := p.group.cpu(); err == nil {
			return Reading{CPU: cpu, RSS: p.group.rss(), Source: "cgroup2"}
		}
	}
	st, err := procstat.Read(p.proc.Pid)
	if err != nil || st.StartTime != p.startTime {
		return Reading{Source: "procfs"}
	}
	return Reading{CPU: st.All, RSS: readRSS(p.proc.Pid), Source: "procfs"}
}
