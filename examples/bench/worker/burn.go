package main

import (
	"runtime"

	"github.com/cellkernel/cellkernel/examples/bench/load"
	"golang.org/x/sys/unix"
)

const maxBurn = 1_000_000 // microseconds of one call

// burn works until this thread has used so many microseconds of CPU, however
// often it was preempted meanwhile, and returns how many it were.
func burn(micros uint32) (uint32, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block [4 << 10]byte
	begin, err := threadCPU()
	if err != nil {
		return 0, err
	}
	want := int64(min(micros, maxBurn)) * 1000
	for {
		block[0] ^= byte(load.Checksum(block[:]))
		now, err := threadCPU()
		if err != nil {
			return 0, err
		}
		if used := now - begin; used >= want {
			return uint32(used / 1000), nil
		}
	}
}

// threadCPU returns the CPU time of the calling thread in ns.
func threadCPU() (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return ts.Nano(), err
}

// processCPU returns the CPU time of this process in microseconds.
func processCPU() (uint64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return uint64(u.Utime.Nano()+u.Stime.Nano()) / 1000, nil
}
