package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	koanftoml "github.com/knadh/koanf/parsers/toml/v2"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Bounds of one file.
const (
	maxFile  = 1 << 20 // bytes
	maxKeys  = 1 << 15
	maxDepth = 16  // tables within tables
	maxKey   = 256 // bytes of one key
)

// A span is where something is written in a file.
type span struct {
	line, column, width int // in characters; line 0: nowhere
	end                 int // offset behind it
}

// place is where a key and its value are written. The value of a table is
// its header.
type place struct {
	path       []string
	key, value span
}

// document is one parsed file.
type document struct {
	src    []byte
	tree   map[string]any
	places []place
}

// readFile reads a regular file of bounded size.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, cause(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return data, nil
}

// cause drops the operation and the path, which the message names already.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parse reads a document. Its errors carry no file name.
func parse(src []byte) (*document, *Error) {
	if !utf8.Valid(src) {
		return nil, &Error{Message: "not valid UTF-8"}
	}
	d := &document{src: src}
	if err := d.locate(); err != nil {
		return nil, err
	}
	tree, err := koanftoml.Parser().Unmarshal(src)
	if err != nil {
		return nil, d.syntaxError(err)
	}
	d.tree = tree
	if d.tree == nil {
		d.tree = map[string]any{}
	}
	return d, d.checkDepth(d.tree, nil)
}

// syntaxError turns an error of the parser into one with a place.
func (d *document) syntaxError(err error) *Error {
	var de *toml.DecodeError
	if !errors.As(err, &de) {
		return &Error{Message: strings.TrimPrefix(err.Error(), "toml: ")}
	}
	row, column := de.Position()
	e := &Error{Message: strings.TrimPrefix(de.Error(), "toml: ")}
	e.place(span{line: row, column: column, width: 1}, d.line(row))
	return e
}

// line returns line n, counted from 1, without its end.
func (d *document) line(n int) string {
	rest := d.src
	for ; n > 1; n-- {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return ""
		}
		rest = rest[i+1:]
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strings.TrimSuffix(string(line), "\r")
}

// locate notes where each key is written. It stops quietly at a syntax error,
// which the real parser reports with its place.
func (d *document) locate() *Error {
	lines := newLineIndex(d.src)
	var p unstable.Parser
	p.Reset(d.src)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		keys, at := d.keyOf(lines, e)
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = keys
			d.places = append(d.places, place{path: table, key: at, value: at})
		case unstable.KeyValue:
			d.keyValue(lines, table, e)
		}
		if len(d.places) > maxKeys {
			return &Error{Message: fmt.Sprintf("more than %d keys", maxKeys)}
		}
		if len(table)+len(keys) > maxDepth {
			e := &Error{Message: fmt.Sprintf("more than %d tables within each other", maxDepth)}
			e.place(at, d.line(at.line))
			return e
		}
	}
	return nil
}

// keyOf returns the parts of e's key and where it is written.
func (d *document) keyOf(lines *lineIndex, e *unstable.Node) ([]string, span) {
	if e.Kind != unstable.KeyValue && e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
		return nil, span{}
	}
	var keys []string
	var from, to uint32
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if keys == nil {
			from = n.Raw.Offset
		}
		to = n.Raw.Offset + n.Raw.Length
		keys = append(keys, string(n.Data))
	}
	return keys, lines.span(int(from), int(to))
}

// keyValue notes a key with its value, and those of inline tables below it.
func (d *document) keyValue(lines *lineIndex, table []string, e *unstable.Node) {
	keys, at := d.keyOf(lines, e)
	path := append(append([]string{}, table...), keys...)
	if len(path) > maxDepth {
		return
	}
	v := e.Value()
	value := at
	switch {
	case v.Raw.Length > 1:
		value = lines.span(int(v.Raw.Offset), int(v.Raw.Offset+v.Raw.Length))
	case e.Raw.Length > 0: // arrays and inline tables have no range of their own
		from, to := int(e.Raw.Offset), int(e.Raw.Offset+e.Raw.Length)
		if i := bytes.IndexByte(d.src[at.end:to], '='); i >= 0 {
			from = at.end + i + 1
			from += len(d.src[from:to]) - len(bytes.TrimLeft(d.src[from:to], " \t"))
		}
		value = lines.span(from, to)
	}
	d.places = append(d.places, place{path: path, key: at, value: value})
	if v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				d.keyValue(lines, path, it.Node())
			}
		}
	}
}

// checkDepth bounds keys and nesting, arrays included, before anything else
// walks the tree.
func (d *document) checkDepth(v any, path []string) *Error {
	if len(path) > maxDepth {
		return &Error{Message: fmt.Sprintf("more than %d tables and arrays within each other", maxDepth)}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if len(k) > maxKey || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return &Error{Message: fmt.Sprintf("key %.40q: at most %d bytes without control characters", k, maxKey)}
			}
			if err := d.checkDepth(e, append(path, k)); err != nil {
				return err
			}
		}
	case []any:
		for _, e := range v {
			if err := d.checkDepth(e, append(path, "")); err != nil {
				return err
			}
		}
	}
	return nil
}

// lineIndex finds lines by offset.
type lineIndex struct {
	src    []byte
	starts []int
}

func newLineIndex(src []byte) *lineIndex {
	x := &lineIndex{src: src, starts: []int{0}}
	for i, c := range src {
		if c == '\n' {
			x.starts = append(x.starts, i+1)
		}
	}
	return x
}

// span returns the place of src[from:to], cut at the end of its first line.
func (x *lineIndex) span(from, to int) span {
	low, high := 0, len(x.starts)
	for high-low > 1 {
		if mid := (low + high) / 2; x.starts[mid] <= from {
			low = mid
		} else {
			high = mid
		}
	}
	text := x.src[from:to]
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	return span{
		line:   low + 1,
		column: utf8.RuneCount(x.src[x.starts[low]:from]) + 1,
		width:  utf8.RuneCount(text),
		end:    to,
	}
}

// keyText renders a path as TOML would write it: cells.worker.env."A B".
func keyText(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = p
		if p == "" || strings.ContainsFunc(p, notBare) {
			parts[i] = fmt.Sprintf("%q", p)
		}
	}
	return strings.Join(parts, ".")
}

// notBare reports whether a key with r has to be quoted.
func notBare(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
}
