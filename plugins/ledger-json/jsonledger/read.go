package jsonledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/cellkernel/cellkernel/sdk"
)

var errStop = errors.New("the reader has enough")

// Read yields what was durable when it began. Every record is checked against
// its sum and the chain once more: a disk can lie later, too.
func (l *Ledger) Read(ctx context.Context, from uint64, yield func(sdk.Record) bool) error {
	r := reader{dir: l.dir, from: max(from, 1), yield: yield}
	segments, err := l.view(r.from)
	if err != nil {
		return err
	}
	for i := range segments {
		err := r.segment(ctx, &segments[i])
		if errors.Is(err, errStop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// view returns the segments that have records from a number on.
func (l *Ledger) view(from uint64) ([]segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.opened()
	if err != nil {
		return nil, err
	}
	var list []segment
	for i, s := range b.segments {
		if i+1 == len(b.segments) || b.segments[i+1].first > from {
			list = append(list, segment{first: s.first, size: s.size})
		}
	}
	return list, nil
}

type reader struct {
	dir   fileSystem
	from  uint64
	head  sdk.Head // behind the last record
	yield func(sdk.Record) bool
}

func (r *reader) segment(ctx context.Context, s *segment) error {
	f, err := r.dir.Open(s.name())
	if err != nil {
		return err
	}
	defer f.Close()
	h, start, err := readHeader(f, s.name())
	if err != nil {
		return err
	}
	before := sdk.Head{Seq: h.first - 1, Hash: h.prev}
	if r.head.Seq > 0 && before != r.head {
		return &DamageError{File: s.name(), Seq: r.head.Seq, Cause: "it does not follow the segment before it"}
	}
	r.head = before
	err = lines(ctx, f, start, s.size, r.line)
	return damaged(s.name(), r.head.Seq, err)
}

// line skips to the record before the first one, whose hash is needed.
func (r *reader) line(off int64, line []byte) error {
	if r.head.Seq+2 < r.from {
		r.head.Seq++
		return nil
	}
	e, err := parseEntry(line)
	if err != nil {
		return &badLine{off, err}
	}
	next := r.head.Next(&e.rec)
	if e.rec.Seq != next.Seq {
		return &badLine{off, fmt.Errorf("record %d where %d was due", e.rec.Seq, next.Seq)}
	}
	if e.rec.Seq < r.from {
		r.head = sdk.Head{Seq: e.rec.Seq, Hash: e.hash}
		return nil
	}
	if e.hash != next.Hash {
		return &badLine{off, fmt.Errorf("the chain is broken at record %d", e.rec.Seq)}
	}
	r.head = next
	if !r.yield(e.rec) {
		return errStop
	}
	return nil
}
