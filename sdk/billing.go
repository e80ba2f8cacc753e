package sdk

import (
	"context"
	"time"
)

// A Billing meters workloads with absolute counters that never go back.
type Billing interface {
	// Place prepares a meter for a process that does not exist yet, so that
	// it is born inside it.
	Place(ctx context.Context, w Workload) (Placement, error)
	// Usage reads the meters of live processes. It needs no state that a
	// restart of the plugin would lose. A process it can not find is left out.
	Usage(ctx context.Context, live []Running) ([]Usage, error)
	// Close returns the last reading of a process that has ended and gives
	// its meter back. Closing twice is no error.
	Close(ctx context.Context, r Running, exit Exit) (Usage, error)
}

// A WorkloadID names one process for its whole life: "cell/worker#2@7".
type WorkloadID string

// A Workload is a process that is about to start.
type Workload struct {
	ID     WorkloadID
	Cell   CellName
	Limits Limits
}

// Limits bound a workload. Zero means no limit.
type Limits struct {
	CPUs   float64 // cores
	Memory int64   // bytes
	Pids   int64
}

// A Placement is where a process must be started. The zero Placement means
// that the process starts like any other and is metered by other means.
type Placement struct {
	Cgroup string // absolute path of a cgroup2 directory, empty for none
	Source string // what will meter it: "cgroup2", "cpuacct", "rusage", "procfs"
	Note   string // what could not be provided, for people; empty if nothing
}

// Running is a live process to read.
type Running struct {
	ID        WorkloadID
	PID       int
	StartTime uint64 // field 22 of /proc/PID/stat: guards against reused pids
	Placement Placement
}

// Usage is one absolute reading.
type Usage struct {
	ID     WorkloadID
	CPU    time.Duration // all CPU time since the start, children included
	RSS    int64         // bytes resident now
	Stall  time.Duration // since the start, for which some of it wanted a CPU and had none (PSI); 0 where nobody counts that
	Source string        // as in [Placement]
}

// Exit is what the kernel knows about a process that ended.
type Exit struct {
	Code   int           // exit code, or 128 + signal
	CPU    time.Duration // user and system time as wait4 reported it
	MaxRSS int64         // bytes
}
