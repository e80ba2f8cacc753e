package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// A view tells people on one writer what happens to a kernel: while it boots
// one line per cell, then one posture line, then only what goes wrong and
// what it means. Whether the kernel is this process or another does not show.
type view struct {
	mu     sync.Mutex // guards everything below: events and logs come at once
	w      io.Writer
	colour bool
	cells  map[sdk.CellName]admin.State // as last told
	logs   *logPrinter
	ready  bool
	ends   string // what ends the kernel, for the posture line; empty: not by this terminal
}

func newView(w io.Writer) *view {
	v := &view{w: w, colour: colourful(w), cells: map[sdk.CellName]admin.State{}}
	v.logs = newLogPrinter(w, false)
	return v
}

// event tells e, if it is worth a line.
func (v *view) event(e admin.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e.Kind {
	case admin.EventState:
		if e.Cell != nil {
			v.cell(e.Cell)
		}
		if e.Process != nil && (e.Cell == nil || v.ready) {
			v.process(e.Process)
		}
	case admin.EventBuild:
		v.line("build", printable(e.Text))
	case admin.EventNote:
		v.line(paint(v.colour, yellow, "note"), printable(e.Text))
	case admin.EventReady:
		v.ready = true
		v.line(paint(v.colour, bold, "ready"), printable(e.Text)+v.ends)
	case admin.EventDrain:
		if len(e.Waiting) > 0 {
			v.line("drain", "waiting for "+printable(strings.Join(e.Waiting, ", ")))
		}
	case admin.EventLost:
		v.line("note", fmt.Sprintf("%d events were too many to show", e.Lost))
	}
}

// cell tells a cell's state the first time it settles, and again whenever it
// settles differently.
func (v *view) cell(c *admin.CellStatus) {
	colour := green
	switch c.State {
	case admin.StateReady, admin.StateDone:
		if v.ready {
			return // the process that came back says so
		}
	case admin.StateFailed, admin.StateCrashLoop:
		colour = red
	default:
		return // on the way
	}
	if v.cells[c.Name] == c.State {
		return
	}
	v.cells[c.Name] = c.State
	text := printable(string(c.Name)) + "  " + paint(v.colour, colour, string(c.State))
	if c.Want > 1 || c.Ready < c.Want && c.State != admin.StateDone {
		text += "  " + readyText(c)
	}
	if c.Detail != "" && (v.ready || c.State != admin.StateFailed && c.State != admin.StateCrashLoop) { // the error that ends the boot says it
		text += "  " + printable(c.Detail)
	}
	v.line(cellKind(c), text)
}

// process tells what happened to one process.
func (v *view) process(p *admin.Process) {
	switch p.State {
	case admin.StateBackoff, admin.StateCrashLoop, admin.StateFailed:
	case admin.StateReady:
		if !v.ready || p.Restarts == 0 {
			return
		}
	default:
		return
	}
	text := printable(p.ID() + "  " + string(p.State))
	if p.Detail != "" && (v.ready || p.State != admin.StateFailed) { // as for cells
		text += "  " + printable(p.Detail)
	}
	v.line(printable(p.Kind), text)
}

// line writes one line: what it is about, and the text, which is printable.
func (v *view) line(head, text string) {
	text = strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n          ")
	if v.logs.open != "" {
		v.logs.open = ""
		fmt.Fprintln(v.w)
	}
	fmt.Fprintf(v.w, "%s  %s\n", pad(head, 8), text)
}

// note tells something of our own.
func (v *view) note(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.line("note", printable(text))
}

// log tells one log record.
func (v *view) log(r admin.LogRecord) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logs.print(r)
}

// problems tells what is not ready.
func (v *view) problems(list []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range list {
		v.line(paint(v.colour, red, "problem"), printable(p))
	}
}

// changes tells what an apply changes.
func (v *view) changes(list []admin.Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range list {
		v.line("change", printable(c.String()))
	}
	if len(list) == 0 {
		v.line("change", "none: this is what runs")
	}
}

// pad fills s with blanks to n visible characters.
func pad(s string, n int) string {
	visible := 0
	inside := false
	for i := range len(s) {
		switch {
		case s[i] == '\x1b':
			inside = true
		case inside:
			inside = s[i] != 'm'
		default:
			visible++
		}
	}
	return s + strings.Repeat(" ", max(0, n-visible))
}
