package plugin

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A Duration is a time.Duration that is written as in Go, "250ms", in
// configuration.
type Duration time.Duration

// UnmarshalText parses text as [time.ParseDuration] does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration such as \"250ms\" or \"1h\"", clip(string(text), 40))
	}
	*d = Duration(v)
	return nil
}

// MarshalText formats d as [time.Duration.String] does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Reserved reports whether a key of a plugin's section belongs to the kernel,
// so that no plugin can have it: use, sha256 and limits.
func Reserved(key string) bool {
	return key == "use" || key == "sha256" || key == "limits"
}

// checkConfigType refuses types that can not hold a section of the genome.
func checkConfigType[C any]() error {
	t := reflect.TypeFor[C]()
	if t.Kind() != reflect.Struct {
		return fmt.Errorf("configuration type %s: want a struct", t)
	}
	for name := range fieldsOf(t) {
		if Reserved(name) {
			return fmt.Errorf("configuration type %s: key %q belongs to the kernel", t, name)
		}
	}
	return nil
}

// A KeyError is one key of a plugin's section that is wrong.
type KeyError struct {
	Key  string // below the section: "retry.max", "servers[0].addr"
	Text string // what is wrong with it
	Hint string // the nearest key there is, or empty
}

// Error returns the key, what is wrong with it, and the hint.
func (e *KeyError) Error() string {
	text := fmt.Sprintf("key %q: %s", e.Key, e.Text)
	if rest, ok := strings.CutPrefix(e.Text, unknown); ok {
		text = fmt.Sprintf("unknown key %q%s", e.Key, rest)
	}
	if e.Hint != "" {
		text += fmt.Sprintf(" (did you mean %q?)", e.Hint)
	}
	return text
}

// Unknown reports whether there is no such key; otherwise its value is wrong.
func (e *KeyError) Unknown() bool { return strings.HasPrefix(e.Text, unknown) }

// unknown is how the Text of a KeyError begins whose key there is not.
const unknown = "unknown key"

// decodeConfig decodes raw over base, both JSON objects; raw may be empty. It
// reports every unknown key at once, and at most one value of a wrong type.
func decodeConfig[C any](base, raw []byte) (C, error) {
	var cfg C
	if err := json.Unmarshal(base, &cfg); err != nil {
		return cfg, fmt.Errorf("decode defaults: %w", err)
	}
	if len(raw) == 0 {
		return cfg, nil
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return cfg, errors.New("decode configuration: not a table")
	}
	var errs []error
	checkKeys(reflect.ValueOf(&cfg).Elem(), tree, "", &errs)
	if len(errs) > 0 {
		return cfg, keyErrors(errs)
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&cfg); err != nil {
		return cfg, wrongType(err)
	}
	return cfg, nil
}

// keyErrors is all that is wrong with a section, in one line.
type keyErrors []error

func (e keyErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e keyErrors) Unwrap() []error { return e }

func wrongType(err error) error {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		return &KeyError{Key: te.Field, Text: fmt.Sprintf("want %s, got %s", typeWord(te.Type), te.Value)}
	}
	return fmt.Errorf("decode configuration: %w", err)
}

// typeWord names a type as people who write TOML know it.
func typeWord(t reflect.Type) string {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return "a string"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "a table"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number that fits " + t.Kind().String()
}

// checkKeys walks v and tree together. Slices that tree sets are emptied
// first: encoding/json would decode over what the default's elements held.
func checkKeys(v reflect.Value, tree map[string]any, path string, errs *[]error) {
	fields := fieldsOf(v.Type())
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		at := path + key
		index, ok := fields[key]
		switch {
		case !ok && path == "" && Reserved(key):
			*errs = append(*errs, fmt.Errorf("key %q belongs to the kernel", at))
			continue
		case !ok:
			*errs = append(*errs, unknownKey(at, key, fields))
			continue
		}
		f := v.FieldByIndex(index)
		if f.Kind() == reflect.Slice {
			f.SetZero()
		}
		checkValue(f.Type(), f, tree[key], at, errs)
	}
}

func checkValue(t reflect.Type, f reflect.Value, value any, at string, errs *[]error) {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) ||
		reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return
	}
	switch value := value.(type) {
	case map[string]any:
		switch t.Kind() {
		case reflect.Struct:
			if !f.IsValid() {
				f = reflect.New(t).Elem()
			}
			checkKeys(f, value, at+".", errs)
		case reflect.Pointer:
			checkValue(t.Elem(), reflect.Value{}, value, at, errs)
		case reflect.Map:
			for _, k := range slices.Sorted(maps.Keys(value)) {
				checkValue(t.Elem(), reflect.Value{}, value[k], at+"."+k, errs)
			}
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for i, e := range value {
				checkValue(t.Elem(), reflect.Value{}, e, fmt.Sprintf("%s[%d]", at, i), errs)
			}
		}
	}
}

// fieldsOf returns the fields of a struct by the only spelling that is
// accepted: the json tag, else the name in lower case.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous || name == "-" {
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		fields[name] = f.Index
	}
	return fields
}

func unknownKey(at, key string, fields map[string][]int) error {
	best, bestAt := "", 1+len(key)/3
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if d := distance(clip(key, 64), name); d <= bestAt && (best == "" || d < bestAt) {
			best, bestAt = name, d
		}
	}
	e := &KeyError{Key: clip(at, 200), Text: unknown, Hint: best}
	switch {
	case best != "":
	case len(fields) == 0:
		e.Text += ": there is nothing to configure"
	default:
		e.Text += ": want one of " + strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
	}
	return e
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
