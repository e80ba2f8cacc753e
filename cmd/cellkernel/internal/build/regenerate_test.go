package build_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/build"
)

const serviceSource = `package hello

import "context"

//cell:service
type Greeter interface {
	Greet(ctx context.Context, who *Name) (*Greeting, error)
}

type Name struct{ Name string }

type Greeting struct{ Text string }
`

// useSDK makes p's module depend on this repository.
func (p *project) useSDK() {
	p.t.Helper()
	repo, err := filepath.Abs("../../../..")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(repo, name))
		if err != nil {
			p.t.Fatal(err)
		}
		s := strings.Replace(string(text), "module github.com/cellkernel/cellkernel\n", "module example.test/shop\n", 1)
		if name == "go.mod" {
			s += "\nrequire github.com/cellkernel/cellkernel v0.0.0\n\nreplace github.com/cellkernel/cellkernel => " + repo + "\n"
		}
		p.write(name, s)
	}
}

// tree lists all files with sizes and times.
func (p *project) tree() string {
	p.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(p.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return b.String()
}

func TestStaleGeneratedCodeIsWrittenFirst(t *testing.T) {
	p := newProject(t, map[string]string{
		"a/main.go":      "package main\n\nimport \"example.test/shop/hello\"\n\nfunc main() { print(len(new(hello.Greeting).AppendFlat(nil)) > 0) }\n",
		"b/main.go":      prints("b"),
		"hello/hello.go": serviceSource,
	})
	p.useSDK()
	step := func(what string, regenerated bool, logs ...string) {
		t.Helper()
		results, err := p.cells()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if results[0].Regenerated != regenerated || results[1].Regenerated {
			t.Errorf("%s: results are %+v", what, results)
		}
		log := strings.Join(p.log, "\n")
		for _, want := range logs {
			if !strings.Contains(log, want) {
				t.Errorf("%s: log lacks %q:\n%s", what, want, log)
			}
		}
		if p.says("a") != "true" {
			t.Errorf("%s: it says %q", what, p.says("a"))
		}
		p.idle()
	}
	step("nothing is there", true, "build a: it is not built yet", "regenerate hello: ", "greeter_cell.go", "messages_cell.go")
	p.write("hello/hello.go", strings.Replace(serviceSource, "Text string", "Text string; PID int64", 1))
	before := p.tree()
	why, err := build.Stale(p.jobs, build.Options{Env: p.env})
	if err != nil || why["a"] == "" || why["b"] != "" {
		t.Errorf("what is stale: got %q, %v; want a alone", why, err)
	}
	if after := p.tree(); after != before {
		t.Errorf("asking has written:\n%s\nwas\n%s", after, before)
	}
	step("a field more", true, "hello changed", "regenerate hello: ")
	p.remove("hello/messages_cell.go")
	step("generated file deleted", true, "regenerate hello: messages_cell.go")
	p.write("hello/more.go", "package hello\n\nfunc More() {}\n")
	step("a file that declares nothing", false, "build a: ")

	p.write("hello/hello.go", strings.Replace(serviceSource, "Text string", "Text int32", 1))
	_, err = p.cells()
	if err == nil || !strings.Contains(err.Error(), `build cell "a": `) || !strings.Contains(err.Error(), "Text") {
		t.Errorf("a field changed its type: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), `"b"`) {
		t.Errorf("b is blamed: %v", err)
	}
	p.write("c/main.go", "package main\n\nimport \"example.test/shop/hello\"\n\nfunc main() { print(new(hello.Greeting)) }\n")
	p.jobs = append(p.jobs, p.job("c"))
	_, err = p.cells()
	if err == nil || !strings.HasPrefix(err.Error(), `build cell "a", "c": `) || strings.Count(err.Error(), "build cell") != 1 {
		t.Errorf("one reason for two cells: got %v, want it once", err)
	}
}

func BenchmarkUpToDate(b *testing.B) {
	repo, err := filepath.Abs("../../../..")
	if err != nil {
		b.Fatal(err)
	}
	var jobs []build.Job
	for _, name := range []string{"greeter", "visitor"} {
		dir := filepath.Join(repo, "examples/template-cell", name)
		jobs = append(jobs, build.Job{Name: name, Dir: dir, Package: dir, Out: filepath.Join(b.TempDir(), name)})
	}
	for i := range 3 {
		j := jobs[i%2]
		j.Out += "-more"
		jobs = append(jobs, j)
	}
	if _, err := build.Cells(b.Context(), jobs, build.Options{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		results, err := build.Cells(b.Context(), jobs, build.Options{Log: func(s string) { b.Fatal(s) }})
		if err != nil || results[0].Built {
			b.Fatal(err)
		}
	}
}
