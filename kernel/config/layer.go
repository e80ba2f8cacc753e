package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/genome"
)

func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// layer is one source of values: a file, a variable or a --set. Its tree has
// the shape of the merged one: [genome] is cells.NAME, paths are absolute.
type layer struct {
	kind   originKind
	name   string // as the user named it
	file   string // absolute, of files only
	dir    string // what its paths are relative to
	own    string // the cell of [genome], empty if there is none
	rank   int
	doc    *document
	tree   map[string]any
	places map[string]place // by keyText of the path in the merged tree
}

// read reads a file as a new layer.
func (l *loader) read(name string, kind originKind) (*layer, *Error) {
	name = filepath.Clean(name)
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, &Error{File: name, Message: err.Error(), layer: len(l.layers)}
	}
	data, err := readFile(abs)
	if err != nil {
		return nil, &Error{File: name, Message: err.Error(), layer: len(l.layers)}
	}
	doc, bad := parse(data)
	if bad != nil {
		bad.File, bad.layer = name, len(l.layers)
		return nil, bad
	}
	ly := &layer{kind: kind, name: name, file: abs, dir: filepath.Dir(abs), doc: doc,
		rank: len(l.layers), tree: doc.tree, places: map[string]place{}}
	l.layers = append(l.layers, ly)
	return ly, nil
}

// line returns a source line, empty where there is no file.
func (ly *layer) line(n int) string {
	if ly.doc == nil {
		return ""
	}
	return ly.doc.line(n)
}

// find returns where path is written, or else the nearest table around it.
func (ly *layer) find(path []string) place {
	for n := len(path); n > 0; n-- {
		if p, ok := ly.places[keyText(path[:n])]; ok {
			if n < len(path) {
				p.value = p.key
			}
			return p
		}
	}
	return place{}
}

// cells returns the names of the cells in the tree, sorted.
func (ly *layer) cells() []string {
	cells, _ := ly.tree["cells"].(map[string]any)
	return slices.Sorted(maps.Keys(cells))
}

// describe notes the cells of a file; a cell described before is an error
// that names both places, and is left out.
func (l *loader) describe(ly *layer) {
	for _, name := range ly.cells() {
		path := []string{"cells", name}
		at := ly.find(path).key
		first, ok := l.described[name]
		if !ok {
			l.described[name] = description{ly, at}
			continue
		}
		l.report(ly, at, path, sprintf("two cells of this name: %s and %s", where(first.layer, first.at), where(ly, at)), "")
		delete(ly.tree["cells"].(map[string]any), name)
	}
}

func where(ly *layer, at span) string { return sprintf("%s:%d:%d", ly.name, at.line, at.column) }

// arrange gives the tree of a file the shape of the merged one. An overlay
// may leave out genome.name; root is what it means then.
func (l *loader) arrange(ly *layer, root string) {
	l.checkTables(ly)
	ly.own = l.ownName(ly, root)
	own, hasOwn := ly.tree["genome"].(map[string]any)
	cells, hasCells := ly.tree["cells"].(map[string]any)
	ly.index()
	for _, section := range []string{"axons", "junctions"} {
		v, ok := ly.tree[section]
		if !ok {
			continue
		}
		if !hasOwn && ly.own == "" {
			l.report(ly, ly.find([]string{section}).key, []string{section},
				sprintf("belongs to a [genome], which is not in this file; write [cells.NAME.%s]", section), "")
		} else {
			own = withKey(own, section, v)
			hasOwn = true
		}
		delete(ly.tree, section)
	}
	if hasOwn {
		delete(own, "name")
		delete(ly.tree, "genome")
		if _, ok := cells[ly.own]; ok {
			l.report(ly, ly.find([]string{"cells", ly.own}).key, []string{"cells", ly.own}, "[genome] of this file describes the same cell", "")
		}
		if !hasCells && ly.tree["cells"] == nil {
			cells = map[string]any{}
			ly.tree["cells"] = cells
		}
		if cells != nil {
			cells[ly.own] = own
		}
	}
	ly.expandAxons()
	ly.absolute()
}

// checkTables removes what can not be arranged.
func (l *loader) checkTables(ly *layer) {
	if v, ok := ly.tree["genome"]; ok {
		if _, ok := v.(map[string]any); !ok {
			l.report(ly, ly.written([]string{"genome"}).value, []string{"genome"}, "want a table, got "+kindOf(v), "")
			delete(ly.tree, "genome")
			l.incomplete = true
		}
	}
	if cells, _ := ly.tree["cells"].(map[string]any); len(cells) > genome.MaxCells {
		l.report(ly, span{}, []string{"cells"}, sprintf("at most %d cells, got %d", genome.MaxCells, len(cells)), "")
		delete(ly.tree, "cells")
		l.incomplete = true
	}
}

// index notes the places of the file by their path in the merged tree. A
// table without a header is where the first of its keys is.
func (ly *layer) index() {
	note := func(path []string, p place) {
		if _, ok := ly.places[keyText(path)]; !ok {
			ly.places[keyText(path)] = p
		}
	}
	for _, p := range ly.doc.places {
		note(ly.rename(p.path), p)
	}
	for _, p := range ly.doc.places {
		path := ly.rename(p.path)
		for n := range path {
			note(path[:n], place{key: p.key, value: p.key})
		}
	}
}

func withKey(m map[string]any, k string, v any) map[string]any {
	if m == nil {
		m = map[string]any{}
	}
	m[k] = v
	return m
}

// unnamed stands for the cell of a [genome] without a usable name.
const unnamed = "(unnamed)"

// ownName returns the name of the file's own cell, "" if it has none.
func (l *loader) ownName(ly *layer, root string) string {
	own, ok := ly.tree["genome"].(map[string]any)
	if !ok {
		return root
	}
	path := []string{"genome", "name"}
	at := ly.written(path)
	name, ok := own["name"].(string)
	switch {
	case own["name"] == nil && root != "":
		return root
	case own["name"] == nil:
		l.report(ly, ly.written(path[:1]).key, path, "the cell needs a name", "")
	case !ok:
		l.report(ly, at.value, path, "want a string, got "+kindOf(own["name"]), "")
	case root != "" && name != root:
		l.report(ly, at.value, path, sprintf("an overlay can not rename %q", root), "")
	case name == "":
		l.report(ly, at.value, path, "the cell needs a name", "")
	default:
		return name
	}
	l.incomplete = true
	return unnamed
}

// written is find before the paths were renamed.
func (ly *layer) written(path []string) place {
	for _, p := range ly.doc.places {
		if slices.Equal(p.path, path) {
			return p
		}
	}
	return place{}
}

// rename turns the path of a file into that of the merged tree.
func (ly *layer) rename(path []string) []string {
	if ly.own == "" || len(path) == 0 {
		return path
	}
	switch path[0] {
	case "genome":
		return append([]string{"cells", ly.own}, path[1:]...)
	case "axons", "junctions":
		return append([]string{"cells", ly.own}, path...)
	}
	return path
}

// arrangeMember is arrange for members, which describe one cell each.
func (l *loader) arrangeMember(ly *layer) {
	for _, section := range slices.Sorted(maps.Keys(ly.tree)) {
		switch section {
		case "genome", "axons", "junctions":
			continue
		}
		known := append(fieldNames(genomeType), "genome", "axons", "junctions")
		at := ly.written([]string{section}).key
		if at.line == 0 {
			at = ly.firstUnder(section)
		}
		if slices.Contains(known, section) {
			l.report(ly, at, []string{section}, sprintf("a member has [genome], [axons] and [junctions] only; this belongs into %s", l.root.name), "")
		} else {
			l.report(ly, at, []string{section}, "unknown key", genome.Nearest(section, known[len(known)-3:]))
		}
		delete(ly.tree, section)
	}
	if _, ok := ly.tree["genome"]; !ok {
		l.report(ly, span{}, []string{"genome"}, "a member needs a [genome]", "")
		l.incomplete = true
		ly.tree = map[string]any{}
	}
	l.arrange(ly, "")
}

// firstUnder finds a section that has no header of its own.
func (ly *layer) firstUnder(section string) span {
	for _, p := range ly.doc.places {
		if p.path[0] == section {
			return p.key
		}
	}
	return span{}
}

// expandAxons turns `store = "axon://store"` into its long form, so that
// other layers can set one key of it.
func (ly *layer) expandAxons() {
	cells, _ := ly.tree["cells"].(map[string]any)
	for name, c := range cells {
		c, _ := c.(map[string]any)
		axons, _ := c["axons"].(map[string]any)
		for alias, a := range axons {
			if s, ok := a.(string); ok {
				axons[alias] = map[string]any{"to": []any{s}}
				path := []string{"cells", name, "axons", alias}
				if p, ok := ly.places[keyText(path)]; ok {
					ly.places[keyText(extend(path, "to"))] = p
				}
			}
		}
	}
}

// absolute makes the paths of a layer absolute. Values of a wrong type stay.
func (ly *layer) absolute() {
	cells, _ := ly.tree["cells"].(map[string]any)
	for _, c := range cells {
		c, _ := c.(map[string]any)
		ly.absoluteKey(c, "dir", always)
		ly.absoluteKey(c, "package", isLocal)
		junctions, _ := c["junctions"].(map[string]any)
		for k := range junctions {
			ly.absoluteKey(junctions, k, always)
		}
	}
	golgi, _ := ly.tree["golgi"].(map[string]any)
	for _, k := range []string{"transports", "discovery", "ledger", "billing"} {
		ly.absoluteKey(golgi, k, hasSlash)
	}
	plugins, _ := ly.tree["plugins"].(map[string]any)
	for _, p := range plugins {
		p, _ := p.(map[string]any)
		ly.absoluteKey(p, "use", hasSlash)
	}
	workspace, _ := ly.tree["workspace"].(map[string]any)
	ly.absoluteKey(workspace, "members", always)
}

// absoluteKey changes the string, or the strings of the array, at m[k].
func (ly *layer) absoluteKey(m map[string]any, k string, isPath func(string) bool) {
	change := func(v any) any {
		s, ok := v.(string)
		if !ok || s == "" || !isPath(s) || filepath.IsAbs(s) {
			return v
		}
		return filepath.Join(ly.dir, s)
	}
	switch v := m[k].(type) {
	case string:
		m[k] = change(v)
	case []any:
		for i := range v {
			v[i] = change(v[i])
		}
	}
}

func always(string) bool     { return true }
func hasSlash(s string) bool { return strings.Contains(s, "/") }
func isLocal(s string) bool {
	return s == "." || s == ".." || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../")
}
