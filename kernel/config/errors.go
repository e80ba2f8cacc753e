package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxErrors bounds how many errors are rendered; all are counted.
const maxErrors = 100

// An Error is one thing wrong with the configuration, and where.
type Error struct {
	File       string `json:"file"`             // as the user named it; a variable's name or "--set key" where there is no file
	Line       int    `json:"line,omitempty"`   // from 1, 0: the file as a whole
	Column     int    `json:"column,omitempty"` // in characters, from 1
	Key        string `json:"key,omitempty"`    // in the merged tree; empty for errors of syntax
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"` // nearest valid spelling
	Source     string `json:"source,omitempty"`     // the line, or the part of a long one around the place

	caret, width int // what to underline, in characters of Source
	layer        int // position of its layer in the precedence, to sort by
}

// Error returns one line: `genome.toml:12:5: key: message (did you mean "x"?)`.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	b.WriteString(": " + e.Message)
	if e.Suggestion != "" {
		fmt.Fprintf(&b, " (did you mean %q?)", e.Suggestion)
	}
	return b.String()
}

// Render returns the line of Error and, where there is one, the source line
// with a caret under the place. It contains no control characters but \n.
func (e Error) Render() string {
	s := clean(e.Error())
	if e.Source == "" {
		return s
	}
	number := fmt.Sprintf("%5d", e.Line)
	return fmt.Sprintf("%s\n%s | %s\n%s | %s%s", s, number, clean(e.Source),
		strings.Repeat(" ", len(number)), strings.Repeat(" ", e.caret), strings.Repeat("^", e.width))
}

// place sets where in a file e is.
func (e *Error) place(at span, line string) {
	if at.line == 0 {
		return
	}
	const most = 120 // characters of a line that are kept
	runes := []rune(line)
	column := max(0, min(at.column-1, len(runes)))
	from := max(0, min(column-most/2, len(runes)-most))
	runes = runes[from:min(len(runes), from+most)]
	e.Line, e.Column = at.line, at.column
	e.Source, e.caret = string(runes), column-from
	e.width = max(1, min(at.width, len(runes)-e.caret))
}

// clean replaces what could confuse a terminal; every character stays one.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return '?'
		}
		return r
	}, s)
}

// Errors is everything found wrong in one run, in the order of the files and
// lines. It is never empty when returned as an error.
type Errors []Error

// Error returns one line per error.
func (e Errors) Error() string { return e.join(Error.Error) }

// Render is like Error with source lines and carets, for people.
func (e Errors) Render() string { return e.join(Error.Render) }

func (e Errors) join(render func(Error) string) string {
	var lines []string
	for i, one := range e {
		if i == maxErrors {
			lines = append(lines, fmt.Sprintf("and %d more", len(e)-i))
			break
		}
		lines = append(lines, render(one))
	}
	return strings.Join(lines, "\n")
}

// sorted returns e by layer and position, each message once.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(a.layer-b.layer, a.Line-b.Line, a.Column-b.Column, strings.Compare(a.Key, b.Key))
	})
	return slices.CompactFunc(e, func(a, b Error) bool { return a.Error() == b.Error() })
}
