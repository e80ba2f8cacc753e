package vacuole

import (
	"bytes"
	"io"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxBatch is how much formatted text a feed collects before it is stored.
const maxBatch = 256 << 10

// stamp is the layout of a line's time; always as long.
const stamp = "2006-01-02T15:04:05.000Z"

// feed turns the bytes of one source into lines of its log.
type feed struct {
	v    *Vacuole
	log  *logFile
	tail *tail
	src  Source
	who  string // what stands between time and text
	out  []byte // formatted lines, borrowed while lines runs
	rows int64  // lines in out
	size int64  // bytes formatted since the beginning
}

// lines stores every complete line of p and returns how many bytes that were.
// With all, the rest of p is a line, too.
func (f *feed) lines(p []byte, all bool) int {
	f.out = f.v.buffer()
	at := now().Format(stamp)
	used := 0
	for used < len(p) {
		line, ended := p[used:], false
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, ended = line[:i], true
		}
		switch {
		case len(line) > MaxLine:
			line = cut(line)
			f.add(at, line, true)
			used += len(line)
		case ended:
			f.add(at, line, false)
			used += len(line) + 1
		case all:
			f.add(at, line, false)
			used += len(line)
		default:
			f.flush()
			f.v.release(f.out)
			return used
		}
	}
	f.flush()
	f.v.release(f.out)
	return used
}

// cut returns the first MaxLine bytes of line, or up to three fewer so that no
// character is split.
func cut(line []byte) []byte {
	n := MaxLine
	for n > MaxLine-utf8.UTFMax && !utf8.RuneStart(line[n]) {
		n--
	}
	if !utf8.RuneStart(line[n]) {
		n = MaxLine
	}
	return line[:n]
}

// add formats one line, or a piece of one that goes on.
func (f *feed) add(at string, line []byte, goesOn bool) {
	if !goesOn {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	f.out = append(f.out, at...)
	f.out = append(f.out, f.who...)
	f.out = appendText(f.out, line)
	if goesOn {
		f.out = append(f.out, " [+]"...)
	}
	f.out = append(f.out, '\n')
	f.rows++
	if len(f.out) >= maxBatch {
		f.flush()
	}
}

// flush stores what was formatted.
func (f *feed) flush() {
	if f.rows > 0 {
		f.size += int64(len(f.out))
		f.tail.add(f.out)
		f.log.write(f.out, f.rows, f.src)
	}
	f.out, f.rows = f.out[:0], 0
}

// appendText appends line with everything escaped that is not text.
func appendText(out, line []byte) []byte {
	for len(line) > 0 {
		n := 0
		for n < len(line) && (line[n] >= ' ' && line[n] < 0x7f || line[n] == '\t') {
			n++
		}
		out = append(out, line[:n]...)
		if line = line[n:]; len(line) == 0 {
			return out
		}
		r, size := utf8.DecodeRune(line)
		switch {
		case r < 0x80 || r == utf8.RuneError && size == 1:
			out = append(out, '\\', 'x', hex[line[0]>>4], hex[line[0]&15])
		case unicode.IsGraphic(r) && !unicode.Is(unicode.Zl, r) && !unicode.Is(unicode.Zp, r):
			out = append(out, line[:size]...)
		default:
			out = appendRune(out, r)
		}
		line = line[size:]
	}
	return out
}

const hex = "0123456789abcdef"

// appendRune appends r as \u{NNNN}.
func appendRune(out []byte, r rune) []byte {
	out = append(out, `\u{`...)
	for shift := 20; shift >= 0; shift -= 4 {
		if shift < 16 || r>>shift > 0 {
			out = append(out, hex[r>>shift&15])
		}
	}
	return append(out, '}')
}

// buffer returns an empty buffer for formatted lines.
func (v *Vacuole) buffer() []byte {
	if b, ok := v.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 4<<10)
}

// release takes a buffer back.
func (v *Vacuole) release(b []byte) {
	if cap(b) > 0 {
		v.buffers.Put(&b)
	}
}

// reader reads one pipe.
type reader struct {
	v    *Vacuole
	feed *feed
	from io.ReadCloser
	once sync.Once
	done chan struct{}
	said time.Time // when Slowed was called last
}

func (rd *reader) close() {
	rd.once.Do(func() { _ = rd.from.Close() }) // it was only read
}

// firstBuffer and lastBuffer are the sizes between which a read buffer grows.
// The last one holds a line of MaxLine and a bit more.
const (
	firstBuffer = 4 << 10
	lastBuffer  = MaxLine + 4<<10
)

// run reads until the end. A full pipe is what slows the cell down.
func (rd *reader) run() {
	defer close(rd.done)
	defer rd.v.detach(rd)
	defer rd.close()
	limit := limiter{rate: rd.v.opts.Rate, closing: rd.v.closing}
	buf, held := make([]byte, firstBuffer), 0
	for {
		n, err := rd.from.Read(buf[held:])
		held += n
		full, before := held == len(buf), rd.feed.size
		// A line that comes byte by byte is looked at once, not each time.
		if err != nil || held > MaxLine || bytes.IndexByte(buf[held-n:held], '\n') >= 0 {
			used := rd.feed.lines(buf[:held], err != nil)
			held = copy(buf, buf[used:held])
		}
		if err != nil {
			return
		}
		if full && len(buf) < lastBuffer {
			larger := make([]byte, min(2*len(buf), lastBuffer))
			copy(larger, buf[:held])
			buf = larger
		}
		if limit.wait(rd.feed.size - before) {
			rd.slowed()
		}
	}
}

// slowed counts a wait and says so once a minute.
func (rd *reader) slowed() {
	rd.v.throttled.Add(1)
	if t := time.Now(); rd.v.opts.Slowed != nil && t.Sub(rd.said) >= time.Minute {
		rd.said = t
		rd.v.tell(func() { rd.v.opts.Slowed(rd.feed.src) })
	}
}

// limiter lets a source through at a rate, with one second's worth at once.
type limiter struct {
	rate    int64 // bytes per second, 0: no limit
	closing <-chan struct{}
	owed    time.Duration // time that the bytes so far are worth
	since   time.Time
}

// wait blocks until n more bytes are within the rate and reports whether that
// took any time. It ends early when the vacuole closes.
func (l *limiter) wait(n int64) bool {
	if l.rate <= 0 {
		return false
	}
	t := time.Now()
	l.owed = max(0, l.owed-t.Sub(l.since)) + time.Duration(float64(n)/float64(l.rate)*float64(time.Second))
	l.since = t
	if l.owed <= time.Second {
		return false
	}
	timer := time.NewTimer(l.owed - time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.closing:
	}
	return true
}

// writer is a feed that is written to.
type writer struct {
	mu   sync.Mutex // guards the fields below
	feed *feed
	rest []byte // an unfinished line, at most MaxLine
}

// Write stores the complete lines of p.
func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for left := p; len(left) > 0; {
		n := min(len(left), MaxLine)
		w.rest = append(w.rest, left[:n]...)
		left = left[n:]
		used := w.feed.lines(w.rest, false)
		w.rest = append(w.rest[:0], w.rest[used:]...)
	}
	return len(p), nil
}

// tail remembers the newest lines of a process.
type tail struct {
	users int // attached sources; guarded by the vacuole's mu

	mu   sync.Mutex
	text []byte // formatted lines, the first may be cut
	cut  bool
}

// tailSize is how much is remembered. A buffer of twice that is moved rarely.
const tailSize = 16 << 10

// add appends formatted lines.
func (t *tail) add(batch []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(batch) > tailSize {
		batch, t.text, t.cut = batch[len(batch)-tailSize:], t.text[:0], true
	}
	if len(t.text)+len(batch) > 2*tailSize {
		keep := t.text[len(t.text)-(tailSize-len(batch)/2):]
		t.text = append(t.text[:0], keep...)
		t.cut = true
	}
	t.text = append(t.text, batch...)
}

// lines returns the texts of the remembered lines, whole ones only.
func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for i, row := range bytes.Split(bytes.TrimSuffix(t.text, []byte("\n")), []byte("\n")) {
		if i == 0 && t.cut || len(row) == 0 {
			continue
		}
		if _, _, text, ok := splitRow(row); ok {
			lines = append(lines, string(text))
		}
	}
	return lines
}
