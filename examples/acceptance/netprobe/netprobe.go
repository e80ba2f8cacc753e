// Package netprobe declares the cells with which the acceptance tests try
// several machines: an echo that notes what it was asked, and a caller.
package netprobe

import (
	"context"

	"golang.org/x/sys/unix"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Echo answers and says where it runs.
//
//cell:service
type Echo interface {
	// Read may be repeated.
	//
	//cell:idempotent
	Read(ctx context.Context, ball *Ball) (*Ball, error)
	// Write may not.
	Write(ctx context.Context, ball *Ball) (*Ball, error)
	// Seen says what was written since the last time it was asked.
	Seen(ctx context.Context, none *None) (*Seen, error)
}

// Caller calls an echo. There is one load at a time.
//
//cell:service
type Caller interface {
	// Expect begins a call in the background, of which Reached tells.
	Expect(ctx context.Context, goal *Goal) (*None, error)
	// Reached waits for the end of the last call that Expect began.
	Reached(ctx context.Context, none *None) (*Outcome, error)
	// Start begins a load.
	Start(ctx context.Context, plan *Plan) (*None, error)
	// Report says how the load is going.
	Report(ctx context.Context, none *None) (*Report, error)
	// Stop ends the load, waits for its calls, and says how they went.
	Stop(ctx context.Context, none *None) (*Report, error)
}

// A Ball comes back.
type Ball struct {
	ID   uint64
	Body []byte
	By   string // who answered
}

// None is nothing.
type None struct{}

// Seen counts the ids that were written.
type Seen struct {
	IDs   uint64 `json:"ids"`
	Twice uint64 `json:"twice"` // more than once
}

// A Goal is a cell to call once.
type Goal struct {
	Cell string `json:"cell"`
	MS   uint32 `json:"ms"` // deadline
}

// An Outcome is how one call ended.
type Outcome struct {
	Begun int64  `json:"begun"` // see Now
	Ended int64  `json:"ended"`
	By    string `json:"by"`
	Error string `json:"error"`
}

// A Plan is a load: calls at a fixed rate, whatever becomes of them, or a
// number of callers that call one after the other.
type Plan struct {
	Cell    string `json:"cell"`
	Rate    uint32 `json:"rate"`    // calls/s, or
	Callers uint32 `json:"callers"` // so many at once
	Calls   uint32 `json:"calls"`   // after which it ends by itself; 0: not
	MS      uint32 `json:"ms"`      // deadline of a call
	Bytes   uint32 `json:"bytes"`   // of each ball
	Writes  bool   `json:"writes"`  // every other call is a write
	Fresh   uint32 `json:"fresh"`   // every so many calls one is over a link of its own; 0: none
}

// A Report says how the calls of a load went.
type Report struct {
	Calls       uint64   `json:"calls"`
	OK          uint64   `json:"ok"`
	Unavailable uint64   `json:"unavailable"`
	Deadline    uint64   `json:"deadline"`
	Other       uint64   `json:"other"`   // errors of another kind
	Fresh       uint64   `json:"fresh"`   // calls over a link of their own that ended well
	LateUS      int64    `json:"late_us"` // the most by which a call outlived its deadline
	MS          int64    `json:"ms"`      // for which it has called
	P50US       float64  `json:"p50_us"`  // of those that ended well
	P99US       float64  `json:"p99_us"`
	Names       []string `json:"names"`  // who answered,
	Counts      []uint64 `json:"counts"` // how often
	Texts       []string `json:"texts"`  // some of the errors
}

// Failed counts the calls that did not end well.
func (r *Report) Failed() uint64 { return r.Unavailable + r.Deadline + r.Other }

// Share is the part, 0 to 1, of the answers that came from one name.
func (r *Report) Share(name string) float64 {
	for i, n := range r.Names {
		if n == name && r.OK > 0 {
			return float64(r.Counts[i]) / float64(r.OK)
		}
	}
	return 0
}

// Now reads the clock that all processes of a machine share, in ns.
func Now() (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano(), err
}
