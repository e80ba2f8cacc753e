// Package probe2 is the next version of package probe's target: a field and a
// method were added.
package probe2

import "context"

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
	// Version is new.
	Version(ctx context.Context, none *None) (*Item, error)
}

// An Item is read or written.
type Item struct {
	ID    uint64
	Text  string
	Added uint32 // is new
}

// None is nothing.
type None struct{}

// Vitals are what a process holds.
type Vitals struct {
	Goroutines uint32 `json:"goroutines"`
	HeapBytes  uint64 `json:"heap_bytes"`
}
