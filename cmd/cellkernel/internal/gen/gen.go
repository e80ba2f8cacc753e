package gen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// Options say how to generate. The zero Options write to the packages below
// the working directory.
type Options struct {
	// Dir is where patterns are relative to; empty is the working directory.
	Dir string
	// Check writes nothing: results say what would change.
	Check bool
}

// A Result is what happened to one package.
type Result struct {
	Package  string   // import path
	Dir      string   // absolute
	Services []string // in source order
	Files    []string // base names of the files that belong to the services, sorted
	Changed  []string // those that were, or with Check would be, written or removed
}

// Run generates for the packages that match patterns, "." if there are none,
// and returns a result for each that has services, in the order of their
// paths. Files are replaced whole and only if they differ. If one package has
// errors, the others are generated all the same; the error has one line for
// each mistake, with its position.
func Run(ctx context.Context, patterns []string, opts Options) ([]Result, error) {
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	if len(patterns) == 0 {
		patterns = []string{"."}
	}
	pkgs, err := load(ctx, dir, patterns)
	if err != nil {
		return nil, err
	}
	if len(pkgs) == 0 { // which the go command does not mind, even outside of a module
		return nil, fmt.Errorf("load packages: %s: no package of a module is there", strings.Join(patterns, " "))
	}
	var results []Result
	var errs []error
	for _, p := range pkgs {
		if p.Types == nil || len(p.Syntax) == 0 {
			for _, e := range p.Errors {
				errs = append(errs, fmt.Errorf("load package %s: %w", p.PkgPath, withoutPlace(e)))
			}
			continue
		}
		u := read(p)
		if u == nil {
			u = &unit{dir: p.Dir}
		}
		r, err := u.run(dir, opts.Check)
		if err != nil {
			errs = append(errs, err)
		} else if len(r.Files)+len(r.Changed) > 0 {
			results = append(results, r)
		}
	}
	slices.SortFunc(results, func(a, b Result) int { return strings.Compare(a.Package, b.Package) })
	return results, errors.Join(errs...)
}

// withoutPlace drops the position of an error that has none: it says "-".
func withoutPlace(e packages.Error) error {
	if e.Pos == "" || e.Pos == "-" {
		return errors.New(e.Msg)
	}
	return e
}

// run generates one package; messages name paths relative to base.
func (u *unit) run(base string, check bool) (Result, error) {
	r := Result{Package: u.path, Dir: u.dir}
	for _, s := range u.services {
		r.Services = append(r.Services, s.name)
	}
	files, err := u.generate(base)
	if err != nil {
		return r, err
	}
	for name := range files {
		r.Files = append(r.Files, name)
	}
	slices.Sort(r.Files)
	orphans, err := u.orphans(files)
	if err != nil {
		return r, err
	}
	for _, name := range r.Files {
		path := filepath.Join(u.dir, name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, files[name]) {
			continue
		}
		r.Changed = append(r.Changed, name)
		if !check {
			if err := replace(path, files[name]); err != nil {
				return r, err
			}
		}
	}
	for _, name := range orphans {
		r.Changed = append(r.Changed, name)
		if !check {
			if err := os.Remove(filepath.Join(u.dir, name)); err != nil {
				return r, fmt.Errorf("remove generated file: %w", err)
			}
		}
	}
	return r, nil
}

// generate returns the text of all files of the unit.
func (u *unit) generate(base string) (map[string][]byte, error) {
	if len(u.services) == 0 || len(u.problems.list) > 0 {
		return nil, u.problems.err(base)
	}
	pins, err := readPins(u.dir, &u.problems)
	if err != nil {
		return nil, err
	}
	u.pin(pins)
	if len(u.problems.list) > 0 {
		return nil, u.problems.err(base)
	}
	u.schema = u.schemaOf()
	u.checkLayouts()
	if len(u.problems.list) > 0 {
		return nil, u.problems.err(base)
	}
	files := map[string][]byte{}
	for _, s := range u.services {
		name := s.file() + ".fbs"
		if err := u.ownFile(name, "kept by cellkernel gen"); err != nil {
			return nil, err
		}
		files[name] = u.fbsText(s, pins[filepath.Join(u.dir, name)])
	}
	hash, err := u.hash(files)
	if err != nil {
		return nil, err
	}
	return files, u.goFiles(files, hash)
}

// hash is the one that Stale computes once the pinned layouts are written.
func (u *unit) hash(layouts map[string][]byte) (string, error) {
	sources, err := readSources(u.dir)
	if err != nil {
		return "", err
	}
	sources = slices.DeleteFunc(sources, func(s source) bool { return layouts[s.name] != nil })
	for name, text := range layouts {
		sources = append(sources, source{name: name, text: text})
	}
	slices.SortFunc(sources, func(a, b source) int { return strings.Compare(a.name, b.name) })
	_, hash, err := scan(sources)
	if err != nil {
		return "", fmt.Errorf("scan %s: %w", u.dir, err)
	}
	return hash, nil
}

// goFiles adds the Go files to files.
func (u *unit) goFiles(files map[string][]byte, hash string) error {
	var names []string
	for _, s := range u.services {
		names = append(names, s.name)
		text, err := u.goFile(s.name, "service.tmpl", hash, s.data())
		if err != nil {
			return err
		}
		files[s.file()+"_cell.go"] = text
	}
	var data []messageData
	for _, m := range u.messages {
		data = append(data, u.messageData(m))
	}
	text, err := u.goFile(strings.Join(names, ", "), "messages.tmpl", hash, data)
	if err != nil {
		return err
	}
	files["messages_cell.go"] = text
	for name := range files {
		if strings.HasSuffix(name, ".go") {
			if err := u.ownFile(name, generatedBy); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownFile refuses to overwrite a file that someone else wrote.
func (u *unit) ownFile(name, mark string) error {
	text, err := os.ReadFile(filepath.Join(u.dir, name))
	if err == nil && !strings.Contains(firstLine(text), mark) {
		return fmt.Errorf("write %s: the file is there and not generated: rename it", filepath.Join(u.dir, name))
	}
	return nil
}

// orphans lists generated Go files that nothing generates any more. Pinned
// layouts are kept: a service that comes back has its slots.
func (u *unit) orphans(files map[string][]byte) ([]string, error) {
	if u.dir == "" {
		return nil, nil
	}
	names, err := filepath.Glob(filepath.Join(u.dir, "*_cell.go"))
	if err != nil {
		return nil, fmt.Errorf("list generated files: %w", err)
	}
	var list []string
	for _, path := range names {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read generated file: %w", err)
		}
		if name := filepath.Base(path); files[name] == nil && isGenerated(text) {
			list = append(list, name)
		}
	}
	return list, nil
}

// replace writes a file so that no reader sees half of it.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".gen-*")
	if err != nil {
		return fmt.Errorf("write generated file: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write generated file: %w", err)
	}
	return nil
}
