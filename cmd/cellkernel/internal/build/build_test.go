package build_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/build"
)

// A project is a Go module in a temporary directory and the jobs of a test.
type project struct {
	t    *testing.T
	root string
	jobs []build.Job
	env  []string // of the go command; nil: this process's own
	log  []string
}

const goMod = "module example.test/shop\n\ngo 1.26\n"

// newProject writes files, and has a job for each directory with a main.go.
func newProject(t *testing.T, files map[string]string) *project {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, root: root}
	p.write("go.mod", goMod)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		p.write(name, files[name])
		if dir, ok := strings.CutSuffix(name, "/main.go"); ok {
			p.jobs = append(p.jobs, p.job(dir))
		}
	}
	return p
}

func (p *project) job(dir string) build.Job {
	return build.Job{
		Name: strings.ReplaceAll(dir, "/", "-"), Dir: p.path(dir), Package: p.path(dir),
		Out: p.path(".cell/build/" + strings.ReplaceAll(dir, "/", "-")),
	}
}

func (p *project) path(name string) string { return filepath.Join(p.root, filepath.FromSlash(name)) }

func (p *project) write(name, text string) {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(p.path(name), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) remove(name string) {
	p.t.Helper()
	if err := os.RemoveAll(p.path(name)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) cells() ([]build.Result, error) {
	p.log = nil
	return build.Cells(p.t.Context(), p.jobs, build.Options{Env: p.env, Log: func(s string) { p.log = append(p.log, s) }})
}

// build builds all, which must work, and returns the names of new executables.
func (p *project) build() string {
	p.t.Helper()
	results, err := p.cells()
	if err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for i, r := range results {
		if r.Path != p.jobs[i].Out || r.Name != p.jobs[i].Name {
			p.t.Errorf("result %d is %+v", i, r)
		}
		if r.Built {
			names = append(names, r.Name)
		}
	}
	return strings.Join(names, " ")
}

// idle builds where no process can be run: everything must be up to date.
func (p *project) idle() {
	p.t.Helper()
	env := p.env
	if env == nil {
		env = os.Environ()
	}
	results, err := build.Cells(p.t.Context(), p.jobs, build.Options{
		Env: append(slices.Clone(env), "PATH="+p.t.TempDir()),
		Log: func(s string) { p.t.Errorf("not up to date: %s", s) },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, r := range results {
		if r.Built || r.Regenerated || r.Path == "" {
			p.t.Errorf("up to date, but the result is %+v", r)
		}
	}
}

// says runs the executable of a cell and returns what it prints.
func (p *project) says(name string) string {
	p.t.Helper()
	out, err := exec.Command(p.path(".cell/build/" + name)).CombinedOutput()
	if err != nil {
		p.t.Fatal(err)
	}
	return string(out)
}

// prints is the source of a program.
func prints(text string) string {
	return fmt.Sprintf("package main\n\nfunc main() { print(%q) }\n", text)
}

func TestOnlyWhatChangedIsBuilt(t *testing.T) {
	p := newProject(t, map[string]string{
		"a/main.go":       "package main\n\nimport \"example.test/shop/lib\"\n\nfunc main() { print(\"a\", lib.Text()) }\n",
		"b/main.go":       prints("b"),
		"c/main.go":       "package main\n\nimport _ \"embed\"\n\n//go:embed text.txt\nvar text string\n\nfunc main() { print(text) }\n",
		"c/text.txt":      "one",
		"d/main.go":       "package main\n\nimport \"embed\"\n\n//go:embed all:data *.md\nvar files embed.FS\n\nfunc main() {\n\tl, _ := files.ReadDir(\"data\")\n\tfor _, e := range l {\n\t\tprint(e.Name(), \" \")\n\t}\n}\n",
		"d/data/sub/x":    "x",
		"d/read.md":       "me",
		"lib/lib.go":      "package lib\n\nfunc Text() string { return text }\n",
		"lib/text.go":     "package lib\n\nconst text = \" lib\"\n",
		"lib/lib_test.go": "package lib\n",
	})
	if got := p.build(); got != "a b c d" {
		t.Errorf("first build made %q", got)
	}
	if got := p.says("a"); got != "a lib" {
		t.Errorf("a says %q", got)
	}
	p.idle()
	for _, step := range []struct {
		what  string
		do    func()
		built string
		cell  string
		says  string
	}{
		{"changed file", func() { p.write("b/main.go", prints("B")) }, "b", "b", "B"},
		{"changed dependency", func() { p.write("lib/text.go", "package lib\n\nconst text = \" LIB\"\n") }, "a", "a", "a LIB"},
		{"added file", func() {
			p.write("b/more.go", "package main\n\nfunc init() { print(\"more\") }\n")
		}, "b", "b", "moreB"},
		{"removed file", func() { p.remove("b/more.go") }, "b", "b", "B"},
		{"embedded file changed", func() { p.write("c/text.txt", "two!") }, "c", "c", "two!"},
		{"file added to embedded directory", func() { p.write("d/data/y", "y") }, "d", "d", "sub y "},
		{"file removed from embedded directory", func() { p.remove("d/data/sub") }, "d", "d", "y "},
		{"file that matches an embedding pattern", func() { p.write("d/new.md", "new") }, "d", "d", "y "},
		{"new import", func() {
			p.write("b/main.go", "package main\n\nimport \"example.test/shop/lib2\"\n\nfunc main() { print(lib2.X) }\n")
			p.write("lib2/x.go", "package lib2\n\nconst X = 7\n")
		}, "b", "b", "7"},
		{"change in the new import", func() { p.write("lib2/x.go", "package lib2\n\nconst X = 89\n") }, "b", "b", "89"},
		{"executable deleted", func() { p.remove(".cell/build/a") }, "a", "a", "a LIB"},
		{"record damaged", func() { p.write(".cell/build/a.build.json", "{") }, "", "a", "a LIB"},
		{"executable replaced", func() {
			p.remove(".cell/build/b")
			p.write(".cell/build/b", "#!/bin/sh\n")
		}, "b", "b", "89"},
	} {
		step.do()
		if got := p.build(); got != step.built {
			t.Errorf("%s: built %q, want %q", step.what, got, step.built)
		}
		if len(p.log) == 0 || !strings.Contains(p.log[0], "build "+step.cell+": ") {
			t.Errorf("%s: log is %q", step.what, p.log)
		}
		if got := p.says(step.cell); got != step.says {
			t.Errorf("%s: it says %q, want %q", step.what, got, step.says)
		}
		p.idle()
	}
	for _, name := range []string{"lib/more_test.go", "b/notes.txt", "b/_x.go", ".cell/logs/a.log"} {
		p.write(name, "package p\n")
		p.idle()
	}
}

func TestTouchedFilesDoNotReplaceTheExecutable(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": prints("a")})
	p.build()
	before, err := os.Stat(p.jobs[0].Out)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(p.path("a/main.go"), old, old); err != nil {
		t.Fatal(err)
	}
	if got := p.build(); got != "" || len(p.log) == 0 {
		t.Errorf("built %q, log %q", got, p.log)
	}
	after, err := os.Stat(p.jobs[0].Out)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the same program was put in place again: %v", err)
	}
	p.idle()
}

func TestSettingsOfTheGoCommandCount(t *testing.T) {
	p := newProject(t, map[string]string{
		"a/main.go":  prints("plain"),
		"a/extra.go": "//go:build extra\n\npackage main\n\nfunc init() { print(\"extra \") }\n",
	})
	p.build()
	p.env = append(os.Environ(), "GOFLAGS=-tags=extra")
	if got := p.build(); got != "a" || !strings.Contains(p.log[0], "GOFLAGS changed") || p.says("a") != "extra plain" {
		t.Errorf("other flags: built %q, log %q, it says %q", got, p.log, p.says("a"))
	}
	p.idle()
	p.env = append(p.env, "CGO_ENABLED=0")
	p.build()
	if len(p.log) == 0 {
		t.Error("CGO_ENABLED=0: nothing was looked at")
	}
	p.env = append(p.env, "LANG=tlh", "GOMAXPROCS=1", "GOPROXY=off")
	p.idle()
	p.write("go.work", "go 1.26\n\nuse .\n")
	p.build()
	if len(p.log) == 0 || !strings.Contains(p.log[0], "go.work") {
		t.Errorf("go.work appeared: log %q", p.log)
	}
	p.idle()
}

func TestLocalModulesCount(t *testing.T) {
	p := newProject(t, map[string]string{
		"a/main.go":  "package main\n\nimport \"example.test/dep\"\n\nfunc main() { print(dep.X) }\n",
		"dep/go.mod": "module example.test/dep\n\ngo 1.26\n",
		"dep/x.go":   "package dep\n\nconst X = \"one\"\n",
	})
	p.write("go.mod", goMod+"\nrequire example.test/dep v0.0.0\n\nreplace example.test/dep => ./dep\n")
	p.build()
	p.idle()
	p.write("dep/x.go", "package dep\n\nconst X = \"two\"\n")
	if got := p.build(); got != "a" || p.says("a") != "two" {
		t.Errorf("built %q, it says %q", got, p.says("a"))
	}
	p.idle()
}

func TestPackagesOfOneNameAndCellsOfOnePackage(t *testing.T) {
	p := newProject(t, map[string]string{
		"a/cmd/main.go": prints("a"), "b/cmd/main.go": prints("b"), "c/v2/main.go": prints("c"), "main.go": prints("root"),
	})
	twin := p.job("a/cmd")
	twin.Name, twin.Out = "twin", p.path(".cell/build/twin")
	byImport := build.Job{Name: "imported", Dir: p.path("a"), Package: "example.test/shop/b/cmd", Out: p.path(".cell/build/imported")}
	relative := build.Job{Name: "relative", Dir: p.path("c"), Package: "./v2", Out: p.path("elsewhere/relative")}
	root := build.Job{Name: "root", Dir: p.root, Package: ".", Out: p.path(".cell/build/root")}
	p.jobs = append(p.jobs, twin, byImport, relative, root)
	if got := p.build(); got != "a-cmd b-cmd c-v2 twin imported relative root" {
		t.Errorf("built %q", got)
	}
	for name, want := range map[string]string{
		"a-cmd": "a", "b-cmd": "b", "c-v2": "c", "twin": "a", "imported": "b", "../../elsewhere/relative": "c", "root": "root",
	} {
		if got := p.says(name); got != want {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
	p.idle()
	if left, _ := filepath.Glob(p.path(".cell/build/.build-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestSeveralModules(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": prints("a"), "other/main.go": prints("o"), "other/go.mod": "module example.test/other\n\ngo 1.26\n"})
	if got := p.build(); got != "a other" || p.says("other") != "o" {
		t.Errorf("built %q", got)
	}
	p.idle()
}

func TestErrorsNameTheCell(t *testing.T) {
	p := newProject(t, map[string]string{
		"good/main.go":    prints("good"),
		"bad/main.go":     "package main\n\nfunc main() { undefinedThing() }\n",
		"worse/main.go":   "package main\n\nfunc main() { otherThing() }\n",
		"half/main.go":    "package main\n\nfunc main() {\n",
		"lost/main.go":    "package main\n\nimport _ \"example.test/shop/nowhere\"\n\nfunc main() {}\n",
		"library/main.go": "package library\n",
	})
	p.jobs = append(p.jobs,
		p.job("missing"),
		build.Job{Name: "unset", Dir: p.root, Out: p.path("x")},
		build.Job{Name: "flag", Dir: p.root, Package: "-toolexec=x", Out: p.path("x")},
		build.Job{Name: "many", Dir: p.root, Package: "./...", Out: p.path("x")},
		build.Job{Name: "nowhere", Dir: "a", Package: "./b", Out: p.path("x")})
	results, err := p.cells()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`build cell "bad": `, `main.go:3:15: undefined: undefinedThing`, `build cell "worse": `, "undefined: otherThing",
		`build cell "half": `, "syntax error", `build cell "lost": `, "example.test/shop/nowhere",
		`build cell "library": package example.test/shop/library is named "library": want a main package`,
		`build cell "missing": `, `build cell "unset": package ""`, `build cell "flag": package "-toolexec=x"`, `build cell "many": `,
		`build cell "nowhere": directory "a"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	for _, r := range results {
		if (r.Path != "") != (r.Name == "good") {
			t.Errorf("result %+v", r)
		}
	}
	if p.says("good") != "good" {
		t.Error("the good cell was not built")
	}
	for e := range strings.SplitSeq(err.Error(), `build cell "`) {
		if strings.HasPrefix(e, "bad") && strings.Contains(e, "otherThing") {
			t.Errorf("bad is blamed for worse: %s", e)
		}
	}
	p.write("bad/main.go", prints("better"))
	p.jobs = p.jobs[:1]
	if got := p.build(); got != "bad" || p.says("bad") != "better" {
		t.Errorf("after the repair: built %q", got)
	}
}

func TestWithoutAModuleOrAGoCommand(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": prints("a")})
	p.env = append(os.Environ(), "PATH="+t.TempDir())
	if _, err := p.cells(); err == nil || !strings.Contains(err.Error(), `build cell "a": find "go" in PATH`) {
		t.Errorf("without a go command: %v", err)
	}
	p.env = nil
	p.remove("go.mod")
	if _, err := p.cells(); err == nil || !strings.Contains(err.Error(), "go.mod") {
		t.Errorf("without a module: %v", err)
	}
	p.write("go.mod", "module\n")
	if _, err := p.cells(); err == nil || !strings.Contains(err.Error(), "go.mod:1") {
		t.Errorf("with a broken go.mod: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": prints("a")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := build.Cells(ctx, p.jobs, build.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestARunningExecutableIsReplacedNotWritten(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": "package main\n\nimport \"os\"\n\nfunc main() { os.Stdin.Read(make([]byte, 1)); print(\"old\") }\n"})
	p.build()
	cmd := exec.Command(p.jobs[0].Out)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.write("a/main.go", prints("new"))
	if got := p.build(); got != "a" || p.says("a") != "new" {
		t.Errorf("built %q", got)
	}
	in.Close()
	if err := cmd.Wait(); err != nil || out.String() != "old" {
		t.Errorf("the running one ended with %v, %q", err, out.String())
	}
}

func TestTwoKernelsBuildAtOnce(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": prints("0"), "b/main.go": prints("b")})
	for round := range 3 {
		want := fmt.Sprint("round ", round)
		p.write("a/main.go", prints(want))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := build.Cells(t.Context(), p.jobs, build.Options{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := p.says("a"); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
		p.build() // a record may have been the loser's
		p.idle()
	}
}

func TestAChangeWhileBuildingIsNotForgotten(t *testing.T) {
	p := newProject(t, map[string]string{"a/main.go": prints("one")})
	wrapper := t.TempDir()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	script := fmt.Sprintf("#!/bin/sh\n%s \"$@\" || exit\n[ \"$1\" = build ] && cp %s %s\nexit 0\n", real, p.path("next.txt"), p.path("a/main.go"))
	p.write("next.txt", prints("two"))
	if err := os.WriteFile(filepath.Join(wrapper, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	p.env = append(os.Environ(), "PATH="+wrapper+":"+os.Getenv("PATH"))
	if got := p.build(); got != "a" || p.says("a") != "one" || len(p.log) != 2 {
		t.Errorf("built %q, log %q", got, p.log)
	}
	p.env = nil
	if got := p.build(); got != "a" || p.says("a") != "two" {
		t.Errorf("built %q, it says %q", got, p.says("a"))
	}
	p.idle()
}
