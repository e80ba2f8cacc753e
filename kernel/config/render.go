package config

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// render returns a value as TOML would write it; empty strings and zero
// structs included.
func render(v reflect.Value) string {
	if v.Type() == durationType {
		return strconv.Quote(shortDuration(time.Duration(v.Int())))
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if s := string(text); err == nil && (s == "true" || s == "false") {
			return s
		}
		return strconv.Quote(string(text))
	}
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String())
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
