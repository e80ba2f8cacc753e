package main

import (
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/examples/hello/greet"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

// This is how a user tests a cell: no kernel, no other process.
func TestGreeter(t *testing.T) {
	k := celltest.New(t)
	k.Serve("greeter", func(m *cell.Membrane) { greet.RegisterGreeter(m, greeter{m.Replica()}) })
	client := greet.NewGreeterClient(k.Synapse("greeter"))

	reply, err := client.Hello(t.Context(), &greet.Person{Name: "world"})
	if err != nil {
		t.Fatal(err)
	}
	if reply.Text != "hello, world" || reply.Replica != 1 {
		t.Errorf("got %+v", reply)
	}

	stream, err := client.Everybody(t.Context(), &greet.People{Names: []string{"ada", "bob"}})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for greeting, err := range stream.All() {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, greeting.Text)
	}
	if got := strings.Join(texts, "; "); got != "hello, ada; hello, bob" {
		t.Errorf("got %q", got)
	}
}
