package flat_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/sdk/flat"
)

func TestLayout(t *testing.T) {
	s := flat.Schema{
		{Name: "Job", Fields: []flat.Field{
			{Name: "id", Type: flat.Uint64},
			{Name: "tags", Type: flat.String, Vector: true},
			{Name: "old", Type: flat.Int32, Deprecated: true},
			{Name: "gone", Type: flat.Sub, Vector: true, Deprecated: true},
			{Name: "next", Type: flat.Sub, Sub: 0},
			{Name: "at", Type: flat.Sub, Sub: 2},
		}},
		{Name: "Other"},
		{Name: "Point", Fields: []flat.Field{{Name: "x", Type: flat.Float32}}},
	}
	want := flat.Layout("Job{id:ulong,tags:[string],old:int!,gone:[table]!,next:Job,at:Point}Point{x:float}")
	if got := s.Layout(0); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := flat.Compatible(want, want+"More{}"); err != nil {
		t.Errorf("the generated layout does not parse: %v", err)
	}
}

func TestCompatible(t *testing.T) {
	const same = ""
	for _, c := range []struct {
		caller, server flat.Layout
		want           string
	}{
		{"A{x:int}", "A{x:int}", same},
		{"A{x:int}", "A{x:int,y:string}", same},
		{"A{x:int,y:string}", "A{x:int}", same},
		{"A{}", "A{x:int}", same},
		{"", "A{x:int}", same},
		{"A{x:int}", "B{x:int}", same},
		{"A{x:int!}", "A{x:int}", same},
		{"A{x:table!}", "A{x:B}B{y:int}", same},
		{"A{x:[B]}B{y:int}", "A{x:[C]}C{y:int,z:long}", same},
		{"A{n:A,v:int}", "B{n:B,v:int,w:int}", same},
		{"A{x:int}", "A{x:uint}", `field A.x, slot 0: caller has "x:int", server has "x:uint"`},
		{"A{x:int}", "A{y:int}", `field A.x, slot 0: caller has "x:int", server has "y:int"`},
		{"A{a:int,x:[int]}", "A{a:int,x:int}", `field A.x, slot 1: caller has "x:[int]", server has "x:int"`},
		{"A{x:B}B{y:int}", "A{x:B}B{y:long}", `field B.y, slot 0: caller has "y:int", server has "y:long"`},
		{"A{x:B}B{y:int}", "A{x:int}", `field A.x, slot 0: caller has "x:B", server has "x:int"`},
		{"A{x:int!}", "A{x:long}", `field A.x, slot 0: caller has "x:int", server has "x:long"`},
		{"A{x:", "A{x:int}", "caller's layout: malformed"},
		{"A{x:int}", "A{x:B}", "server's layout: malformed"},
		{"A{x:int}A{}", "A{x:int}", "caller's layout: malformed"},
		{"A{x:[int}", "A{x:int}", "caller's layout: malformed"},
		{"A{:int}", "A{x:int}", "caller's layout: malformed"},
		{"{x:int}", "A{x:int}", "caller's layout: malformed"},
		{"A{x:int}x", "A{x:int}", "caller's layout: malformed"},
	} {
		got := ""
		if err := flat.Compatible(c.caller, c.server); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("Compatible(%q, %q)\ngot  %q\nwant %q", c.caller, c.server, got, c.want)
		}
	}
}

// Layouts come from strangers: two rings of coprime lengths have many pairs.
func TestCompatibleIsBounded(t *testing.T) {
	ring := func(n int) flat.Layout {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "t%d{n:t%d}", i, (i+1)%n)
		}
		return flat.Layout(b.String())
	}
	err := flat.Compatible(ring(997), ring(996))
	if err == nil || !strings.Contains(err.Error(), "too many tables") {
		t.Errorf("got %v, want too many tables", err)
	}
	if err := flat.Compatible(ring(1), ring(5000)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v, want a limit on the text", err)
	}
}

func FuzzCompatible(f *testing.F) {
	f.Add("A{x:int,y:[B]}B{z:A}", "A{x:int}")
	f.Add("A{x:table!}", "A{x:B}B{y:[string]}")
	f.Fuzz(func(t *testing.T, a, b string) {
		one := flat.Compatible(flat.Layout(a), flat.Layout(b))
		two := flat.Compatible(flat.Layout(b), flat.Layout(a))
		if (one == nil) != (two == nil) {
			t.Errorf("not symmetric: %v, %v", one, two)
		}
	})
}
