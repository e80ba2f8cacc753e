// Package gentest is a package with every kind of service and field. Its
// generated files are the generator's golden output, and tests of what they
// do are here.
package gentest

import (
	"context"
	"encoding/json"
	"time"

	"github.com/cellkernel/cellkernel/sdk/cell"
)

// Kitchen has a method of every shape.
//
//cell:service
type Kitchen interface {
	// Cook is a call like any other.
	//
	// It takes a while.
	Cook(ctx context.Context, job *Job) (*Dish, error)
	// Taste may be repeated.
	//
	//cell:idempotent
	Taste(ctx context.Context, dish *Dish) (*Nothing, error)
	// Watch streams from the server.
	Watch(ctx context.Context, job *Job, out cell.Sender[Dish]) error
	// Collect streams to the server.
	Collect(ctx context.Context, in cell.Receiver[Job]) (*Dish, error)
	Talk(ctx context.Context, in cell.Receiver[Job], out cell.Sender[Dish]) error
}

// Pantry shares messages with Kitchen.
//
//cell:service
type Pantry interface {
	Store(context.Context, *Everything) (*Job, error)
	Grow(ctx context.Context, flat *Tree) (*Tree, error)
}

// A Job is what benchmarks send.
type Job struct {
	ID         uint64 `json:"id"`
	Iterations uint32
	Name       string
	Data       []byte
}

// A Dish is a reply.
type Dish struct {
	ID   uint64
	Sum  uint64
	Jobs []Job
}

// Nothing says nothing.
type Nothing struct{}

// A Colour is a named number, a Label a named string.
type (
	Colour int16
	Label  string
	Flag   bool
	Ratio  float64
	Blob   []byte
	Labels []string
)

// Everything has a field of every type.
type Everything struct {
	Bool                                   bool
	I8                                     int8
	I16                                    int16
	I32                                    int32
	I64                                    int64
	Int                                    int
	U8                                     uint8
	U16                                    uint16
	U32                                    uint32
	U64                                    uint64
	Uint                                   uint
	F32                                    float32
	F64                                    float64
	String                                 string
	Bytes                                  []byte
	Colour                                 Colour
	Label                                  Label
	Flag                                   Flag
	Ratio                                  Ratio
	Blob                                   Blob
	Raw                                    json.RawMessage
	Wait                                   time.Duration
	At                                     time.Time
	Month                                  time.Month
	Bools                                  []bool
	I8s                                    []int8
	I16s                                   []int16
	I32s                                   []int32
	I64s                                   []int64
	Ints                                   []int
	U16s                                   []uint16
	U32s                                   []uint32
	U64s                                   []uint64
	Uints                                  []uint
	F32s                                   []float32
	F64s                                   []float64
	Strings                                []string
	Labels                                 Labels
	Colours                                []Colour
	Flags                                  []Flag
	Waits                                  []time.Duration
	Point                                  Point
	Maybe                                  *Point
	Points                                 []Point
	Pointers                               []*Point
	HTTPServerID                           uint8
	Table, Namespace, Root, Struct, Double int32 // words of the .fbs language
	Private                                int   `cell:"-"`
}

// A Point is nested in others.
type Point struct {
	X, Y int32
	Tag  string
	Past []Stamp
}

// A Stamp has no offsets: it is scalars alone.
type Stamp struct {
	At time.Time `json:"when,omitempty"`
	N  int8
}

// A Tree has children of its own type.
type Tree struct {
	Name  string
	Left  *Tree
	Right *Tree
	Rest  []Tree
	More  []*Tree
	Where Point
}
