package vacuole

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Query selects lines. The zero Query is all of them.
type Query struct {
	// Names are names of cells and plugins, "kernel", or one replica as
	// "worker#2"; none means all.
	Names []string
	Since time.Time // only lines at or after it; zero: all
	Tail  int       // only so many of the newest lines of each log; 0: all, negative: none
}

// A Line is one stored line, or a note that lines are missing.
type Line struct {
	Time   time.Time `json:"time"`
	Source Source    `json:"source"`
	Text   string    `json:"text"`
	// Lost lines were left out at this place because the subscriber was too
	// slow. Such a Line has no text, and a source only if all were of one.
	Lost int64 `json:"lost,omitempty"`
}

// String returns the line as it is stored.
func (l Line) String() string {
	if l.Lost > 0 {
		return fmt.Sprintf("%s %d lines left out: reading is too slow", l.Time.UTC().Format(stamp), l.Lost)
	}
	return l.Time.UTC().Format(stamp) + " " + l.Source.String() + " " + l.Text
}

// matches reports whether q wants the lines of src.
func (q Query) matches(src Source) bool {
	return len(q.Names) == 0 || slices.ContainsFunc(q.Names, func(n string) bool {
		return n == src.Name || n == src.String()
	})
}

// wants reports whether q wants any line of a log.
func (q Query) wants(owner string) bool {
	return len(q.Names) == 0 || slices.ContainsFunc(q.Names, func(n string) bool {
		name, _, _ := strings.Cut(n, "#")
		return name == owner
	})
}

// Read yields the stored lines that q selects, of all logs in dir, merged by
// time, until yield returns false. It is right while another process writes
// and rotates them. A directory that does not exist has no lines.
func Read(ctx context.Context, dir string, q Query, yield func(Line) bool) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	defer root.Close()
	names, err := logNames(root)
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	var all []*history
	defer func() { closeAll(all) }()
	for _, name := range names {
		if _, owner, ok := parseName(name); ok && q.wants(owner) {
			all = append(all, openHistory(root, name))
		}
	}
	for line := range merge(all, q) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !yield(line) {
			return nil
		}
	}
	return nil
}

// logNames lists the logs of a directory, without their backups' numbers.
func logNames(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	files, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		if i := strings.LastIndex(f, ".log"); i > 0 {
			names = append(names, f[:i+len(".log")])
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// parseName is the inverse of Source.file.
func parseName(file string) (Kind, string, bool) {
	name, ok := strings.CutSuffix(file, ".log")
	if name == "kernel" {
		return Kernel, name, ok
	}
	kind, owner, dash := strings.Cut(name, "-")
	return Kind(kind), owner, ok && dash && (Kind(kind) == Cell || Kind(kind) == Plugin)
}

// history is a log as it was at one moment: its files, opened, oldest first.
type history struct {
	kind     Kind
	owner    string
	segments []segment
}

type segment struct {
	file *os.File
	size int64 // bytes to read
	info fs.FileInfo
}

// maxBackups is the largest number of a backup that is looked for.
const maxBackups = 100

// openHistory opens the files from the newest to the oldest: a rotation in
// between shows a file twice, which is noticed, but hides none.
func openHistory(root *os.Root, name string) *history {
	h := &history{}
	h.kind, h.owner, _ = parseName(name)
	for i := 0; i <= maxBackups; i++ {
		file := name
		if i > 0 {
			file = backup(name, i)
		}
		f, err := root.Open(file)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		known := func(s segment) bool { return os.SameFile(s.info, info) }
		if err != nil || !info.Mode().IsRegular() || slices.ContainsFunc(h.segments, known) {
			_ = f.Close() // it was only read
			continue
		}
		h.segments = append(h.segments, segment{f, info.Size(), info})
	}
	slices.Reverse(h.segments)
	return h
}

func closeAll(all []*history) {
	for _, h := range all {
		for _, s := range h.segments {
			_ = s.file.Close() // it was only read
		}
	}
}

// lines yields the lines of h that q selects.
func (h *history) lines(q Query) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		first, from := h.start(q)
		for _, s := range h.segments[first:] {
			if !s.forward(from, func(row []byte) bool {
				line, ok := h.parse(row)
				return !ok || line.Time.Before(q.Since) || !q.matches(line.Source) || yield(line)
			}) {
				return
			}
			from = 0
		}
	}
}

// start returns the segment and the offset where the lines of q begin.
func (h *history) start(q Query) (int, int64) {
	if q.Tail <= 0 {
		i := 0
		for i < len(h.segments)-1 && h.segments[i].info.ModTime().Before(q.Since) {
			i++
		}
		return i, 0
	}
	left := q.Tail
	for i := len(h.segments) - 1; i >= 0; i-- {
		at, found := h.segments[i].backward(left, func(row []byte) bool {
			line, ok := h.parse(row)
			return ok && q.matches(line.Source)
		})
		if left -= found; left == 0 {
			return i, at
		}
	}
	return 0, 0
}

// forward calls row for each whole line from an offset and reports whether it
// should go on with the next segment.
func (s segment) forward(from int64, row func([]byte) bool) bool {
	sc := bufio.NewScanner(io.NewSectionReader(s.file, from, s.size-from))
	sc.Buffer(make([]byte, 0, 64<<10), 1<<20)
	sc.Split(func(data []byte, _ bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		return 0, nil, nil // the writer is in the middle of it
	})
	for sc.Scan() {
		if !row(sc.Bytes()) {
			return false
		}
	}
	return true
}

// backward looks for the last n lines that match and returns where the first
// of them begins, and how many there are.
func (s segment) backward(n int, match func([]byte) bool) (int64, int) {
	const block = 64 << 10
	var rest []byte // begins in the middle of a line, unless at 0
	at, found := s.size, 0
	for at > 0 && len(rest) < 1<<20 {
		size := min(at, block)
		data := make([]byte, size, int(size)+len(rest))
		if _, err := s.file.ReadAt(data, at-size); err != nil {
			return at, found
		}
		at -= size
		data = append(data, rest...)
		for {
			end := bytes.LastIndexByte(data, '\n')
			if end < 0 {
				break
			}
			begin := bytes.LastIndexByte(data[:end], '\n') + 1
			if begin == 0 && at > 0 {
				break
			}
			if match(data[begin:end]) {
				if found++; found == n {
					return at + int64(begin), found
				}
			}
			data = data[:begin]
		}
		rest = data
	}
	return 0, found
}

// parse reads a row of the log.
func (h *history) parse(row []byte) (Line, bool) {
	t, who, text, ok := splitRow(row)
	if !ok {
		return Line{}, false
	}
	src := Source{Kind: h.kind, Name: h.owner}
	if _, number, ok := bytes.Cut(who, []byte("#")); ok {
		n, err := strconv.Atoi(string(number))
		if err != nil {
			return Line{}, false
		}
		src.Replica = n
	}
	return Line{Time: t, Source: src, Text: string(text)}, true
}

// splitRow splits a stored line into its three columns.
func splitRow(row []byte) (t time.Time, who, text []byte, ok bool) {
	if len(row) < len(stamp)+2 || row[len(stamp)] != ' ' {
		return t, nil, nil, false
	}
	t, err := time.Parse(stamp, string(row[:len(stamp)]))
	who, text, ok = bytes.Cut(row[len(stamp)+1:], []byte(" "))
	return t, who, text, ok && err == nil
}

// merge yields the lines of all histories by time; lines of one log stay in
// their order.
func merge(all []*history, q Query) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		type head struct {
			line Line
			next func() (Line, bool)
		}
		var heads []*head
		for _, h := range all {
			next, stop := iter.Pull(h.lines(q))
			defer stop()
			if line, ok := next(); ok {
				heads = append(heads, &head{line, next})
			}
		}
		for len(heads) > 0 {
			i := 0
			for j := range heads {
				if heads[j].line.Time.Before(heads[i].line.Time) {
					i = j
				}
			}
			if !yield(heads[i].line) {
				return
			}
			var ok bool
			if heads[i].line, ok = heads[i].next(); !ok {
				heads = slices.Delete(heads, i, i+1)
			}
		}
	}
}
