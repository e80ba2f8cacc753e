package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A record says what an executable was made from. It lies beside it.
type record struct {
	Format  int      `json:"format"`
	Dir     string   `json:"dir"`
	Package string   `json:"package"`
	Tool    string   `json:"tool"`   // which go command
	Env     []string `json:"env"`    // variables that matter
	Out     string   `json:"out"`    // which file the executable was
	Inputs  []input  `json:"inputs"` // in the order of the listing
	// Generates lists directories of the cell's own module whose generated
	// code can become stale.
	Generates []string `json:"generates,omitempty"`
}

const (
	recordFormat = 1
	recordExt    = ".build.json"
	maxRecord    = 16 << 20 // bytes; a longer one is not ours
)

// An input is a watch and what it was.
type input struct {
	watch
	Sum string `json:"sum"`
}

// stale says why a job must be built, or nothing if it need not.
func (b *builder) stale(j Job) string {
	r, why := readRecord(j)
	if why != "" {
		return why
	}
	if b.tool.id != "" && r.Tool != b.tool.id {
		return "the go command changed"
	}
	if name := differs(r.Env, b.tool.env); name != "" {
		return name + " changed"
	}
	for _, in := range r.Inputs {
		if b.sumOf(in.watch).hash != in.Sum {
			return shorten(in.Path, j.Dir) + " changed"
		}
	}
	for _, dir := range r.Generates {
		if b.generatedStale(dir) {
			return "generated code in " + shorten(dir, j.Dir) + " is stale"
		}
	}
	return ""
}

func readRecord(j Job) (r record, why string) {
	if identify(j.Out) == "" {
		return r, "it is not built yet"
	}
	path := j.Out + recordExt
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxRecord {
		return r, "there is no record of how it was built"
	}
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &r) != nil || r.Format != recordFormat {
		return r, "there is no record of how it was built"
	}
	switch {
	case r.Dir != j.Dir || r.Package != j.Package:
		return r, "it was built from " + r.Package
	case r.Out != identify(j.Out):
		return r, "somebody else replaced the executable"
	}
	return r, ""
}

// identify tells one version of a file from another, empty if it is not there.
func identify(path string) string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
}

// differs returns the name of a variable that is not the same in both lists,
// which are sorted.
func differs(old, now []string) string {
	for _, pair := range [2][2][]string{{old, now}, {now, old}} {
		for _, v := range pair[0] {
			if !slices.Contains(pair[1], v) {
				name, _, _ := strings.Cut(v, "=")
				return name
			}
		}
	}
	return ""
}

// newRecord looks at all inputs of a task, before it is compiled.
func (m *module) newRecord(t *task) *record {
	r := &record{Format: recordFormat, Dir: t.Dir, Package: t.Package, Tool: m.tool.id, Env: m.tool.env}
	for _, w := range t.pkg.watches {
		r.Inputs = append(r.Inputs, input{w, m.sumOf(w).hash})
	}
	for _, dir := range t.own {
		if generates(dir) {
			r.Generates = append(r.Generates, dir)
		}
	}
	return r
}

// remember writes the record of a task that was built. If an input changed
// since the listing began nobody knows what was compiled: then there is no
// record, and the next call builds again.
func (m *module) remember(t *task) error {
	path := t.Out + recordExt
	for _, in := range t.rec.Inputs {
		s := m.sumOf(in.watch)
		if s.hash == in.Sum && !s.changedSince(m.begun) {
			continue
		}
		m.log("build %s: %s changed meanwhile: it will be built again", t.Name, shorten(in.Path, t.Dir))
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove record: %w", err)
		}
		return nil
	}
	t.rec.Out = identify(t.Out)
	text, err := json.Marshal(t.rec)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	tmp := filepath.Join(m.tmp, filepath.Base(path))
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return move(tmp, path)
}
