// Package load declares what the coordinator asks of its workers.
package load

import (
	"context"
	"hash/crc32"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Worker does work that costs a known amount.
//
//cell:service
type Worker interface {
	// Echo sends back what it got.
	Echo(ctx context.Context, ping *Ping) (*Ping, error)
	// Work looks at every byte of the payload.
	Work(ctx context.Context, job *Job) (*Result, error)
	// Burn uses CPU. One replica burns for one call at a time.
	Burn(ctx context.Context, task *Task) (*Burnt, error)
	// Count says what this replica has done so far. It does not count itself.
	Count(ctx context.Context, query *Query) (*Counts, error)
}

// A Ping is a payload with a number.
type Ping struct {
	ID      uint64
	Payload []byte
}

// A Job is a payload to look at.
type Job struct {
	ID         uint64
	Iterations uint32
	Payload    []byte
}

// A Result answers a Job.
type Result struct {
	ID        uint64
	Processed uint32 // the job's iterations
	Checksum  uint32 // of its payload: see Checksum
}

// A Task is CPU to burn.
type Task struct {
	ID     uint64
	Micros uint32
}

// Burnt says how much CPU the thread used.
type Burnt struct {
	ID     uint64
	Micros uint32
}

// A Query asks for counters.
type Query struct{}

// Counts are the counters of one replica since it started.
type Counts struct {
	Replica   uint32
	Calls     uint64 // that were answered
	CPUMicros uint64 // of the whole process, user and system
}

// Checksum returns the CRC-32C of payload.
func Checksum(payload []byte) uint32 {
	return crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))
}
