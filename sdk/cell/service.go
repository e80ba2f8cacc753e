package cell

import (
	"context"
	"fmt"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A Shape says which side of a method streams.
type Shape uint8

// The four shapes. The numbers are on the wire.
const (
	Unary        Shape = 0
	ServerStream Shape = 1
	ClientStream Shape = 2
	Bidi         Shape = 3
)

// streamsIn reports whether the caller sends a stream.
func (s Shape) streamsIn() bool { return s == ClientStream || s == Bidi }

// A Desc describes a service. Generated code has one for each interface
// marked //cell:service; servers and clients share it. It must not change.
type Desc struct {
	Name    string
	Methods []MethodDesc
}

// A MethodDesc describes one method.
type MethodDesc struct {
	Name       string
	Shape      Shape
	Idempotent bool        // may be executed twice: it is retried when nobody knows
	In, Out    flat.Layout // how messages are laid out; empty: JSON only
	// NewIn and NewOut make empty messages, for calls in JSON.
	NewIn, NewOut func() flat.Message
}

// A Handler serves one method. It may run any number of times at once. What
// it returns ends the call: nil after [Call.Reply] or a finished stream, an
// [sdk.Error] to say more than that something went wrong.
type Handler func(ctx context.Context, c *Call) error

// A method is a served method.
type method struct {
	desc    *MethodDesc
	service string
	handle  Handler
	index   uint16 // in the table
}

func (m *method) name() string { return m.service + "." + m.desc.Name }

// Register serves d with one handler for each of its methods, in order.
// Generated code calls it, before [Membrane.Serve]. It panics on misuse: a
// wrong number of handlers, a service registered twice, a call after Serve.
func (m *Membrane) Register(d *Desc, handlers ...Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(handlers) != len(d.Methods) {
		panic(fmt.Sprintf("cell: service %s: %d handlers for %d methods", d.Name, len(handlers), len(d.Methods)))
	}
	if m.ready {
		panic("cell: Register after Serve")
	}
	for _, s := range m.table {
		if s.Name == d.Name {
			panic("cell: service " + d.Name + " registered twice")
		}
	}
	s := wire.Service{Name: d.Name}
	for i := range d.Methods {
		md := &d.Methods[i]
		m.methods = append(m.methods, &method{md, d.Name, handlers[i], uint16(len(m.methods))})
		s.Methods = append(s.Methods, wire.Method{
			Name: md.Name, Shape: uint8(md.Shape), Idempotent: md.Idempotent, In: string(md.In), Out: string(md.Out),
		})
	}
	m.table = append(m.table, s)
	if n := len(m.methods) + len(m.table); n > wire.MaxMethods {
		panic(fmt.Sprintf("cell: %d services and methods: at most %d", n, wire.MaxMethods))
	}
}

// Invalid marks err as the caller's mistake: [sdk.CodeInvalid], not executed.
// Generated code wraps what verifying a request returned.
func Invalid(err error) error {
	return &sdk.Error{Code: sdk.CodeInvalid, Executed: sdk.ExecutedNo, Text: "decode request: " + err.Error()}
}
