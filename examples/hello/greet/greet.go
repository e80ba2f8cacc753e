// Package greet declares what the cells of this example say to each other.
package greet

import (
	"context"

	"github.com/cellkernel/cellkernel/sdk/cell"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Greeter is polite.
//
//cell:service
type Greeter interface {
	// Hello greets somebody.
	//
	//cell:idempotent
	Hello(ctx context.Context, who *Person) (*Greeting, error)
	// Everybody greets each name in turn.
	Everybody(ctx context.Context, who *People, out cell.Sender[Greeting]) error
}

// A Person is whom to greet.
type Person struct {
	Name string
}

// People are greeted one by one.
type People struct {
	Names []string
}

// A Greeting is what was said, and by whom.
type Greeting struct {
	Text    string
	Replica uint32
}
