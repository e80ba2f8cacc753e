package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/cellkernel/cellkernel/kernel/genome"
)

type originKind uint8

const (
	originFile originKind = iota + 1
	originOverlay
	originVariable
	originSet
)

// A Value is one effective setting and where it comes from.
type Value struct {
	Key    string `json:"key"`    // "cells.worker.replicas"
	Value  string `json:"value"`  // as TOML would write it
	Origin string `json:"origin"` // "default", "genome.toml:12", "overlay prod.toml:3", "CELLKERNEL_GOLGI__LINKS", "--set golgi.links=4"
}

// Origins knows the source of every value of a genome. It is read-only.
type Origins struct {
	genome *genome.Genome
	from   map[string]*layer // by keyText: of a value the last layer that sets it, of a table the first
}

func originsOf(layers []*layer) *Origins {
	o := &Origins{from: map[string]*layer{}}
	for _, ly := range layers {
		o.note(ly, ly.tree, nil)
	}
	return o
}

func (o *Origins) note(ly *layer, v any, path []string) {
	m, isTable := v.(map[string]any)
	if key := keyText(path); len(path) > 0 && (!isTable || o.from[key] == nil) {
		o.from[key] = ly
	}
	for k, e := range m {
		o.note(ly, e, extend(path, k))
	}
}

func (o *Origins) has(path []string) bool { return o.from[keyText(path)] != nil }

// find returns the layer that set path, or else a table around it, and where.
func (o *Origins) find(path []string) (*layer, span) {
	for n := len(path); n > 0; n-- {
		if ly := o.from[keyText(path[:n])]; ly != nil {
			p := ly.find(path)
			if n < len(path) {
				return ly, p.key
			}
			return ly, p.value
		}
	}
	return nil, span{}
}

// Doubts returns what is no mistake and looks like one, as
// [genome.Genome.Doubts] and [LooseJunctions] have it, at the places where it
// was written.
func (o *Origins) Doubts() Errors {
	var list Errors
	doubts := o.genome.Doubts(slices.Sorted(maps.Keys(o.genome.Cells)))
	for _, p := range append(doubts, LooseJunctions(o.genome)...) {
		if ly, at := o.find(p.Key); ly != nil {
			list = append(list, placed(ly, at, p.Key, p.Text, p.Hint))
		}
	}
	return list.sorted()
}

// LooseJunctions lists junctions to directories without a genome.toml: one may
// be written there later, so that they are no mistakes.
func LooseJunctions(g *genome.Genome) []genome.Problem {
	var list []genome.Problem
	for _, cell := range slices.Sorted(maps.Keys(g.Cells)) {
		for _, name := range slices.Sorted(maps.Keys(g.Cells[cell].Junctions)) {
			dir := g.Cells[cell].Junctions[name]
			if _, err := os.Stat(filepath.Join(dir, "genome.toml")); errors.Is(err, fs.ErrNotExist) {
				list = append(list, genome.Problem{
					Key:  []string{"cells", string(cell), "junctions", string(name)},
					Text: fmt.Sprintf("junction %q of cell %q: no genome.toml in %s", name, cell, dir),
				})
			}
		}
	}
	return list
}

// Of returns the origin of a key such as "golgi.links". What no layer has set
// is "default".
func (o *Origins) Of(key string) string {
	ly := o.from[key]
	if ly == nil {
		return "default"
	}
	switch p, ok := ly.places[key]; {
	case ly.kind == originFile && ok:
		return fmt.Sprintf("%s:%d", ly.name, p.value.line)
	case ly.kind == originOverlay && ok:
		return fmt.Sprintf("overlay %s:%d", ly.name, p.value.line)
	}
	return ly.name
}

// List returns every effective value, defaults included, sorted by section
// and key.
func (o *Origins) List() []Value {
	var out []Value
	g := reflect.ValueOf(*o.genome)
	for _, f := range fields(g.Type()) {
		o.list(&out, g.FieldByIndex(f.index), []string{f.name})
	}
	return out
}

// list appends the leaves below v.
func (o *Origins) list(out *[]Value, v reflect.Value, path []string) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case isTable(v.Type()):
		for _, f := range fields(v.Type()) {
			next := extend(path, f.name)
			if f.rest {
				next = path
			}
			o.list(out, v.FieldByIndex(f.index), next)
		}
	case v.Kind() == reflect.Map:
		keys := map[string]reflect.Value{}
		for _, k := range v.MapKeys() {
			keys[k.String()] = v.MapIndex(k)
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			o.list(out, keys[k], extend(path, k))
		}
	case v.Kind() == reflect.Interface && v.Elem().Kind() == reflect.Map:
		o.list(out, v.Elem(), path)
	default:
		key := keyText(path)
		*out = append(*out, Value{Key: key, Value: render(v), Origin: o.Of(key)})
	}
}
