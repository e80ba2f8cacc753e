package vacuole

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// logFile is one log: the file that is written and its rotated backups
// name.1, the newest, to name.N.
type logFile struct {
	v     *Vacuole
	name  string
	owner string // the name in its sources

	// mu guards the fields below. It is held while the disk is written, so
	// that lines reach file and subscriptions in one order.
	mu     sync.Mutex
	file   *os.File // nil: not open
	size   int64
	torn   bool // the file does not end with a line's end
	closed bool
	subs   []*Subscription

	checked time.Time // when the file was last seen in its place
	lost    lost
	stuck   bool      // rotation fails
	retry   time.Time // when to rotate or store again
}

// lost is what the disk refused since it refuses.
type lost struct {
	lines, bytes int64
	cause        error // nil: nothing is refused
}

// again is how long a refusal lasts before the disk is asked again.
const again = time.Second

// write stores a batch of whole lines and hands it to the subscriptions.
func (l *logFile) write(batch []byte, rows int64, src Source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if l.lost.cause != nil {
		l.recover(batch, rows)
	} else {
		l.store(batch)
	}
	var shared []byte
	for _, s := range l.subs {
		if !s.query.matches(src) {
			continue
		}
		if shared == nil {
			shared = bytes.Clone(batch)
		}
		s.publish(chunk{src: src, rows: shared, count: rows})
	}
}

// store appends batch, rotating between lines where the size demands it.
func (l *logFile) store(batch []byte) {
	for len(batch) > 0 {
		if err := l.ready(); err != nil {
			l.lose(batch, err)
			return
		}
		part := batch
		if room := l.v.opts.MaxSize - l.size; int64(len(batch)) > room {
			part = batch[:bytes.LastIndexByte(batch[:max(room, 0)], '\n')+1]
			if len(part) == 0 && l.size > 0 && l.rotate() {
				continue
			}
			if len(part) == 0 { // not even one line fits, or the file has to grow
				part = batch[:bytes.IndexByte(batch, '\n')+1]
			}
		}
		n, err := l.append(part)
		if err != nil {
			l.lose(batch[n:], err)
			return
		}
		batch = batch[n:]
	}
}

// append writes whole lines. On an error it returns how many bytes of whole
// lines are in the file; there is no other part of p in it, unless torn.
func (l *logFile) append(p []byte) (int, error) {
	if l.torn {
		p = append([]byte("\n"), p...)
	}
	n, err := l.file.Write(p)
	if err != nil {
		whole := bytes.LastIndexByte(p[:n], '\n') + 1
		if whole < n && l.file.Truncate(l.size+int64(whole)) != nil {
			l.size, l.torn = l.size+int64(n), true
			return 0, err
		}
		n = whole
	}
	l.size += int64(n)
	if l.torn && n > 0 {
		l.torn = false
		n--
		p = p[1:]
	}
	l.v.bytes.Add(int64(n))
	l.v.lines.Add(int64(bytes.Count(p[:n], []byte("\n"))))
	return n, err
}

// lose counts what the disk refused and says so the first time.
func (l *logFile) lose(batch []byte, err error) {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the file is named already
	}
	first := l.lost.cause == nil
	l.lost.cause = err
	l.count(int64(bytes.Count(batch, []byte("\n"))), int64(len(batch)))
	l.retry = time.Now().Add(again)
	if first {
		l.trouble(Trouble{File: l.name, Err: err})
	}
}

func (l *logFile) count(lines, size int64) {
	l.lost.lines += lines
	l.lost.bytes += size
	l.v.lostLines.Add(lines)
	l.v.lostBytes.Add(size)
}

func (l *logFile) trouble(t Trouble) {
	if f := l.v.opts.Trouble; f != nil {
		l.v.tell(func() { f(t) })
	}
}

// recover stores a note about what was lost, and batch behind it: both or,
// so that the two states do not alternate on a nearly full disk, neither.
func (l *logFile) recover(batch []byte, rows int64) {
	if time.Now().Before(l.retry) {
		l.count(rows, int64(len(batch)))
		return
	}
	if err := l.ready(); err != nil {
		l.lose(batch, err)
		return
	}
	if l.size > 0 && l.size+int64(len(batch)) > l.v.opts.MaxSize {
		l.rotate()
	}
	note := fmt.Appendf(nil, "%s %s %d lines (%d bytes) lost: %v\n",
		now().Format(stamp), l.owner, l.lost.lines, l.lost.bytes, l.lost.cause)
	before := l.size
	_, err := l.append(append(note, batch...))
	if err != nil {
		if l.size > before && l.file.Truncate(before) == nil {
			l.size = before
		}
		l.lose(batch, err)
		return
	}
	l.trouble(Trouble{File: l.name, Lines: l.lost.lines, Bytes: l.lost.bytes})
	l.lost = lost{}
}

// ready opens the file, again if somebody has removed or renamed it.
func (l *logFile) ready() error {
	if t := time.Now(); l.file != nil && t.Sub(l.checked) >= time.Second {
		l.checked = t
		open, err := l.file.Stat()
		placed, err2 := l.v.dir.Lstat(l.name)
		if err != nil || err2 != nil || !os.SameFile(open, placed) {
			_ = l.file.Close() // its lines are written; it has no name any more
			l.file = nil
		}
	}
	if l.file != nil {
		return nil
	}
	return l.open(0)
}

// open opens the file to append to it.
func (l *logFile) open(flag int) error {
	f, err := l.v.dir.OpenFile(l.name, os.O_RDWR|os.O_APPEND|os.O_CREATE|flag, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size, l.torn, l.checked = f, info.Size(), false, time.Now()
	if l.size > 0 {
		var last [1]byte
		_, err := f.ReadAt(last[:], l.size-1)
		l.torn = err != nil || last[0] != '\n'
	}
	return nil
}

// rotate puts a new file into the place of the full one and reports whether
// that worked. If not, everything is as before and the file goes on growing.
func (l *logFile) rotate() bool {
	if l.stuck && time.Now().Before(l.retry) {
		return false
	}
	if err := l.shift(); err != nil {
		l.retry = time.Now().Add(again)
		if !l.stuck {
			l.trouble(Trouble{File: l.name, Err: fmt.Errorf("rotate: %w", err)})
		}
		l.stuck = true
		return false
	}
	if l.stuck {
		l.stuck = false
		l.trouble(Trouble{File: l.name})
	}
	l.v.rotations.Add(1)
	return true
}

// shift renames the backups and the file, and opens a new one.
func (l *logFile) shift() error {
	dir, n := l.v.dir, l.v.opts.Backups
	if n == 0 {
		if err := l.file.Truncate(0); err != nil {
			return err
		}
		l.size, l.torn = 0, false
		return nil
	}
	// Only backups in front of a gap move: repeated failures lose none.
	free := 1
	for free < n {
		if _, err := dir.Lstat(backup(l.name, free)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		free++
	}
	for i := free - 1; i >= 1; i-- {
		if err := dir.Rename(backup(l.name, i), backup(l.name, i+1)); err != nil {
			return err
		}
	}
	if err := dir.Rename(l.name, backup(l.name, 1)); err != nil {
		return err
	}
	old, size, torn := l.file, l.size, l.torn
	if err := l.open(os.O_EXCL); err != nil {
		l.file, l.size, l.torn = old, size, torn
		return errors.Join(err, dir.Rename(backup(l.name, 1), l.name))
	}
	_ = old.Close() // nothing is buffered
	return nil
}

func backup(name string, i int) string { return fmt.Sprintf("%s.%d", name, i) }
