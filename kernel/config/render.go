package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// render returns a value as TOML would write it; empty strings and zero
// structs included.
func render(v reflect.Value) string {
	if v.Type() == durationType {
		return quote(shortDuration(time.Duration(v.Int())))
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if s := string(text); err == nil && (s == "true" || s == "false") {
			return s
		}
		return quote(string(text))
	}
	switch v.Kind() {
	case reflect.String:
		return quote(v.String())
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = render(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		return renderTable(v)
	case reflect.Interface:
		if v.IsNil() {
			return `""`
		}
		return render(v.Elem())
	}
	return fmt.Sprint(v.Interface())
}

// quote returns a basic string of TOML, in which all escapes of JSON are valid
// and those of Go are not.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string has no way to fail
	return strings.TrimSuffix(b.String(), "\n")
}

// ParseValue reads what [Value].Value says, as numbers, booleans, strings,
// arrays and tables. Durations and sizes are strings.
func ParseValue(text string) (any, error) {
	var doc map[string]any
	if err := toml.Unmarshal([]byte("value = "+text), &doc); err != nil {
		return nil, fmt.Errorf("read value %.80q: %w", text, err)
	}
	return doc["value"], nil
}

// renderTable returns an inline table, keys sorted.
func renderTable(v reflect.Value) string {
	fields := map[string]string{}
	for _, k := range v.MapKeys() {
		fields[k.String()] = render(v.MapIndex(k))
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		parts = append(parts, keyText([]string{k})+" = "+fields[k])
	}
	if len(parts) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// shortDuration drops the zero units of String: "10m", not "10m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
