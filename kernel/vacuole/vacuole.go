// Package vacuole is the rotating log writer with back-pressure. It reads the
// output pipes of cells and plugins, puts time and source in front of each
// line, and appends it to one file per cell, plugin or kernel:
//
//	2026-11-22T20:36:01.123Z worker#2 text of the line
//
// Nothing is queued: the goroutine that reads a pipe also writes the file, so
// a cell that floods its log waits in its own write, and its memory here is
// one bounded buffer. Nothing is dropped either, except while the disk refuses
// to store it; that is counted, said once, and noted in the log as soon as
// there is room again.
//
// Files stay text whatever a cell prints: tabs and printable UTF-8 are stored
// as they are; control characters, invisible formatting characters and bytes
// that are not UTF-8 become \xNN or \u{NNNN}. A line longer than [MaxLine] is
// stored in pieces that all but the last end in " [+]".
package vacuole

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MaxLine is the length of the longest line that is stored in one piece, in
// bytes as the cell wrote it.
const MaxLine = 64 << 10

// A Kind is what a log belongs to.
type Kind string

// The kinds of logs.
const (
	Cell   Kind = "cell"
	Plugin Kind = "plugin"
	Kernel Kind = "kernel"
)

// A Source is one stream of lines.
type Source struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`              // of the cell or plugin; of a kernel always "kernel"
	Replica int    `json:"replica,omitempty"` // from 1; 0: there are none
	Stream  string `json:"stream,omitempty"`  // "stdout", "stderr" or empty; it is not stored in files
}

// String returns what stands in front of the source's lines: "worker#2".
func (s Source) String() string {
	if s.Replica > 0 {
		return fmt.Sprintf("%s#%d", s.Name, s.Replica)
	}
	return s.Name
}

func (s Source) file() string {
	if s.Kind == Kernel {
		return "kernel.log"
	}
	return string(s.Kind) + "-" + s.Name + ".log"
}

// validate keeps file names and the columns of a line unambiguous.
func (s Source) validate() error {
	switch s.Kind {
	case Cell, Plugin:
	case Kernel:
		if s.Name != "kernel" {
			return fmt.Errorf("log of a kernel: want the name \"kernel\", got %.80q", s.Name)
		}
	default:
		return fmt.Errorf("log kind %.40q: want cell, plugin or kernel", s.Kind)
	}
	if len(s.Name) == 0 || len(s.Name) > 128 || s.Replica < 0 {
		return fmt.Errorf("log of %.80q: want a name of 1 to 128 characters", s.Name)
	}
	for _, c := range []byte(s.Name) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			continue
		}
		return fmt.Errorf("log of %.80q: want lower-case letters, digits and hyphens", s.Name)
	}
	return nil
}

// Options configure a [Vacuole]. The zero value is usable.
type Options struct {
	MaxSize int64 // bytes of one file, 0: 10 000 000; at least 64 KiB
	Backups int   // rotated files kept per log, 0: 5, negative: none
	Rate    int64 // bytes per second that are stored of one source, 0: no limit
	// Trouble is told when a log stops being stored or rotated and when that
	// works again. Nil ignores it; lost lines are noted in the log in any case.
	Trouble func(Trouble)
	// Slowed is told when a source begins to wait because of Rate, at most
	// once a minute per source. Nil ignores it.
	Slowed func(Source)
	// Both are called by one goroutine of their own, one after the other;
	// while it is behind by 64 calls further ones are left out.
}

// Trouble is a log that the disk refuses, or does not refuse any more.
type Trouble struct {
	File string // name of the log file
	Err  error  // nil: it works again
	// Lines and Bytes were lost since it began; 0 at the beginning.
	Lines, Bytes int64
}

// Stats count since [Open].
type Stats struct {
	Lines, Bytes         int64 // stored
	LostLines, LostBytes int64 // refused by the disk
	Rotations            int64
	Readers              int64 // pipes that are being read
	Throttled            int64 // times a source waited because of Rate
}

// A Vacuole writes the logs of one directory. It is safe for concurrent use.
type Vacuole struct {
	dir     *os.Root
	path    string
	opts    Options
	buffers sync.Pool // *[]byte
	readers sync.WaitGroup
	closing chan struct{} // closed: rate limits are off
	calls   chan func()   // to Trouble and Slowed
	called  chan struct{} // closed: no more of them

	lines, bytes, lostLines, lostBytes, rotations, live, throttled atomic.Int64

	// mu guards the fields below. It is taken before a log's mutex.
	mu     sync.Mutex
	closed bool
	logs   map[string]*logFile
	tails  map[Source]*tail
	pipes  map[*reader]struct{}
	wide   []*Subscription // those that want logs which do not exist yet
}

// Open prepares to write logs into dir, which it creates. One directory must
// have one writer.
func Open(dir string, opts Options) (*Vacuole, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open logs: %w", err)
	}
	if opts.MaxSize == 0 {
		opts.MaxSize = 10_000_000
	}
	opts.MaxSize = max(opts.MaxSize, 64<<10)
	if opts.Backups == 0 {
		opts.Backups = 5
	}
	opts.Backups = max(opts.Backups, 0)
	v := &Vacuole{
		dir: root, path: filepath.Clean(dir), opts: opts, closing: make(chan struct{}),
		calls: make(chan func(), 64), called: make(chan struct{}),
		logs: map[string]*logFile{}, tails: map[Source]*tail{}, pipes: map[*reader]struct{}{},
	}
	go func() {
		defer close(v.called)
		for call := range v.calls {
			call()
		}
	}()
	return v, nil
}

// tell queues a call of the user's functions.
func (v *Vacuole) tell(call func()) {
	select {
	case v.calls <- call:
	default:
	}
}

// Dir returns the directory of the logs.
func (v *Vacuole) Dir() string { return v.path }

// Attach reads r in a goroutine until it ends and stores its lines as those
// of src; a last line without an end is kept. The Vacuole owns r from now on
// and closes it. The returned channel is closed when everything was stored.
func (v *Vacuole) Attach(r io.ReadCloser, src Source) (<-chan struct{}, error) {
	rd := &reader{v: v, from: r, done: make(chan struct{})}
	err := v.register(src, func(f *feed) {
		rd.feed = f
		v.pipes[rd] = struct{}{}
		v.readers.Add(1)
	})
	if err != nil {
		return nil, err
	}
	v.live.Add(1)
	go rd.run()
	return rd.done, nil
}

// Writer returns a writer whose lines are stored as those of src before Write
// returns; the rest of an unfinished line is stored with its end. It never
// fails and is safe for concurrent use. It is for the kernel's own log.
func (v *Vacuole) Writer(src Source) (io.Writer, error) {
	w := &writer{}
	err := v.register(src, func(f *feed) { w.feed = f })
	return w, err
}

// register makes the log and the tail of src and calls add with mu held.
func (v *Vacuole) register(src Source, add func(*feed)) error {
	if err := src.validate(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return errors.New("attach log: closed")
	}
	log := v.logs[src.file()]
	if log == nil {
		log = &logFile{v: v, name: src.file(), owner: src.Name}
		for _, s := range v.wide {
			if s.query.wants(src.Name) {
				log.subs = append(log.subs, s)
			}
		}
		v.logs[log.name] = log
	}
	t := v.tails[src]
	if t == nil || t.users == 0 { // of a process that has ended: its lines are not this one's
		v.forgetTails()
		t = &tail{}
		v.tails[src] = t
	}
	t.users++
	add(&feed{v: v, log: log, tail: t, src: src, who: " " + src.String() + " "})
	return nil
}

// maxTails bounds how many processes have their last lines remembered.
const maxTails = 4096

// forgetTails drops the last lines of processes that ended long ago.
func (v *Vacuole) forgetTails() {
	for src, t := range v.tails {
		if len(v.tails) < maxTails {
			return
		}
		if t.users == 0 {
			delete(v.tails, src)
		}
	}
}

// Last returns the newest lines of one process, at most n, and as many as fit
// 16 KiB per stream. What it wrote to its standard error comes last and goes
// first where there is too much: pipes do not tell which line came before
// which, and why a process ended stands there.
func (v *Vacuole) Last(src Source, n int) []string {
	errs := v.last(src, "stderr", n)
	outs := append(v.last(src, "", n), v.last(src, "stdout", n)...)
	outs = newest(outs, max(n-len(errs), n/4))
	return append(outs, newest(errs, n-len(outs))...)
}

// last returns the newest lines of one stream of a process.
func (v *Vacuole) last(src Source, stream string, n int) []string {
	src.Stream = stream
	v.mu.Lock()
	t := v.tails[src]
	v.mu.Unlock()
	if t == nil {
		return nil
	}
	return newest(t.lines(), n)
}

func newest(lines []string, n int) []string { return lines[max(0, len(lines)-max(0, n)):] }

// Stats returns the counters.
func (v *Vacuole) Stats() Stats {
	return Stats{
		Lines: v.lines.Load(), Bytes: v.bytes.Load(),
		LostLines: v.lostLines.Load(), LostBytes: v.lostBytes.Load(),
		Rotations: v.rotations.Load(), Readers: v.live.Load(), Throttled: v.throttled.Load(),
	}
}

// Close waits until every attached pipe has ended, or ctx is done; what is
// still open then is closed and its unread bytes are lost. Subscriptions end
// after their last line. Nothing can be attached any more.
func (v *Vacuole) Close(ctx context.Context) error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	v.mu.Unlock()
	close(v.closing)
	ended := make(chan struct{})
	go func() {
		v.readers.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = fmt.Errorf("close logs: %d pipes still open: %w", v.live.Load(), context.Cause(ctx))
		v.closePipes()
		<-ended
	}
	err = errors.Join(err, v.closeFiles())
	close(v.calls)
	<-v.called
	return err
}

// closePipes ends every reader.
func (v *Vacuole) closePipes() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for rd := range v.pipes {
		rd.close()
	}
}

func (v *Vacuole) closeFiles() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	ended := slices.Clone(v.wide)
	for _, log := range v.logs {
		log.mu.Lock()
		ended = append(ended, log.subs...)
		if log.file != nil {
			errs = append(errs, log.file.Close())
			log.file = nil
		}
		log.closed = true
		log.mu.Unlock()
	}
	for _, s := range ended {
		s.end()
	}
	return errors.Join(append(errs, v.dir.Close())...)
}

// detach forgets a reader that has ended.
func (v *Vacuole) detach(rd *reader) {
	v.mu.Lock()
	delete(v.pipes, rd)
	rd.feed.tail.users--
	v.mu.Unlock()
	v.live.Add(-1)
	v.readers.Done()
}

// now is the time of a line: UTC, milliseconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
