// Package api declares the cell that the end-to-end tests talk to.
package api

import "context"

//go:generate go tool cellkernel gen

// Probe does, inside the mesh, what a test tells it from outside.
//
//cell:service
type Probe interface {
	// Echo answers with its text and with who answers.
	//
	//cell:idempotent
	Echo(ctx context.Context, in *Text) (*Reply, error)
	// Work is Echo for those who mind being called twice.
	Work(ctx context.Context, in *Text) (*Reply, error)
	// Sleep answers after a while, also when it drains.
	Sleep(ctx context.Context, in *Pause) (*Reply, error)
	// Fail answers with the error whose code the text names; else it panics.
	Fail(ctx context.Context, in *Text) (*Reply, error)
	// Relay calls Echo of another cell, under the name this cell knows it by.
	Relay(ctx context.Context, in *Route) (*Outcome, error)
	// Load calls another cell in the background until Tally stops it.
	Load(ctx context.Context, in *Order) (*Report, error)
	// Tally says what became of the calls so far.
	Tally(ctx context.Context, in *Query) (*Report, error)
	// Churn attaches to the kernel, calls a cell and leaves, so many times.
	Churn(ctx context.Context, in *Cycles) (*Report, error)
	// Vitals counts what this process holds.
	Vitals(ctx context.Context, in *Query) (*Health, error)
}

// Text is what to echo.
type Text struct {
	Text string
}

// Reply says who answered.
type Reply struct {
	Text    string
	Cell    string
	Replica int32
	PID     int64
}

// Pause is how long to sleep.
type Pause struct {
	MS int64
}

// Route is whom to call, and how long to wait.
type Route struct {
	To   string
	Text string
	MS   int64
}

// Outcome is a reply, or the error that came instead.
type Outcome struct {
	Reply    *Reply
	Code     string
	Executed string
	Error    string
	TookMS   int64
}

// Order describes a load. Method is echo, work, put1 or put2.
type Order struct {
	To         string
	Method     string
	Callers    int32
	DeadlineMS int64
	PauseUS    int64
}

// Query asks for a tally; Stop also ends the load.
type Query struct {
	Stop bool
}

// Report counts calls by how they ended.
type Report struct {
	Calls       int64
	OK          int64
	Unavailable int64
	Deadline    int64
	Other       int64
	LateMS      int64 // the most that a call ended after its deadline
	LongestMS   int64
	First       string // the first error
}

// Cycles says how often to open and close a link to whom.
type Cycles struct {
	To    string
	Count int32
}

// Health is what a process holds.
type Health struct {
	PID        int64
	Goroutines int32
	FDs        int32
}
