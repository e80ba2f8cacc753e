package jsonledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cellkernel/cellkernel/sdk"
)

// maxBatchBytes is more than what one append writes: behind the last whole
// batch of a book there is never more.
const maxBatchBytes = sdk.MaxBatch * maxLine

// errTorn is a line without an end.
var errTorn = errors.New("the file ends within a line")

// lines yields the lines of f between two offsets, without their newlines. A
// line is valid until yield returns.
func lines(ctx context.Context, f file, from, end int64, yield func(off int64, line []byte) error) error {
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, end-from), 4*maxLine)
	for off, n := from, 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0 && off == end:
			return nil
		case errors.Is(err, io.EOF):
			return &badLine{off, errTorn}
		case errors.Is(err, bufio.ErrBufferFull) || err == nil && len(line) > maxLine:
			return &badLine{off, errors.New("a line without end")}
		case err != nil:
			return err
		}
		if err := yield(off, line[:len(line)-1]); err != nil {
			return err
		}
		off += int64(len(line))
	}
}

// A badLine is a line that is not what was written, unlike an error of the
// disk, which says nothing about the book.
type badLine struct {
	off   int64
	cause error
}

func (b *badLine) Error() string { return fmt.Sprintf("byte %d: %v", b.off, b.cause) }
func (b *badLine) Unwrap() error { return b.cause }

// A position is behind a whole batch: an offset in a segment and the head.
type position struct {
	off  int64
	head sdk.Head
}

// A walk goes over the entries of a segment and checks every promise a line
// makes: its sum, its number, its place in a batch, and the chain.
type walk struct {
	at    position // behind the last whole batch
	next  sdk.Head // behind the last entry
	batch []entry  // entries of the batch that has begun
	saw   func(batch []entry) error
}

// over walks the bytes of f from w.at to end. A [*badLine] says where it
// stopped believing; w.at is before it.
func (w *walk) over(ctx context.Context, f file, end int64) error {
	w.next, w.batch = w.at.head, w.batch[:0]
	if err := lines(ctx, f, w.at.off, end, w.line); err != nil {
		return err
	}
	if len(w.batch) > 0 {
		return &badLine{end, fmt.Errorf("the batch of record %d is not whole: %w", w.batch[0].rec.Seq, errTorn)}
	}
	return nil
}

func (w *walk) line(off int64, line []byte) error {
	e, err := parseEntry(line)
	if err != nil {
		return &badLine{off, err}
	}
	e.off, e.end = off, off+int64(len(line))+1
	if err := w.follows(&e); err != nil {
		return &badLine{off, err}
	}
	w.batch = append(w.batch, e)
	if e.rec.Seq < e.last {
		return nil
	}
	if w.saw != nil {
		if err := w.saw(w.batch); err != nil {
			return err
		}
	}
	w.at, w.batch = position{e.end, w.next}, w.batch[:0]
	return nil
}

// follows checks e against what was before it.
func (w *walk) follows(e *entry) error {
	if want := w.next.Seq + 1; e.rec.Seq != want {
		return fmt.Errorf("record %d where %d was due", e.rec.Seq, want)
	}
	if len(w.batch) == 0 && e.first != e.rec.Seq || len(w.batch) > 0 && (e.first != w.batch[0].first || e.last != w.batch[0].last) {
		return fmt.Errorf("record %d is of another batch, %d to %d", e.rec.Seq, e.first, e.last)
	}
	w.next = w.next.Next(&e.rec)
	if w.next.Hash != e.hash {
		return fmt.Errorf("the chain is broken: the hash behind record %d is %x, want %x", e.rec.Seq, e.hash, w.next.Hash)
	}
	return nil
}

// torn reports whether what is behind at can be one batch that a crash kept
// from being written: nothing of a later batch may be there, for that was
// written only when this one was durable.
func torn(f file, at position, end int64) (bool, error) {
	if end-at.off > maxBatchBytes {
		return false, nil
	}
	rest := make([]byte, end-at.off)
	if _, err := f.ReadAt(rest, at.off); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	for line := range bytes.SplitSeq(rest, []byte("\n")) {
		if e, err := parseEntry(line); err == nil && e.first != at.head.Seq+1 {
			return false, nil
		}
	}
	return true, nil
}
