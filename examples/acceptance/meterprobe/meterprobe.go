// Package meterprobe declares the cell with which the acceptance tests try how
// CPU is metered and whom it is split over.
package meterprobe

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/sdk/cell"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Burner uses what it is asked to.
//
//cell:service
type Burner interface {
	// Burn uses as much CPU as the job says, by the clock of its thread.
	Burn(ctx context.Context, job *Job) (*Done, error)
	// Spin uses a core for as long as the job says, by the clock on the wall.
	Spin(ctx context.Context, job *Job) (*Done, error)
	// Sleep sleeps so long.
	Sleep(ctx context.Context, job *Job) (*Done, error)
	// Hold waits until its caller has said all.
	Hold(ctx context.Context, jobs cell.Receiver[Job]) (*Done, error)
}

// A Job is some work.
type Job struct {
	MS uint32
}

// Done says nothing.
type Done struct{}

// Spin uses a core until it is over.
func Spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for range 10_000 {
		}
	}
}

// CPU is the CPU time of this process (unix.RUSAGE_SELF) or of this thread
// (unix.RUSAGE_THREAD).
func CPU(who int) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(who, &ru); err != nil {
		panic(err) // has no way to fail
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
