package jsonledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// recoverBook reads what is behind the checkpoint, cuts what a crash kept from
// being written, and refuses everything else that is not as it was written.
func recoverBook(ctx context.Context, dir fileSystem, log *slog.Logger) (*book, error) {
	c, err := readCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	found, err := segmentsOf(dir)
	if err != nil {
		return nil, err
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	b := &book{dir: dir, balances: map[sdk.Account]sdk.ATP{}}
	if c == nil && len(found) == 0 {
		return b, b.create()
	}
	if c != nil {
		err = b.adopt(c, found)
	}
	if err != nil {
		return nil, err
	}
	if err := b.readTail(ctx, found[len(b.segments):], log); err != nil {
		if b.active != nil {
			b.active.Close()
		}
		return nil, err
	}
	// A rename that was seen may not have been durable.
	if err := dir.SyncDir(); err != nil {
		b.active.Close()
		return nil, fmt.Errorf("sync the directory: %w", err)
	}
	return b, nil
}

// sweep removes what a crash left of files that never had their name.
func sweep(dir fileSystem) error {
	names, err := dir.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if whole, ok := strings.CutSuffix(name, ".tmp"); ok && (whole == checkpointName || segmentName.MatchString(whole)) {
			if err := dir.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// create makes an empty book. A crash within leaves nothing or an empty book.
func (b *book) create() error {
	s := newSegment(1)
	line := appendHeader(nil, header{first: 1})
	s.size = int64(len(line))
	if err := writeNew(b.dir, s.name(), line); err != nil {
		return err
	}
	f, err := b.dir.OpenWrite(s.name())
	if err != nil {
		return err
	}
	b.segments, b.active = []*segment{s}, f
	return b.save()
}

// adopt takes over what the checkpoint says, if the files can be those that it
// speaks of.
func (b *book) adopt(c *checkpoint, found []*segment) error {
	segments, err := c.segments()
	if err == nil {
		b.head, err = c.head()
	}
	if err != nil {
		return &DamageError{File: checkpointName, Cause: err.Error()}
	}
	for i, s := range segments {
		if i >= len(found) || found[i].first != s.first {
			return &DamageError{File: s.name(), Cause: "the file is missing: the checkpoint names it"}
		}
		if err := s.fits(b.dir, i == len(segments)-1); err != nil {
			return err
		}
	}
	b.segments, b.balances = segments, c.accounts()
	return nil
}

// fits checks the size of a segment, and its head, against the checkpoint.
func (s *segment) fits(dir fileSystem, last bool) error {
	f, err := dir.Open(s.name())
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, err := readHeader(f, s.name()); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < s.size || size > s.size && !last {
		return &DamageError{File: s.name(), Offset: min(size, s.size), Cause: fmt.Sprintf("it has %d bytes, and %d by the checkpoint", size, s.size)}
	}
	return nil
}

// readTail goes over everything behind the checkpoint: the rest of its last
// segment, and more segments.
func (b *book) readTail(ctx context.Context, more []*segment, log *slog.Logger) error {
	t := tail{dir: b.dir, at: position{head: b.head}, saw: b.took}
	if len(b.segments) > 0 {
		t.at.off = b.last().size
		if err := b.finish(ctx, &t, len(more) == 0, log); err != nil {
			return err
		}
	}
	for i, s := range more {
		if b.active != nil {
			if err := b.active.Close(); err != nil {
				return err
			}
			b.active = nil
		}
		b.segments = append(b.segments, s)
		if err := t.begin(s); err != nil {
			return err
		}
		s.size = t.at.off
		if err := b.finish(ctx, &t, i == len(more)-1, log); err != nil {
			return err
		}
	}
	return nil
}

// finish reads the last segment to its end and leaves it open. What is behind
// the checkpoint is written once more and synced: after an fsync that failed
// the operating system shows bytes that are not on the disk.
func (b *book) finish(ctx context.Context, t *tail, end bool, log *slog.Logger) error {
	s, from := b.last(), t.at.off
	f, err := b.dir.OpenWrite(s.name())
	if err != nil {
		return err
	}
	b.active = f
	cut, err := t.read(ctx, s, f, end)
	if err != nil || !end {
		return err
	}
	if cut > 0 {
		log.Warn("cut a batch that a crash kept from being written", "file", s.name(), "byte", t.at.off, "bytes", cut)
		if err := f.Truncate(t.at.off); err != nil {
			return fmt.Errorf("cut %q to %d bytes: %w", s.name(), t.at.off, err)
		}
	}
	if t.at.off == from && cut == 0 {
		return nil
	}
	return rewrite(f, from, t.at.off)
}

func rewrite(f file, from, end int64) error {
	buf := make([]byte, min(end-from, 1<<20))
	for off := from; off < end; {
		part := buf[:min(end-off, int64(len(buf)))]
		if _, err := f.ReadAt(part, off); err != nil {
			return fmt.Errorf("read the tail again: %w", err)
		}
		if _, err := f.WriteAt(part, off); err != nil {
			return fmt.Errorf("write the tail again: %w", err)
		}
		off += int64(len(part))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the tail: %w", err)
	}
	return nil
}

// took takes a batch of the tail into the sums.
func (b *book) took(batch []entry) error {
	for i := range batch {
		if err := add(b.balances, nil, batch[i].rec.Postings); err != nil {
			return &badLine{batch[i].off, err}
		}
	}
	b.head = sdk.Head{Seq: batch[len(batch)-1].rec.Seq, Hash: batch[len(batch)-1].hash}
	b.since += batch[len(batch)-1].end - batch[0].off
	b.last().add(batch)
	return nil
}

// A tail is read segment by segment.
type tail struct {
	dir fileSystem
	at  position
	saw func(batch []entry) error
}

// begin moves to the first record of s, which must follow.
func (t *tail) begin(s *segment) error {
	f, err := t.dir.Open(s.name())
	if err != nil {
		return err
	}
	defer f.Close()
	h, start, err := readHeader(f, s.name())
	if err != nil {
		return err
	}
	if h.first != t.at.head.Seq+1 || h.prev != t.at.head.Hash {
		return &DamageError{File: s.name(), Seq: t.at.head.Seq, Cause: fmt.Sprintf("it does not follow record %d: it begins with %d behind the hash %x", t.at.head.Seq, h.first, h.prev)}
	}
	t.at.off = start
	return nil
}

// read goes over the rest of s and returns how many bytes at the end of the
// book are a batch that a crash kept from being written.
func (t *tail) read(ctx context.Context, s *segment, f file, end bool) (int64, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	w := walk{at: t.at, saw: t.saw}
	err = w.over(ctx, f, size)
	t.at = w.at
	var bad *badLine
	if err == nil || !errors.As(err, &bad) {
		return 0, err
	}
	if end {
		ok, err := torn(f, w.at, size)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if ok {
			return size - w.at.off, nil
		}
	}
	return 0, damaged(s.name(), w.next.Seq, err)
}
