package supervisor

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/sdk"
)

// An Exit says how a process ended and what it used.
type Exit struct {
	sdk.Exit
	// Signal is what killed the process; 0 if it exited by itself.
	Signal syscall.Signal
}

// String says it in words: "exit status 3" or "killed by SIGKILL".
func (e Exit) String() string {
	if e.Signal == 0 {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	if name := unix.SignalName(e.Signal); name != "" {
		return "killed by " + name
	}
	return fmt.Sprintf("killed by signal %d", int(e.Signal))
}

// exitOf translates what wait4 reported.
func exitOf(s *os.ProcessState) Exit {
	e := Exit{Exit: sdk.Exit{CPU: s.UserTime() + s.SystemTime()}}
	if ru, ok := s.SysUsage().(*syscall.Rusage); ok {
		e.MaxRSS = int64(ru.Maxrss) << 10 // kilobytes on Linux
	}
	switch ws, ok := s.Sys().(syscall.WaitStatus); {
	case ok && ws.Signaled():
		e.Signal = ws.Signal()
		e.Code = 128 + int(e.Signal)
	case ok:
		e.Code = ws.ExitStatus()
	default:
		e.Code = s.ExitCode()
	}
	return e
}

// A Reading is what a process and its descendants use at a moment.
type Reading struct {
	CPU    time.Duration // since the start; never goes back
	RSS    int64         // bytes resident now; 0 once the process has ended
	Stall  time.Duration // as in [sdk.Usage]: only a billing reads it
	Source string        // "cgroup2", "procfs" or, after the end, "rusage"
}
