package config

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/cellkernel/cellkernel/kernel/genome"
)

// A decoder copies a tree into the structs of package genome: strictly, over
// whatever values are there already, going on after each error.
type decoder struct {
	golgi  genome.Golgi // what axons inherit
	left   int          // unknown keys it will still look at
	report func(path []string, unknown bool, message, hint string)
}

// genome decodes a whole tree over g. Golgi comes first, axons inherit from it.
func (d *decoder) genome(tree map[string]any, g *genome.Genome) {
	v := reflect.ValueOf(g).Elem()
	if golgi, ok := tree["golgi"]; ok {
		d.value(golgi, v.FieldByName("Golgi"), []string{"golgi"})
		rest := maps.Clone(tree)
		delete(rest, "golgi")
		tree = rest
	}
	d.golgi = g.Golgi
	d.value(tree, v, nil)
}

func (d *decoder) wrong(path []string, want string, got any) {
	d.report(path, false, fmt.Sprintf("want %s, got %s", want, kindOf(got)), "")
}

// value decodes v into the settable value out.
func (d *decoder) value(v any, out reflect.Value, path []string) {
	switch t := out.Type(); {
	case t == durationType:
		d.duration(v, out, path)
	case isText(t):
		d.text(v, out, path)
	case t.Kind() == reflect.Struct:
		d.table(v, out, path)
	case t.Kind() == reflect.Map:
		d.mapping(v, out, path)
	case t.Kind() == reflect.Slice:
		d.slice(v, out, path)
	case t.Kind() == reflect.Pointer:
		d.value(v, out.Elem(), path)
	case t.Kind() == reflect.Interface:
		d.anything(v, out, path)
	default:
		d.scalar(v, out, path)
	}
}

func (d *decoder) duration(v any, out reflect.Value, path []string) {
	s, ok := v.(string)
	if !ok {
		d.wrong(path, `a duration such as "500ms"`, v)
		return
	}
	t, err := time.ParseDuration(s)
	if err != nil {
		d.report(path, false, fmt.Sprintf("want a duration such as \"500ms\", got %.40q", s), "")
		return
	}
	out.SetInt(int64(t))
}

// text lets a type parse itself from a string, a boolean or an integer.
func (d *decoder) text(v any, out reflect.Value, path []string) {
	switch v.(type) {
	case string, bool, int64:
	default:
		d.wrong(path, typeName(out.Type()), v)
		return
	}
	u := out.Addr().Interface().(encoding.TextUnmarshaler)
	if err := u.UnmarshalText([]byte(fmt.Sprint(v))); err != nil {
		d.report(path, false, err.Error(), "")
	}
}

func (d *decoder) table(v any, out reflect.Value, path []string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(path, "a table", v)
		return
	}
	known := map[string]entry{}
	var rest *entry
	for _, f := range fields(out.Type()) {
		if f.rest {
			rest = &f
		} else {
			known[f.name] = f
		}
	}
	others := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch f, ok := known[k]; {
		case ok:
			d.value(m[k], out.FieldByIndex(f.index), extend(path, k))
		case rest != nil:
			others[k] = m[k]
		case d.left > 0:
			d.left--
			d.report(extend(path, k), true, "unknown key", genome.Nearest(k, d.names(path, out.Type())))
		}
	}
	if rest != nil {
		d.value(others, out.FieldByIndex(rest.index), path)
	}
}

// names are the keys a table may have; the root has those of the file, too.
func (d *decoder) names(path []string, t reflect.Type) []string {
	names := fieldNames(t)
	if len(path) == 0 {
		names = append(names, "genome", "axons", "junctions")
	}
	return names
}

func (d *decoder) mapping(v any, out reflect.Value, path []string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(path, "a table", v)
		return
	}
	if out.IsNil() {
		out.Set(reflect.MakeMap(out.Type()))
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e := d.fresh(out.Type().Elem())
		d.value(m[k], e, extend(path, k))
		out.SetMapIndex(reflect.ValueOf(k).Convert(out.Type().Key()), e)
	}
}

// fresh returns a settable value of type t with its defaults.
func (d *decoder) fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t {
	case reflect.PointerTo(cellType):
		v.Set(reflect.ValueOf(genome.DefaultCell()))
	case reflect.PointerTo(axonType):
		v.Set(reflect.ValueOf(genome.DefaultAxon(d.golgi)))
	}
	return v
}

func (d *decoder) slice(v any, out reflect.Value, path []string) {
	a, ok := v.([]any)
	if !ok {
		d.wrong(path, article(typeName(out.Type())), v)
		return
	}
	if len(a) > 4096 {
		d.report(path, false, fmt.Sprintf("at most 4096 elements, got %d", len(a)), "")
		return
	}
	s := reflect.MakeSlice(out.Type(), len(a), len(a))
	for i, e := range a {
		d.value(e, s.Index(i), path)
	}
	out.Set(s)
}

func (d *decoder) scalar(v any, out reflect.Value, path []string) {
	switch x := v.(type) {
	case string:
		if out.Kind() == reflect.String {
			out.SetString(x)
			return
		}
	case bool:
		if out.Kind() == reflect.Bool {
			out.SetBool(x)
			return
		}
	case int64:
		if out.CanInt() {
			out.SetInt(x)
			return
		}
		if out.CanFloat() {
			out.SetFloat(float64(x))
			return
		}
	case float64:
		if out.CanFloat() {
			out.SetFloat(x)
			return
		}
	}
	d.wrong(path, article(typeName(out.Type())), v)
}

// anything takes what JSON can carry: plugins read their sections as JSON.
func (d *decoder) anything(v any, out reflect.Value, path []string) {
	switch x := v.(type) {
	case map[string]any:
		m := reflect.ValueOf(map[string]any{})
		d.mapping(x, m, path)
		out.Set(m)
	case []any:
		s := reflect.New(reflect.TypeFor[[]any]()).Elem()
		d.slice(x, s, path)
		out.Set(s)
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			d.report(path, false, "want a finite number", "")
			return
		}
		out.Set(reflect.ValueOf(x))
	case time.Time:
		out.Set(reflect.ValueOf(x.Format(time.RFC3339Nano)))
	case fmt.Stringer: // dates and times without a zone
		out.Set(reflect.ValueOf(x.String()))
	default:
		out.Set(reflect.ValueOf(x))
	}
}

// kindOf names the TOML type of a value, with the value where it is short.
func kindOf(v any) string {
	switch x := v.(type) {
	case string:
		return fmt.Sprintf("the string %.40q", x)
	case bool:
		return fmt.Sprintf("the boolean %v", x)
	case int64:
		return fmt.Sprintf("the integer %d", x)
	case float64:
		return fmt.Sprintf("the number %v", x)
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	case time.Time, toml.LocalDate, toml.LocalTime, toml.LocalDateTime:
		return "a date or time"
	}
	return fmt.Sprintf("%T", v)
}

func article(name string) string {
	if name == "integer" || strings.HasPrefix(name, "array") {
		return "an " + name
	}
	return "a " + name
}

// extend returns path with one more element, in memory of its own.
func extend(path []string, k string) []string {
	return append(slices.Clip(slices.Clone(path)), k)
}
