// Package hello declares what cells say to each other. Edit it, then run
// "cellkernel gen" (or just "cellkernel up", which does).
package hello

import "context"

//go:generate go tool cellkernel gen

// Greeter greets.
//
//cell:service
type Greeter interface {
	// Greet says hello to somebody.
	Greet(ctx context.Context, who *Name) (*Greeting, error)
}

// Name is whom to greet.
type Name struct {
	Name string
}

// Greeting is what was said, and by which process.
type Greeting struct {
	Text string
	PID  int64
}
