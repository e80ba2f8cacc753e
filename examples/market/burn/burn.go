// Package burn declares what is for sale in this example: CPU time.
package burn

import "context"

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Burner computes for others.
//
//cell:service
type Burner interface {
	// Burn computes for about so long and says who did it.
	Burn(ctx context.Context, t *Task) (*Ash, error)
}

// A Task is how much to compute.
type Task struct {
	Micros int64 // of CPU time
}

// Ash is what is left of a task.
type Ash struct {
	Replica uint32
	Rounds  uint64
}
