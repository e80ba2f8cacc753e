// Package probe declares the cells with which the acceptance tests try a
// kernel: a target that is called, and a load that calls it.
package probe

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Target is what loads call.
//
//cell:service
type Target interface {
	// Read may be repeated.
	//
	//cell:idempotent
	Read(ctx context.Context, item *Item) (*Item, error)
	// Write may not.
	Write(ctx context.Context, item *Item) (*Item, error)
	// Vitals says what this process holds, after a garbage collection.
	Vitals(ctx context.Context, none *None) (*Vitals, error)
	// Hang never returns, whatever becomes of its context.
	Hang(ctx context.Context, none *None) (*None, error)
	// Shout begins to write to the log, without end.
	Shout(ctx context.Context, none *None) (*None, error)
}

// Load calls a target, at a fixed rate or as fast as it answers.
//
//cell:service
type Load interface {
	// Start begins to call. There is one load at a time.
	Start(ctx context.Context, plan *Plan) (*None, error)
	// Stop ends the load, waits for its calls, and says how they went.
	Stop(ctx context.Context, none *None) (*Report, error)
	// Later makes one call after a while, in the background.
	Later(ctx context.Context, later *Later) (*None, error)
	// Outcome waits for the call of Later.
	Outcome(ctx context.Context, none *None) (*Outcome, error)
	// Sample makes calls one after the other, for as long as the deadline says.
	Sample(ctx context.Context, plan *Plan) (*Times, error)
	// Cycle attaches to the kernel, opens a link with one call and closes it, again and again.
	Cycle(ctx context.Context, cycles *Cycles) (*None, error)
	// Hang makes calls of Hang until their deadlines have passed.
	Hang(ctx context.Context, plan *Plan) (*None, error)
	// Vitals says what this process holds, after a garbage collection.
	Vitals(ctx context.Context, none *None) (*Vitals, error)
}

// An Item is read or written.
type Item struct {
	ID   uint64
	Text string
}

// None is nothing.
type None struct{}

// Vitals are what a process holds.
type Vitals struct {
	Goroutines uint32 `json:"goroutines"`
	HeapBytes  uint64 `json:"heap_bytes"`
}

// A Plan is a load: reads and writes in turn.
type Plan struct {
	Cell       string `json:"cell"`
	Rate       uint32 `json:"rate"` // calls/s; of Hang: calls
	DeadlineMS uint32 `json:"deadline_ms"`
	InFlight   uint32 `json:"in_flight"` // so many callers instead of a rate, each calls again once it has its answer
}

// A Report says how the calls of a load went.
type Report struct {
	Calls       uint64   `json:"calls"`
	ReadErrors  uint64   `json:"read_errors"`
	WriteErrors uint64   `json:"write_errors"`
	Unavailable uint64   `json:"unavailable"` // of the write errors
	LateUS      int64    `json:"late_us"`     // the most by which a call outlived its deadline
	Begin       int64    `json:"begin"`       // when it started: see Now
	Answered    []uint32 `json:"answered"`    // calls that ended well, per tenth of a second since then
	Texts       []string `json:"texts"`       // some of the errors
}

// Cycles are links to open and close.
type Cycles struct {
	Cell  string `json:"cell"`
	Count uint32 `json:"count"`
}

// Later is a call to make after a while.
type Later struct {
	Cell    string `json:"cell"`
	AfterMS uint32 `json:"after_ms"`
}

// An Outcome is how a call of Later ended.
type Outcome struct {
	At    int64  `json:"at"` // when it ended: see Now
	Error string `json:"error"`
}

// Times are latencies of calls.
type Times struct {
	P50US  float64 `json:"p50_us"`
	P99US  float64 `json:"p99_us"`
	Calls  uint64  `json:"calls"`
	Errors uint64  `json:"errors"`
}

// Take returns the vitals of this process. It collects twice: what pools hold
// survives the first collection.
func Take() *Vitals {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return &Vitals{Goroutines: uint32(runtime.NumGoroutine()), HeapBytes: s.HeapAlloc}
}

// VitalsOf is the address, without a file, at which the plugin with that
// process number tells its vitals.
func VitalsOf(pid int) string { return fmt.Sprintf("@cellkernel-accept-%d", pid) }

// Now reads the clock that all processes of a machine share, in ns.
func Now() (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano(), err
}
