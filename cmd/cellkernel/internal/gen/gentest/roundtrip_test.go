package gentest_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen/gentest"
	"github.com/cellkernel/cellkernel/sdk/flat"
)

// drawInto fills v, any value a message may have, with random content. Nil
// stands for empty, as on the wire; elements of vectors are never nil.
func drawInto(t *rapid.T, v reflect.Value, depth int) {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = flat.ToTime(rapid.Int64().Draw(t, "time"))
		return
	case *json.RawMessage:
		*x = json.RawMessage(rapid.SampledFrom([]string{`1`, `{"a":[]}`, `"x"`}).Draw(t, "raw"))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n := rapid.Int64().Draw(t, "int")
		v.SetInt(n << (64 - v.Type().Bits()) >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, "uint") >> (64 - v.Type().Bits()))
	case reflect.Float32:
		v.SetFloat(float64(rapid.Float32().Draw(t, "float")))
	case reflect.Float64:
		v.SetFloat(rapid.Float64().Draw(t, "float"))
	case reflect.String:
		v.SetString(rapid.StringN(0, 8, -1).Draw(t, "string"))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("cell") != "-" {
				drawInto(t, v.Field(i), depth)
			}
		}
	case reflect.Pointer:
		if depth > 0 && rapid.Bool().Draw(t, "present") {
			v.Set(reflect.New(v.Type().Elem()))
			drawInto(t, v.Elem(), depth-1)
		}
	case reflect.Slice:
		drawSlice(t, v, depth)
	}
}

func drawSlice(t *rapid.T, v reflect.Value, depth int) {
	n := 0
	if depth > 0 {
		n = rapid.IntRange(0, 3).Draw(t, "len")
	}
	if n == 0 {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		e := v.Index(i)
		if e.Kind() == reflect.Pointer {
			e.Set(reflect.New(e.Type().Elem()))
			e = e.Elem()
		}
		drawInto(t, e, depth-1)
	}
}

func drawMessage[T any](t *rapid.T) *T {
	m := new(T)
	drawInto(t, reflect.ValueOf(m).Elem(), 3)
	return m
}

// checkRoundTrip encodes m behind other bytes and decodes it.
func checkRoundTrip[T any, P interface {
	*T
	flat.Message
}](t rapid.TB, m P, into P) {
	b := m.AppendFlat(make([]byte, 16))[16:]
	if err := flat.Finished(b); err != nil {
		t.Fatal(err)
	}
	if err := into.ParseFlat(b); err != nil {
		t.Fatal(err)
	}
	// A second encoding of what was decoded is the same bytes.
	if again := into.AppendFlat(nil); string(again) != string(b) {
		t.Fatalf("encoded again:\n%x\n%x", again, b)
	}
	fresh := P(new(T))
	if err := fresh.ParseFlat(b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !reflect.DeepEqual(fresh, m) {
		t.Fatalf("decoded\n%+v\nwant\n%+v", fresh, m)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Run("everything", func(t *testing.T) {
		used := new(gentest.Everything) // keeps the memory of what it was before
		rapid.Check(t, func(t *rapid.T) { checkRoundTrip(t, drawMessage[gentest.Everything](t), used) })
	})
	t.Run("tree", func(t *testing.T) {
		used := new(gentest.Tree)
		rapid.Check(t, func(t *rapid.T) { checkRoundTrip(t, drawMessage[gentest.Tree](t), used) })
	})
	t.Run("dish", func(t *testing.T) {
		used := new(gentest.Dish)
		rapid.Check(t, func(t *rapid.T) { checkRoundTrip(t, drawMessage[gentest.Dish](t), used) })
	})
}

// The views of a message and its JSON say the same as the message.
func TestJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage[gentest.Everything](t)
		text, err := json.Marshal(m)
		if err != nil {
			t.Skip("not every number is JSON:", err)
		}
		back := new(gentest.Everything)
		if err := json.Unmarshal(text, back); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back.Strings, m.Strings) || back.I64 != m.I64 || !back.At.Equal(m.At) || back.String != m.String {
			t.Fatalf("got %+v, want %+v", back, m)
		}
	})
}

func TestViews(t *testing.T) {
	m := &gentest.Everything{
		Int: -3, Colour: -2, Label: "l", Flag: true, Ratio: 0.5, Blob: gentest.Blob("blob"), Wait: time.Second, At: time.Unix(9, 0).UTC(),
		Month: time.May, Ints: []int{-1, 2}, Colours: []gentest.Colour{5}, Flags: []gentest.Flag{true}, Waits: []time.Duration{7},
		Point: gentest.Point{X: 1, Past: []gentest.Stamp{{N: 3}}}, Points: []gentest.Point{{Tag: "p"}}, HTTPServerID: 200,
	}
	v, err := gentest.ParseEverythingView(m.AppendFlat(nil))
	if err != nil {
		t.Fatal(err)
	}
	_, maybe := v.Maybe()
	for name, ok := range map[string]bool{
		"Int": v.Int() == -3, "Colour": v.Colour() == -2, "Label": v.Label() == "l", "Flag": v.Flag() == true, "Ratio": v.Ratio() == 0.5,
		"Blob": string(v.Blob()) == "blob", "Wait": v.Wait() == time.Second, "At": v.At().Equal(m.At), "Month": v.Month() == time.May,
		"Ints": v.Ints().At(0) == -1, "Colours": v.Colours().At(0) == 5, "Flags": v.Flags().At(0) == true, "Waits": v.Waits().At(0) == 7,
		"Point": v.Point().X() == 1 && v.Point().Past().At(0).N() == 3, "Points": v.Points().At(0).Tag() == "p", "Maybe": !maybe,
		"HTTPServerID": v.HTTPServerID() == 200, "Strings": v.Strings().Len() == 0,
	} {
		if !ok {
			t.Errorf("%s is wrong", name)
		}
	}
}

func TestNil(t *testing.T) {
	var none *gentest.Job
	job := sampleJob()
	if err := job.ParseFlat(none.AppendFlat(nil)); err != nil || job.ID != 0 || job.Name != "" || len(job.Data) != 0 {
		t.Errorf("a nil message became %+v, %v", job, err)
	}
	tree := &gentest.Tree{More: []*gentest.Tree{nil, {Name: "x"}}}
	back := new(gentest.Tree)
	if err := back.ParseFlat(tree.AppendFlat(nil)); err != nil || len(back.More) != 2 || back.More[0] == nil || back.More[1].Name != "x" {
		t.Errorf("a nil element became %+v, %v", back, err)
	}
}

func TestErrorLeavesReceiver(t *testing.T) {
	job := sampleJob()
	msg := job.AppendFlat(nil)
	if err := job.ParseFlat(msg[:len(msg)-10]); err == nil || !reflect.DeepEqual(job, sampleJob()) {
		t.Errorf("after %v: %+v", err, job)
	}
}

func TestCyclic(t *testing.T) {
	loop := &gentest.Tree{Name: "loop"}
	loop.Left = loop
	deep := &gentest.Tree{}
	for range flat.MaxDepth - 2 { // below the deepest tree is its Where
		deep = &gentest.Tree{Right: deep}
	}
	if err := flat.Finished(loop.AppendFlat(nil)); err == nil {
		t.Error("a cycle was encoded")
	}
	b := deep.AppendFlat(nil)
	if err := new(gentest.Tree).ParseFlat(b); err != nil || flat.Finished(b) != nil {
		t.Errorf("the deepest tree: %v, %v", err, flat.Finished(b))
	}
	if err := flat.Finished((&gentest.Tree{Right: deep}).AppendFlat(nil)); err == nil {
		t.Error("a tree one deeper was encoded")
	}
}

// FuzzEverything: what verifies unpacks, and encodes and unpacks again to the same.
func FuzzEverything(f *testing.F) {
	f.Add((&gentest.Everything{}).AppendFlat(nil))
	f.Add((&gentest.Everything{
		String: "s", Bytes: []byte{1}, I64s: []int64{1, 2}, Strings: []string{"", "x"}, Bools: []bool{true}, Ints: []int{1},
		Points: []gentest.Point{{Past: []gentest.Stamp{{N: 1}}}, {}}, Maybe: &gentest.Point{Tag: "t"}, Pointers: []*gentest.Point{{}},
	}).AppendFlat(nil))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzMessage(t, new(gentest.Everything), new(gentest.Everything), b) })
}

// FuzzTree is FuzzEverything for nested messages.
func FuzzTree(f *testing.F) {
	leaf := gentest.Tree{Name: "leaf", Where: gentest.Point{Past: make([]gentest.Stamp, 2)}}
	f.Add((&gentest.Tree{Left: &leaf, Rest: []gentest.Tree{leaf, leaf}, More: []*gentest.Tree{&leaf}}).AppendFlat(nil))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzMessage(t, new(gentest.Tree), new(gentest.Tree), b) })
}

func fuzzMessage(t *testing.T, one, two flat.Message, b []byte) {
	if one.ParseFlat(b) != nil {
		return
	}
	first := one.AppendFlat(nil)
	if flat.Finished(first) != nil {
		return // its author left out a table that we write, at the deepest place
	}
	if err := two.ParseFlat(first); err != nil {
		t.Fatalf("our own encoding: %v", err)
	}
	if second := two.AppendFlat(nil); string(first) != string(second) {
		t.Fatalf("encoded twice:\n%x\n%x", first, second)
	}
	if e, ok := one.(*gentest.Everything); ok && !utf8.ValidString(e.String) {
		t.Fatalf("a string that is not UTF-8: %q", e.String)
	}
}
