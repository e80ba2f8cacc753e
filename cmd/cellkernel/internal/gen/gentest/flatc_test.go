package gentest_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
	"pgregory.net/rapid"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen/gentest"
	"github.com/cellkernel/cellkernel/sdk/flat"
)

// A flatc is the FlatBuffers compiler with the schema of one message.
type flatc struct{ path, dir, fbs, root string }

func findFlatc(t *testing.T, fbs, root string) flatc {
	path, err := exec.LookPath("flatc")
	if err != nil {
		t.Skip("no flatc: apt-get install flatbuffers-compiler")
	}
	abs, err := filepath.Abs(fbs)
	if err != nil {
		t.Fatal(err)
	}
	return flatc{path, t.TempDir(), abs, root}
}

func (f flatc) run(t rapid.TB, args ...string) {
	cmd := exec.Command(f.path, append(args, "--root-type", f.root, "-o", f.dir, f.fbs)...)
	// flatc wants the data file behind the schema.
	n := len(cmd.Args)
	data := filepath.Join(f.dir, "m.bin")
	if args[0] == "--binary" {
		data = filepath.Join(f.dir, "m.json")
	}
	if args[0] == "--json" {
		cmd.Args = append(cmd.Args[:n:n], "--", data)
	} else {
		cmd.Args = append(cmd.Args[:n:n], data)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// toJSON has flatc verify and print a buffer.
func (f flatc) toJSON(t rapid.TB, b []byte) map[string]any {
	if err := os.WriteFile(filepath.Join(f.dir, "m.bin"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	f.run(t, "--json", "--strict-json", "--raw-binary", "--defaults-json")
	return f.readJSON(t)
}

func (f flatc) readJSON(t rapid.TB) map[string]any {
	text, err := os.ReadFile(filepath.Join(f.dir, "m.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return m
}

// toBinary has flatc encode the JSON that toJSON left behind.
func (f flatc) toBinary(t rapid.TB) []byte {
	if err := os.Remove(filepath.Join(f.dir, "m.bin")); err != nil {
		t.Fatal(err)
	}
	f.run(t, "--binary")
	b, err := os.ReadFile(filepath.Join(f.dir, "m.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Ours → flatc's JSON → flatc's binary → ours is the same message.
func crossCheck[T any, P interface {
	*T
	flat.Message
}](t *testing.T, fbs, root string, same func(a, b P) bool) {
	f := findFlatc(t, fbs, root)
	for seed := range 25 {
		m := P(rapid.Custom(drawMessage[T]).Example(seed))
		f.toJSON(t, m.AppendFlat(nil))
		back := P(new(T))
		if err := back.ParseFlat(f.toBinary(t)); err != nil {
			t.Fatal(err)
		}
		if !same(m, back) {
			t.Fatalf("got  %+v\nwant %+v", back, m)
		}
	}
}

func TestFlatcRoundTrip(t *testing.T) {
	t.Run("everything", func(t *testing.T) {
		crossCheck(t, "pantry.fbs", "gentest.Everything", func(a, b *gentest.Everything) bool {
			// flatc prints floats with few digits: they are compared below.
			a.F32, a.F64, a.Ratio, a.F32s, a.F64s = b.F32, b.F64, b.Ratio, b.F32s, b.F64s
			return reflect.DeepEqual(a, b)
		})
	})
	t.Run("tree", func(t *testing.T) {
		crossCheck(t, "pantry.fbs", "gentest.Tree", func(a, b *gentest.Tree) bool { return reflect.DeepEqual(a, b) })
	})
	t.Run("dish", func(t *testing.T) {
		crossCheck(t, "kitchen.fbs", "gentest.Dish", func(a, b *gentest.Dish) bool { return reflect.DeepEqual(a, b) })
	})
}

func TestFlatcReads(t *testing.T) {
	f := findFlatc(t, "pantry.fbs", "gentest.Everything")
	m := &gentest.Everything{
		Bool: true, I8: -8, U8: 255, I64: -1 << 40, F32: 0.5, F64: -2.25, String: "s", Bytes: []byte{1, 2},
		F64s: []float64{0.125}, Strings: []string{"", "é"}, Point: gentest.Point{X: -1}, Points: []gentest.Point{{Tag: "p"}}, Struct: 9,
	}
	got := f.toJSON(t, m.AppendFlat(nil))
	for key, want := range map[string]any{
		"bool": true, "i8": -8.0, "u8": 255.0, "i64": float64(-1 << 40), "f32": 0.5, "f64": -2.25, "string": "s",
		"bytes": []any{1.0, 2.0}, "f64s": []any{0.125}, "strings": []any{"", "é"}, "maybe": nil, "struct": 9.0,
		"points": []any{map[string]any{"x": 0.0, "y": 0.0, "tag": "p"}},
	} {
		if !reflect.DeepEqual(got[key], want) {
			t.Errorf("%s: got %v, want %v", key, got[key], want)
		}
	}
}

// flatc's text is the JSON of Go structs as well, but for bytes, which
// encoding/json writes in base64.
func TestFlatcJSONFitsStructs(t *testing.T) {
	f := findFlatc(t, "kitchen.fbs", "gentest.Job")
	got := f.toJSON(t, sampleJob().AppendFlat(nil))
	delete(got, "data")
	got["data"] = base64.StdEncoding.EncodeToString(make([]byte, 128))
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	job := new(gentest.Job)
	if err := json.Unmarshal(text, job); err != nil || !reflect.DeepEqual(job, sampleJob()) {
		t.Errorf("%s became %+v, %v", text, job, err)
	}
}

func TestOfficialRuntime(t *testing.T) {
	builder := flatbuffers.NewBuilder(0)
	rapid.Check(t, func(t *rapid.T) {
		want := drawMessage[gentest.Job](t)
		if len(want.Data) == 0 {
			want.Data = nil
		}
		// official → ours
		got := new(gentest.Job)
		if err := got.ParseFlat(buildJob(builder, want)); err != nil {
			t.Fatal(err)
		}
		if len(got.Data) == 0 {
			got.Data = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		// ours → official
		tab := rootOf(want.AppendFlat(nil))
		if tab.GetUint64Slot(4, 0) != want.ID || tab.GetUint32Slot(6, 0) != want.Iterations {
			t.Fatal("the official runtime reads other numbers")
		}
		text := func(slot flatbuffers.VOffsetT) string {
			if o := tab.Offset(slot); o != 0 {
				return string(tab.ByteVector(tab.Pos + flatbuffers.UOffsetT(o)))
			}
			return ""
		}
		if text(8) != want.Name || text(10) != string(want.Data) {
			t.Fatal("the official runtime reads other bytes")
		}
	})
}

// The official runtime walks nested tables and vectors of ours.
func TestOfficialReadsTree(t *testing.T) {
	tree := &gentest.Tree{Name: "root", Rest: []gentest.Tree{{Name: "a"}, {Name: "b", Left: &gentest.Tree{Name: "c"}}}}
	var read func(tab flatbuffers.Table) string
	child := func(tab flatbuffers.Table, at flatbuffers.UOffsetT) flatbuffers.Table {
		return flatbuffers.Table{Bytes: tab.Bytes, Pos: tab.Indirect(at)}
	}
	read = func(tab flatbuffers.Table) string {
		s := string(tab.ByteVector(tab.Pos + flatbuffers.UOffsetT(tab.Offset(4))))
		if o := tab.Offset(6); o != 0 {
			s += "<" + read(child(tab, tab.Pos+flatbuffers.UOffsetT(o))) + ">"
		}
		if o := flatbuffers.UOffsetT(tab.Offset(10)); o != 0 {
			for i := range tab.VectorLen(o) {
				s += "[" + read(child(tab, tab.Vector(o)+4*flatbuffers.UOffsetT(i))) + "]"
			}
		}
		return s
	}
	if got := read(rootOf(tree.AppendFlat(nil))); got != "root[a][b<c>]" {
		t.Errorf("got %s", got)
	}
}
