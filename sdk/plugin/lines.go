package plugin

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
)

// maxLine is how much of a plugin's line is kept together, in bytes. Longer
// ones are given on in parts.
const maxLine = 64 << 10

// A sink takes the lines of a plugin: level as its slog JSON says, else info.
// The line, without its end, is only valid during the call.
type sink func(level slog.Level, line []byte)

// readLines gives the lines of r to each until r ends. Whatever r yields,
// memory stays bounded, and a sink that blocks slows the writer down.
func readLines(r io.Reader, each func(line []byte)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			if line[len(line)-1] == '\n' {
				line = line[:len(line)-1]
			}
			each(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// give finds the level of a line. The line is a stranger's: nothing but a
// well-formed level of a JSON object is believed.
func (s sink) give(line []byte) {
	if s == nil || len(line) == 0 {
		return
	}
	level := slog.LevelInfo
	if line[0] == '{' {
		var head struct {
			Level slog.Level `json:"level"`
		}
		if err := json.Unmarshal(line, &head); err == nil {
			level = head.Level
		}
	}
	s(level, line)
}

// A tail keeps the last lines a plugin wrote, for the message that says why
// it did not start.
type tail struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (t *tail) add(line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 5 {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, clip(string(line[:min(len(line), 1024)]), 256))
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s string
	for _, l := range t.lines {
		s += "\n    " + l
	}
	return s
}

// A lineWriter cuts what is written to it into lines. One goroutine writes.
type lineWriter struct {
	each func(line []byte)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' {
			w.rest = append(w.rest, c)
		}
		if c == '\n' || len(w.rest) == maxLine {
			w.each(w.rest)
			w.rest = w.rest[:0]
		}
	}
	return len(p), nil
}
