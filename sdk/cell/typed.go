package cell

import (
	"io"
	"iter"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/flat"
)

// A Sender sends messages of a stream. Service declarations use it: what a
// server sends to its caller.
type Sender[T any] interface {
	// Send blocks until there is room for the message. It does not keep m.
	Send(m *T) error
}

// A Receiver receives messages of a stream. Service declarations use it: what
// a server gets from its caller.
type Receiver[T any] interface {
	// Recv blocks until there is a message. io.EOF is the regular end.
	Recv() (*T, error)
}

// A message is a pointer to a generated struct.
type message[T any] interface {
	*T
	flat.Message
}

// sender and receiver are the typed halves of a Stream.
type (
	sender[T any, P message[T]]   struct{ s *Stream }
	receiver[T any, P message[T]] struct{ s *Stream }
)

// SenderOf returns the sending half of s. Generated code calls it.
func SenderOf[T any, P message[T]](s *Stream) Sender[T] { return sender[T, P]{s} }

// ReceiverOf returns the receiving half of s. Generated code calls it.
func ReceiverOf[T any, P message[T]](s *Stream) Receiver[T] { return receiver[T, P]{s} }

func (x sender[T, P]) Send(m *T) error { return x.s.Send(P(m)) }

func (x receiver[T, P]) Recv() (*T, error) {
	v, err := x.s.Recv()
	if err != nil {
		return nil, err
	}
	return unpack[T, P](v)
}

func unpack[T any, P message[T]](v Vesicle) (*T, error) {
	defer v.Release()
	m := new(T)
	if err := P(m).ParseFlat(v.Bytes()); err != nil {
		return nil, &sdk.Error{Code: sdk.CodeInvalid, Executed: sdk.ExecutedYes, Text: "decode stream message: " + err.Error()}
	}
	return m, nil
}

func all[T any](recv func() (*T, error), stop func() error) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for {
			m, err := recv()
			if err == io.EOF {
				return
			}
			if !yield(m, err) || err != nil {
				_ = stop() // the client's Close has no error
				return
			}
		}
	}
}

// An Incoming is the client's side of a server stream. Read it to its end or
// close it.
type Incoming[T any, P message[T]] struct{ receiver[T, P] }

// NewIncoming wraps s. Generated code calls it.
func NewIncoming[T any, P message[T]](s *Stream) *Incoming[T, P] {
	return &Incoming[T, P]{receiver[T, P]{s}}
}

// All ranges over the messages until the regular end, or the first error,
// which it yields. Leaving the loop closes the stream.
func (x *Incoming[T, P]) All() iter.Seq2[*T, error] { return all(x.Recv, x.Close) }

// Close gives the stream up. It is a no-op after the end.
func (x *Incoming[T, P]) Close() error { return x.s.Close() }

// An Outgoing is the client's side of a client stream.
type Outgoing[In any, Out any, PIn message[In], POut message[Out]] struct{ sender[In, PIn] }

// NewOutgoing wraps s. Generated code calls it.
func NewOutgoing[In any, Out any, PIn message[In], POut message[Out]](s *Stream) *Outgoing[In, Out, PIn, POut] {
	return &Outgoing[In, Out, PIn, POut]{sender[In, PIn]{s}}
}

// CloseAndRecv ends the sending and waits for the reply.
func (x *Outgoing[In, Out, PIn, POut]) CloseAndRecv() (*Out, error) {
	if err := x.s.CloseSend(); err != nil && err != io.EOF {
		return nil, err
	}
	v, err := x.s.result()
	if err != nil {
		return nil, err
	}
	return unpack[Out, POut](v)
}

// Close gives the stream up. It is a no-op after the end.
func (x *Outgoing[In, Out, PIn, POut]) Close() error { return x.s.Close() }

// A Duplex is the client's side of a stream in both directions. Read it to
// its end or close it.
type Duplex[In any, Out any, PIn message[In], POut message[Out]] struct {
	sender[In, PIn]
	in receiver[Out, POut]
}

// NewDuplex wraps s. Generated code calls it.
func NewDuplex[In any, Out any, PIn message[In], POut message[Out]](s *Stream) *Duplex[In, Out, PIn, POut] {
	return &Duplex[In, Out, PIn, POut]{sender[In, PIn]{s}, receiver[Out, POut]{s}}
}

// Recv returns the next message. io.EOF is the regular end.
func (x *Duplex[In, Out, PIn, POut]) Recv() (*Out, error) { return x.in.Recv() }

// All ranges over the messages until the regular end, or the first error,
// which it yields. Leaving the loop closes the stream.
func (x *Duplex[In, Out, PIn, POut]) All() iter.Seq2[*Out, error] { return all(x.Recv, x.Close) }

// CloseSend tells the other side that no more messages follow.
func (x *Duplex[In, Out, PIn, POut]) CloseSend() error { return x.s.CloseSend() }

// Close gives the stream up. It is a no-op after the end.
func (x *Duplex[In, Out, PIn, POut]) Close() error { return x.s.Close() }
