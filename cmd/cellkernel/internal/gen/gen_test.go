package gen_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen"
)

// The generated files of gentest are the golden output: they are compiled and
// used by its tests. To renew them: go run ./cmd/cellkernel gen ./cmd/cellkernel/internal/gen/gentest
func TestGolden(t *testing.T) {
	results, err := gen.Run(t.Context(), []string{"./..."}, gen.Options{Check: true, Dir: "gentest"})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || len(results[0].Changed) != 0 || len(results[0].Files) != 5 || !slices.Equal(results[0].Services, []string{"Kitchen", "Pantry"}) {
		t.Errorf("got %+v, want one package with 5 files, none changed", results)
	}
	if stale, err := gen.Stale("gentest"); stale || err != nil {
		t.Errorf("Stale: %v, %v", stale, err)
	}
}

// Every mistake is reported at once, at its place.
func TestMistakes(t *testing.T) {
	src, err := os.ReadFile("testdata/bad/bad.go")
	if err != nil {
		t.Fatal(err)
	}
	_, err = gen.Run(t.Context(), []string{"./testdata/bad"}, gen.Options{})
	if err == nil {
		t.Fatal("no error")
	}
	got := map[int]string{}
	at := regexp.MustCompile(`^testdata/bad/bad\.go:(\d+):\d+: (.*)$`)
	for _, line := range strings.Split(err.Error(), "\n") {
		m := at.FindStringSubmatch(line)
		if m == nil {
			if !strings.HasPrefix(line, "\t") { // the forms of methods
				t.Errorf("no position: %s", line)
			}
			continue
		}
		var n int
		fmt.Sscan(m[1], &n)
		got[n] += m[2] + "\n"
	}
	want := regexp.MustCompile(`// want "(.*)"`)
	for i, line := range strings.Split(string(src), "\n") {
		text := got[i+1]
		delete(got, i+1)
		m := want.FindStringSubmatch(line)
		if m == nil && line == "// cell:service" {
			m = []string{"", "write //cell:service, without a space"}
		}
		switch {
		case m == nil && text != "":
			t.Errorf("line %d: unexpected %s", i+1, text)
		case m != nil && !regexp.MustCompile(m[1]).MatchString(text):
			t.Errorf("line %d: got %q, want %s", i+1, text, m[1])
		}
	}
	for _, n := range slices.Sorted(maps.Keys(got)) {
		t.Errorf("line %d: unexpected %s", n, got[n])
	}
	if files, _ := filepath.Glob("testdata/bad/*"); len(files) != 1 {
		t.Errorf("something was written: %v", files)
	}
}

// A project is a module of its own with one package, which grows.
type project struct {
	*testing.T
	dir string
}

func newProject(t *testing.T) project {
	p := project{t, t.TempDir()}
	p.write("go.mod", "module example.com/grow\n\ngo 1.26\n")
	return p
}

func (p project) write(name, text string) {
	p.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
}

func (p project) read(name string) string {
	p.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.Fatal(err)
	}
	return string(text)
}

// declare writes the package with the given fields of its message.
func (p project) declare(fields string) {
	p.Helper()
	p.write("grow.go", `package grow

import "context"

//cell:service
type Worker interface {
	Work(ctx context.Context, in *Job) (*Job, error)
}

type Job struct {
`+fields+`
}

type Inner struct{ N int }

// Generated code is used before it exists.
func use(v JobView) int { return v.A() }
`)
}

func (p project) gen(check bool) gen.Result {
	p.Helper()
	results, err := gen.Run(p.Context(), nil, gen.Options{Dir: p.dir, Check: check})
	if err != nil {
		p.Fatal(err)
	}
	if len(results) != 1 {
		p.Fatalf("%d results, want 1", len(results))
	}
	return results[0]
}

func (p project) stale() bool {
	p.Helper()
	stale, err := gen.Stale(p.dir)
	if err != nil {
		p.Fatal(err)
	}
	return stale
}

// table returns the fields of Job in the pinned layout.
func (p project) table() string {
	p.Helper()
	_, rest, _ := strings.Cut(p.read("worker.fbs"), "table Job {\n")
	body, _, _ := strings.Cut(rest, "}")
	return strings.Join(strings.Fields(body), " ")
}

func TestEvolution(t *testing.T) {
	p := newProject(t)
	for _, step := range []struct{ name, fields, want string }{
		{"first", "A int; B string; C []Inner", "a:long; b:string; c:[Inner];"},
		{"reorder", "C []Inner; B string; A int", "a:long; b:string; c:[Inner];"},
		{"add in front", "D bool; A int; B string; C []Inner", "a:long; b:string; c:[Inner]; d:bool;"},
		{"remove", "A int; C []Inner; D bool", "a:long; b:string (deprecated); c:[Inner]; d:bool;"},
		{"remove a table", "A int; D bool", "a:long; b:string (deprecated); c:[Inner] (deprecated); d:bool;"},
		{"rename", "A int; E bool", "a:long; b:string (deprecated); c:[Inner] (deprecated); d:bool (deprecated); e:bool;"},
		{"bring back", "A int; B string; C []Inner; E bool", "a:long; b:string; c:[Inner]; d:bool (deprecated); e:bool;"},
		{"keep the name by its tag", "First int `json:\"a\"`; E bool", "a:long; b:string (deprecated); c:[Inner] (deprecated); d:bool (deprecated); e:bool;"},
	} {
		p.declare(step.fields)
		if !p.stale() {
			t.Errorf("%s: not stale before", step.name)
		}
		if r := p.gen(true); len(r.Changed) == 0 {
			t.Errorf("%s: check sees no change", step.name)
		}
		p.gen(false)
		if got := p.table(); got != step.want {
			t.Errorf("%s:\ngot  %s\nwant %s", step.name, got, step.want)
		}
		if p.stale() {
			t.Errorf("%s: stale after", step.name)
		}
		if r := p.gen(false); len(r.Changed) != 0 {
			t.Errorf("%s: the second run changed %v", step.name, r.Changed)
		}
	}
	if !strings.Contains(p.read("worker.fbs"), "// no longer used\ntable Inner {\n  n:long;\n}") {
		t.Errorf("the table of a removed field is gone:\n%s", p.read("worker.fbs"))
	}
}

func TestChangedType(t *testing.T) {
	p := newProject(t)
	p.declare("A int\nB uint32")
	p.gen(false)
	before := p.read("messages_cell.go")
	p.declare("A int\nB uint64\nC []Inner")
	_, err := gen.Run(t.Context(), nil, gen.Options{Dir: p.dir})
	want := "grow.go:12:1: field B of Job is uint64, ulong in the schema, but worker.fbs:7:3 pins it as uint: a changed type needs a new name"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if p.read("messages_cell.go") != before {
		t.Error("files were written in spite of the error")
	}
}

func TestBrokenPins(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"b:string;", "b:string", `worker.fbs:8:1: pinned layout: unexpected "}" in a table`},
		{"b:string;", "a:long;", "worker.fbs:7:3: pinned layout: field \"a\" of Job is there twice"},
		{"table Job", "struct Job", `worker.fbs:5:1: pinned layout: unexpected "struct"`},
		{"b:string;", "b:string (id: 4);", `pinned layout: unexpected "id" in a table`},
		{"table Job {", "table Job {{", `pinned layout: unexpected "{" in a table`},
		{"}\n\nrpc", "", `in a table`},
	} {
		p := newProject(t)
		p.declare("A int; B string")
		p.gen(false)
		p.write("worker.fbs", strings.Replace(p.read("worker.fbs"), c.old, c.new, 1))
		if _, err := gen.Run(t.Context(), nil, gen.Options{Dir: p.dir}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: got %v, want %s", c.new, c.old, err, c.want)
		}
	}
}

func TestStale(t *testing.T) {
	p := newProject(t)
	p.declare("A int")
	p.gen(false)
	same := func(what string) {
		t.Helper()
		if p.stale() {
			t.Errorf("stale after %s", what)
		}
	}
	changed := func(what string) {
		t.Helper()
		if !p.stale() {
			t.Errorf("not stale after %s", what)
		}
		p.gen(false)
		same(what + " and a run")
	}
	p.write("other.go", "package grow\n\nfunc other() {}\n")
	same("another function")
	p.write("other_test.go", "package grow\n\ntype T struct{}\n")
	same("a type in a test")
	p.write("other.go", "package grow\n\ntype T struct{}\n")
	changed("another type")
	p.write("worker.fbs", strings.Replace(p.read("worker.fbs"), "a:long;", "a:long; // note", 1))
	changed("an edit of the pinned layout")
	for _, name := range []string{"messages_cell.go", "worker_cell.go", "worker.fbs"} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil {
			t.Fatal(err)
		}
		changed("removing " + name)
	}
}

// A service that is no longer declared takes its Go file with it, but not its
// pinned layout.
func TestRemovedService(t *testing.T) {
	p := newProject(t)
	p.declare("A int")
	p.gen(false)
	p.write("grow.go", "package grow\n")
	if !p.stale() {
		t.Error("not stale")
	}
	if r := p.gen(true); !slices.Equal(r.Changed, []string{"messages_cell.go", "worker_cell.go"}) {
		t.Errorf("check: %+v", r)
	}
	p.gen(false)
	files, err := filepath.Glob(filepath.Join(p.dir, "*"))
	if err != nil || len(files) != 3 { // go.mod, grow.go, worker.fbs
		t.Errorf("left: %v, %v", files, err)
	}
	if p.stale() {
		t.Error("stale afterwards")
	}
}

func TestForeignFile(t *testing.T) {
	for _, name := range []string{"worker_cell.go", "worker.fbs"} {
		p := newProject(t)
		p.declare("A int")
		text := "// mine\npackage grow\n"
		p.write(name, text)
		_, err := gen.Run(t.Context(), nil, gen.Options{Dir: p.dir})
		if err == nil || !strings.Contains(err.Error(), "not generated") || p.read(name) != text {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func TestSyntaxError(t *testing.T) {
	p := newProject(t)
	p.declare("A int")
	p.write("broken.go", "package grow\n\nfunc {\n")
	if _, err := gen.Run(t.Context(), nil, gen.Options{Dir: p.dir}); err == nil || !strings.Contains(err.Error(), "broken.go:3:6") {
		t.Errorf("got %v, want the position of the mistake", err)
	}
}

func TestNothingToDo(t *testing.T) {
	p := newProject(t)
	p.write("a.go", "package grow\n")
	results, err := gen.Run(t.Context(), []string{"./..."}, gen.Options{Dir: p.dir})
	if err != nil || len(results) != 0 {
		t.Errorf("got %+v, %v", results, err)
	}
	if _, err := gen.Run(t.Context(), []string{"./nowhere"}, gen.Options{Dir: p.dir}); err == nil {
		t.Error("a directory that is not there is no error")
	}
}

// Two services share a message; each pins it, and both must agree.
func TestSharedMessage(t *testing.T) {
	p := newProject(t)
	p.declare("A int; B string")
	p.write("second.go", `package grow

import "context"

//cell:service
type Second interface{ Do(ctx context.Context, in *Job) (*Inner, error) }
`)
	if r := p.gen(false); !slices.Equal(r.Files, []string{"messages_cell.go", "second.fbs", "second_cell.go", "worker.fbs", "worker_cell.go"}) {
		t.Errorf("files: %v", r.Files)
	}
	p.write("second.fbs", strings.Replace(p.read("second.fbs"), "b:string", "c:string", 1))
	_, err := gen.Run(t.Context(), nil, gen.Options{Dir: p.dir})
	want := "worker.fbs:7:3: pinned layout: table Job has b:string here, but c:string at second.fbs:7:3"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}
