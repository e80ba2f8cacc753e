// Package node declares what kernels say to each other, as the cell "golgi"
// of each node. There is no second protocol between nodes: these are calls
// like all others, over links that are secured like all others.
package node

import (
	"context"

	"github.com/cellkernel/cellkernel/sdk/cell"
)

//go:generate go run github.com/cellkernel/cellkernel/cmd/cellkernel gen

// Node is served by every kernel.
//
//cell:service
type Node interface {
	// Ping says who answers.
	//
	//cell:idempotent
	Ping(ctx context.Context, p *Probe) (*Pulse, error)
	// Describe lists the methods of a cell that this node serves to others.
	//
	//cell:idempotent
	Describe(ctx context.Context, q *Question) (*Description, error)
	// Receipts is held open by a kernel whose cells call those of this node, for
	// as long as they do: what they use is agreed on here. What slips say is
	// declared in kernel/books.
	Receipts(ctx context.Context, in cell.Receiver[Slip], out cell.Sender[Slip]) error
}

// A Slip is one message about receipts.
type Slip struct {
	Body []byte // canonical binary: books.ParseMessage
}

// A Probe asks for a sign of life.
type Probe struct{}

// A Pulse is a sign of life.
type Pulse struct {
	Node     string // the id
	Name     string // of the node, for people
	Version  string // of its kernel
	UptimeMS uint64
}

// A Question names a cell.
type Question struct {
	Cell string
}

// A Description says what a cell serves.
type Description struct {
	Replicas uint32
	Methods  []Method
}

// A Method is one method of a cell.
type Method struct {
	Service string
	Name    string
	Shape   uint8 // a cell.Shape
}
