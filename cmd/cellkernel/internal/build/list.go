package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// A listed package is what go list says of it.
type listed struct {
	Dir           string
	ImportPath    string
	Name          string
	Standard      bool
	DepOnly       bool
	Deps          []string
	EmbedPatterns []string
	Module        *listedModule
	Error         *listError
	DepsErrors    []*listError

	watches []watch // of a main package: all inputs
}

type listedModule struct {
	Main    bool
	Dir     string
	GoMod   string
	Version string
	Replace *listedModule
}

type listError struct {
	Pos, Err string
}

const listFields = "Dir,ImportPath,Name,Standard,DepOnly,Deps,EmbedPatterns,Module,Error,DepsErrors"

// list finds the packages and the inputs of all tasks.
func (m *module) list(ctx context.Context) error {
	args := []string{"list", "-e", "-deps", "-json=" + listFields, "--"}
	for _, t := range m.alive() {
		if p := t.pattern(); !slices.Contains(args, p) {
			args = append(args, p)
		}
	}
	out, text, err := m.run(ctx, m.root, args...)
	if err != nil {
		return complaint(text, err)
	}
	pkgs := map[string]*listed{}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		p := new(listed)
		if err := d.Decode(p); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("read go list: %w", err)
		}
		pkgs[p.ImportPath] = p
	}
	for _, t := range m.alive() {
		t.pkg, t.err = mainPackage(t.Job, pkgs)
		if t.err == nil {
			m.inputs(t, pkgs)
		}
	}
	return nil
}

// mainPackage finds the package of a job among those listed.
func mainPackage(j Job, pkgs map[string]*listed) (*listed, error) {
	want := j.pattern()
	real, err := filepath.EvalSymlinks(want)
	if err != nil {
		real = want
	}
	for _, p := range pkgs {
		if p.DepOnly || p.ImportPath != want && p.Dir != want && p.Dir != real {
			continue
		}
		if err := p.err(); err != nil {
			return nil, err
		}
		if p.Name != "main" {
			return nil, fmt.Errorf("package %s is named %q: want a main package", p.ImportPath, p.Name)
		}
		return p, nil
	}
	return nil, fmt.Errorf("package %s: no such package", j.Package)
}

// err joins what is wrong with a package and its dependencies.
func (p *listed) err() error {
	var errs []error
	seen := map[string]bool{}
	for _, e := range append([]*listError{p.Error}, p.DepsErrors...) {
		if e == nil || seen[e.Pos+e.Err] {
			continue
		}
		seen[e.Pos+e.Err] = true
		text := strings.TrimSpace(e.Err)
		if e.Pos != "" {
			text = e.Pos + ": " + text
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// inputs collects what a task's executable is made from. Packages of the
// standard library come with the go command, those of the module cache never
// change.
func (m *module) inputs(t *task, pkgs map[string]*listed) {
	t.own = nil
	var list []watch
	add := func(w ...watch) { list = append(list, w...) }
	add(m.configWatches(t.Dir)...)
	home := t.pkg.Module
	for _, path := range append([]string{t.pkg.ImportPath}, t.pkg.Deps...) {
		p := pkgs[path]
		if p == nil || p.Standard || p.Dir == "" || p.Module.cached() {
			continue
		}
		add(watch{p.Dir, kindPackage})
		add(embedWatches(p.Dir, p.EmbedPatterns)...)
		if mod := p.Module; mod != nil && mod.GoMod != "" {
			add(watch{mod.GoMod, kindFile}, watch{strings.TrimSuffix(mod.GoMod, ".mod") + ".sum", kindFile})
			if home != nil && home.Main && mod.Main && mod.Dir == home.Dir {
				t.own = append(t.own, p.Dir)
			}
		}
	}
	seen := map[watch]bool{}
	t.pkg.watches = slices.DeleteFunc(list, func(w watch) bool {
		again := seen[w]
		seen[w] = true
		return again
	})
}

// cached reports whether a module lies in the module cache.
func (m *listedModule) cached() bool {
	if m != nil && m.Replace != nil {
		m = m.Replace
	}
	return m != nil && !m.Main && m.Version != ""
}

// configWatches are the files that configure the go command for dir: also
// those that are not there yet.
func (m *module) configWatches(dir string) []watch {
	var list []watch
	for up := dir; ; up = filepath.Dir(up) {
		for _, name := range []string{"go.mod", "go.work", "go.work.sum"} {
			list = append(list, watch{filepath.Join(up, name), kindFile})
		}
		if up == filepath.Dir(up) {
			break
		}
	}
	list = append(list, watch{filepath.Join(m.root, "vendor", "modules.txt"), kindFile})
	if work := m.tool.value("GOWORK"); filepath.IsAbs(work) {
		list = append(list, watch{work, kindFile}, watch{work + ".sum", kindFile})
	}
	if m.tool.config != "" {
		list = append(list, watch{m.tool.config, kindFile})
	}
	for flag := range strings.FieldsSeq(m.tool.value("GOFLAGS")) {
		name, path, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		if slices.Contains([]string{"modfile", "overlay", "pgo"}, name) && filepath.IsAbs(path) {
			list = append(list, watch{path, kindFile})
		}
	}
	return list
}
