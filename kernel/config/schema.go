package config

import (
	"encoding"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/genome"
	"github.com/cellkernel/cellkernel/sdk"
)

// The shape of genome.toml is that of the structs of package genome: the
// functions here read it off their types, so that neither can drift.

var (
	genomeType   = reflect.TypeFor[genome.Genome]()
	cellType     = reflect.TypeFor[genome.Cell]()
	axonType     = reflect.TypeFor[genome.Axon]()
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// A Key documents one key of genome.toml.
type Key struct {
	Key     string // "cells.NAME.replicas"; NAME, KEY and KIND-NAME stand for any
	Type    string // "integer", "array of strings", …
	Default string // as TOML; a key in parentheses where it is inherited; empty: none
}

// Keys returns every key of the merged tree with its type and default, sorted.
func Keys() []Key {
	var keys []Key
	defaults := genome.Default()
	g := reflect.ValueOf(*defaults)
	list(&keys, g.FieldByName("Kernel"), "kernel")
	list(&keys, g.FieldByName("Golgi"), "golgi")
	list(&keys, g.FieldByName("Workspace"), "workspace")
	list(&keys, reflect.ValueOf(*genome.DefaultCell()), "cells.NAME")
	list(&keys, reflect.ValueOf(*genome.DefaultAxon(defaults.Golgi)), "cells.NAME.axons.NAME")
	list(&keys, reflect.ValueOf(genome.Plugin{}), "plugins.KIND-NAME")
	for i := range keys {
		if from, ok := inherited[keys[i].Key]; ok {
			keys[i].Default = from
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.Key, b.Key) })
	return keys
}

// inherited are defaults that depend on something else.
var inherited = map[string]string{
	"kernel.node":                   "(host name and directory)",
	"cells.NAME.dir":                "(directory of the file)",
	"cells.NAME.restart":            `("always", of a job "never")`,
	"cells.NAME.axons.NAME.links":   "(golgi.links)",
	"cells.NAME.axons.NAME.retries": "(golgi.retries)",
	"cells.NAME.axons.NAME.timeout": "(golgi.deadline)",
	"plugins.KIND-NAME.use":         "(NAME)",
}

// list appends the keys of a struct that holds defaults.
func list(keys *[]Key, v reflect.Value, prefix string) {
	for _, f := range fields(v.Type()) {
		key, field := prefix+"."+f.name, v.FieldByIndex(f.index)
		switch {
		case f.rest:
			*keys = append(*keys, Key{Key: prefix + ".KEY", Type: "any"})
		case isTable(f.typ):
			list(keys, field, key)
		case f.typ.Kind() == reflect.Map && f.typ.Elem().Kind() != reflect.Pointer:
			*keys = append(*keys, Key{Key: key + ".NAME", Type: typeName(f.typ.Elem())})
		case f.typ.Kind() != reflect.Map:
			*keys = append(*keys, Key{Key: key, Type: typeName(f.typ), Default: render(field)})
		}
	}
}

// entry is a field that genome.toml may set.
type entry struct {
	name  string
	typ   reflect.Type
	index []int
	rest  bool // takes the keys that no other field has
}

// fields returns the settable fields of a struct.
func fields(t reflect.Type) []entry {
	var out []entry
	for i := range t.NumField() {
		f := t.Field(i)
		if tag := f.Tag.Get("genome"); tag != "-" {
			out = append(out, entry{name: f.Tag.Get("json"), typ: f.Type, index: f.Index, rest: tag == "rest"})
		}
	}
	return out
}

// fieldNames returns the keys of a struct, without the rest.
func fieldNames(t reflect.Type) []string {
	var names []string
	for _, f := range fields(t) {
		if !f.rest {
			names = append(names, f.name)
		}
	}
	return names
}

// isTable reports whether t is written as a table of fixed keys.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !isText(t)
}

// isText reports whether t parses itself from a string.
func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textType) }

// typeName is what documentation and messages call a type.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t == reflect.TypeFor[genome.Bytes]():
		return "size"
	case t == reflect.TypeFor[genome.Listen]():
		return "boolean or address"
	case t == reflect.TypeFor[[]genome.Target]():
		return "array of axon addresses"
	case t == reflect.TypeFor[[]sdk.NodeID]():
		return "array of node ids"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array of " + typeName(t.Elem()) + "s"
	case reflect.Struct, reflect.Map:
		return "table"
	}
	return "any"
}
