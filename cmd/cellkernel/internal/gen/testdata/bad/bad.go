// Package bad has one of each mistake. The comments say what is reported on
// their line.
package bad

import (
	"context"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

//cell:service
type NotAnInterface struct{} // want "service NotAnInterface: want an interface"

//cell:service
type Generic[T any] interface { // want "service Generic: type parameters are not supported"
	Do(ctx context.Context, in *Good) (*Good, error)
}

//cell:service
type hidden interface { // want "service hidden: want an exported name"
	Do(ctx context.Context, in *Good) (*Good, error)
}

//cell:service
type Empty interface{} // want "service Empty: it has no methods"

//cell:services // want "want //cell:service here"
type Misspelt interface{}

// cell:service // sentence
type Sentence interface{}

// A type with a space in its directive.
//
// cell:service
type Spaced interface{} // the directive is two lines up

// Service has the mistakes of methods and messages.
//
//cell:service
type Service interface {
	Other                                                                           // want "service Service: embedded interfaces are not supported"
	NoContext(in *Good) (*Good, error)                                              // want "method Service.NoContext: want one of"
	NoError(ctx context.Context, in *Good) *Good                                    // want "method Service.NoError: want one of"
	NoReply(ctx context.Context, in *Good) error                                    // want "method Service.NoReply: want one of"
	TwoReplies(ctx context.Context, in *Good, out cell.Sender[Good]) (*Good, error) // want "method Service.TwoReplies: want one of"
	Swapped(ctx context.Context, in cell.Sender[Good]) (*Good, error)               // want "request is cell.Sender\[[^]]*Good\]: want a pointer to a struct"
	Value(ctx context.Context, in Good) (*Good, error)                              // want "method Service.Value: request is Good: want a pointer"
	Foreign(ctx context.Context, in *Good) (*sdk.Error, error)                      // want "method Service.Foreign: reply is sdk.Error: want a struct of this package"
	Number(ctx context.Context, in *Number) (*Good, error)                          // want "method Service.Number: request is Number: want a struct"
	private(ctx context.Context, in *Good) (*Good, error)                           // want "method Service.private: want an exported name"
	//cell:idempotant // want "want //cell:idempotent here"
	Directive(ctx context.Context, in *Good) (*Good, error)
	Missing(ctx context.Context, in *NotDeclared) (*Good, error) // want "NotDeclared|invalid type"
	Fields(ctx context.Context, in *Fields) (*Good, error)
	Get(ctx context.Context, in *Good) (*Good, error)
	GetView(ctx context.Context, in *Good) (*Good, error) // want "method Service.GetView: the client has one of this name for Get"
	Methods(ctx context.Context, in *Methods) (*Good, error)
}

// Other is embedded.
type Other interface{ Do() }

// Number is no struct.
type Number int

// Good is fine.
type Good struct{ N int }

// Fields has fields that can not travel.
type Fields struct {
	Good                     // want "field Good of Fields is embedded"
	hidden   int             // want "field hidden of Fields is not exported"
	Map      map[string]int  // want "field Map of Fields is map\[string\]int: not supported"
	Array    [4]byte         // want "field Array of Fields is \[4\]byte: not supported"
	Any      any             // want "field Any of Fields is any: not supported"
	Func     func()          // want "field Func of Fields is func\(\): not supported"
	Chan     chan int        // want "field Chan of Fields is chan int: not supported"
	Complex  complex64       // want "field Complex of Fields is complex64: not supported"
	Pointer  *int            // want "field Pointer of Fields is \*int: not supported"
	Pointers **Good          // want "field Pointers of Fields is \*\*Good: not supported"
	Slices   [][]byte        // want "field Slices of Fields is \[\]\[\]byte: not supported"
	Times    []time.Time     // want "field Times of Fields is \[\]time.Time: slices of this type are not supported"
	Names    []Name          // want "field Names of Fields is \[\]Name: slices of this type are not supported"
	Maybe    *time.Time      // want "field Maybe of Fields is \*time.Time: not supported"
	Foreign  sdk.Addr        // want "field Foreign of Fields is sdk.Addr: want a struct of this package"
	Unknown  Undeclared      // want "field Unknown of Fields: its type does not resolve"
	Unpack   int             // want "field Unpack of Fields: views have a method of this name"
	Twice    int             `json:"twice"`
	Again    int             `json:"twice"` // want "field Again of Fields: field Twice is called .twice. in the layout, too"
	Über     int             // want "field Über of Fields: the name .über. can not be used in a .fbs file"
	Skipped  func()          `cell:"-"`
	Nested   struct{ X int } // want "field Nested of Fields is struct.*: want a struct of this package"
}

// Name is a named string.
type Name string

// Methods has a method that is generated.
type Methods struct{}

// ParseFlat is generated.
func (*Methods) ParseFlat([]byte) error { return nil } // want "method ParseFlat of message Methods: the generator writes it"

// GoodView is generated.
type GoodView struct{} // want "GoodView: generated code needs this name"
