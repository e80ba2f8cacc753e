package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/cellkernel/cellkernel/kernel/genome"
)

const prefix = "CELLKERNEL_"

// processVariables are not configuration: they tell a process where it is.
func processVariables() []string {
	return []string{"FD", "SOCKET", "RUN", "HOME", "FILE", "TOKEN"}
}

// settings adds a layer for each variable and each --set.
func (l *loader) settings() {
	var variables []string
	for _, v := range slices.Sorted(slices.Values(l.src.Environ)) {
		name, _, ok := strings.Cut(v, "=")
		if ok && strings.HasPrefix(name, prefix) && !slices.Contains(processVariables(), name[len(prefix):]) {
			variables = append(variables, v)
		}
	}
	if len(variables)+len(l.src.Sets) > maxSettings {
		l.errs = append(l.errs, Error{File: "--set", Message: sprintf("at most %d variables and settings", maxSettings)})
		return
	}
	r := resolver{own: l.root.own, tree: l.merged()}
	rank := len(l.layers)
	for i, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		l.setting(&layer{kind: originVariable, name: name, rank: rank + i}, r.variable(name), value)
	}
	rank += len(variables)
	for i, s := range l.src.Sets {
		key, value, ok := strings.Cut(s, "=")
		key = strings.TrimSpace(key)
		to := target{err: errors.New("want section.key=value")}
		if ok {
			to = r.flag(key)
		}
		l.setting(&layer{kind: originSet, name: "--set " + key, rank: rank + i}, to, strings.TrimSpace(value))
	}
}

// setting fills and adds a layer, or reports what is wrong with its name.
func (l *loader) setting(ly *layer, to target, value string) {
	e := Error{File: ly.name, Key: keyText(to.path), Suggestion: to.hint, layer: ly.rank}
	switch {
	case to.err != nil:
		e.Message = to.err.Error()
	case len(value) > maxFile/16:
		e.Message = sprintf("longer than %d bytes", maxFile/16)
	case to.path[0] == "workspace" && (len(to.path) == 1 || to.path[1] == "members"):
		e.Message = "members are read from files only"
	default:
		ly.dir, ly.tree = l.root.dir, map[string]any{}
		v, err := parseValue(value, to.typ)
		if err != nil {
			e.Message = err.Error()
			break
		}
		setPath(ly.tree, to.path, v)
		ly.expandAxons()
		ly.absolute()
		l.layers = append(l.layers, ly)
		return
	}
	l.tainted[e.Key] = true
	l.errs = append(l.errs, e)
}

func setPath(tree map[string]any, path []string, v any) {
	for _, p := range path[:len(path)-1] {
		next := map[string]any{}
		tree[p] = next
		tree = next
	}
	tree[path[len(path)-1]] = v
}

// parseValue reads value as TOML, or takes it as a string: if it is no TOML,
// or if a string is wanted.
func parseValue(value string, want reflect.Type) (any, error) {
	doc, err := parse([]byte("v = " + value))
	if err != nil || len(doc.tree) != 1 {
		if err == nil || strings.Contains(err.Message, "within") || strings.Contains(err.Message, "key ") {
			return nil, errors.New("want one value")
		}
		return value, nil
	}
	v := doc.tree["v"]
	if _, ok := v.(string); !ok && (want.Kind() == reflect.String || want == durationType) {
		return value, nil
	}
	return v, nil
}

// target is what a variable or a flag sets.
type target struct {
	path []string // in the merged tree
	typ  reflect.Type
	hint string
	err  error
}

// resolver finds keys of the merged tree by their names in variables, where
// case is lost and _ also stands for -, and in flags.
type resolver struct {
	own   string // the cell of the root file
	tree  map[string]any
	loose bool // names are those of variables
}

func (r resolver) variable(name string) target {
	r.loose = true
	parts := strings.Split(name[len(prefix):], "__")
	if len(parts) < 2 || slices.Contains(parts, "") || len(parts) > maxDepth || len(name) > maxKey*4 {
		hint := genome.Nearest(name[len(prefix):], processVariables())
		if hint != "" {
			hint = prefix + hint
		}
		return target{err: errors.New("unknown variable, want " + prefix + "SECTION__KEY"), hint: hint}
	}
	return r.resolve(parts)
}

func (r resolver) flag(key string) target {
	var doc map[string]any
	if err := toml.Unmarshal([]byte(key+" = 0"), &doc); err != nil || len(key) > maxKey*4 || strings.Count(key, ".") > maxDepth {
		return target{err: errors.New("want section.key=value")}
	}
	var parts []string
	for len(doc) == 1 {
		for k, v := range doc {
			parts = append(parts, k)
			doc, _ = v.(map[string]any)
		}
	}
	return r.resolve(parts)
}

// resolve walks down the types of the genome along parts.
func (r resolver) resolve(parts []string) target {
	var path []string
	t, node := genomeType, any(r.tree)
	for i, part := range parts {
		if i == 0 && slices.Contains([]string{"genome", "axons", "junctions"}, r.fold(part)) {
			if r.own == "" {
				return target{path: []string{r.fold(part)}, err: errors.New("the file has no [genome]; write cells.NAME")}
			}
			cells, _ := r.tree["cells"].(map[string]any)
			path, t, node = []string{"cells", r.own}, cellType, cells[r.own]
			if r.fold(part) == "genome" {
				continue
			}
		}
		k, next, hint, err := r.step(t, node, part)
		path = append(path, k)
		if err != nil {
			return target{path: path, hint: hint, err: err}
		}
		m, _ := node.(map[string]any)
		t, node = next, m[k]
	}
	if len(path) < 2 {
		return target{path: path, err: errors.New("want section.key=value")}
	}
	return target{path: path, typ: t}
}

// step finds part in a table of type t whose present value is node.
func (r resolver) step(t reflect.Type, node any, part string) (k string, next reflect.Type, hint string, err error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	m, _ := node.(map[string]any)
	present := slices.Sorted(maps.Keys(m))
	switch {
	case isTable(t):
		names := fieldNames(t)
		for _, f := range fields(t) {
			if !f.rest && r.same(part, f.name) {
				return f.name, f.typ, "", nil
			}
		}
		if t != reflect.TypeFor[genome.Plugin]() {
			return r.fold(part), nil, genome.Nearest(r.fold(part), names), errors.New("unknown key")
		}
		return r.match(part, present, strings.ToLower), reflect.TypeFor[any](), "", nil
	case t.Kind() == reflect.Map && t.Elem() == reflect.PointerTo(cellType):
		k := r.match(part, present, hyphens)
		if m[k] == nil {
			return k, nil, genome.Nearest(k, present), fmt.Errorf("no cell %q in this genome", k)
		}
		return k, t.Elem(), "", nil
	case t == reflect.TypeFor[map[string]string]():
		return r.match(part, present, strings.Clone), t.Elem(), "", nil
	case t.Kind() == reflect.Map:
		return r.match(part, present, hyphens), t.Elem(), "", nil
	case t.Kind() == reflect.Interface:
		return r.match(part, present, strings.ToLower), t, "", nil
	}
	return part, nil, "", fmt.Errorf("is %s, not a table", article(typeName(t)))
}

func hyphens(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

func (r resolver) fold(s string) string {
	if r.loose {
		return strings.ToLower(s)
	}
	return s
}

// same reports whether part names the key name.
func (r resolver) same(part, name string) bool {
	return part == name || r.loose && hyphens(part) == hyphens(name)
}

// match returns the present key that part names, or else part, spelled by the
// rule for new keys.
func (r resolver) match(part string, present []string, spell func(string) string) string {
	for _, k := range present {
		if r.same(part, k) {
			return k
		}
	}
	if r.loose {
		return spell(part)
	}
	return part
}
