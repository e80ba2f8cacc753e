package main

import (
	"testing"

	"github.com/cellkernel/cellkernel/examples/template-cell/hello"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

// A test of a cell needs no kernel.
func TestGreet(t *testing.T) {
	k := celltest.New(t)
	k.Serve("greeter", func(m *cell.Membrane) { hello.RegisterGreeter(m, greeter{}) })
	got, err := hello.NewGreeterClient(k.Synapse("greeter")).Greet(t.Context(), &hello.Name{Name: "ann"})
	if err != nil || got.Text != "hello, ann" {
		t.Errorf("got %v, %v", got, err)
	}
}
