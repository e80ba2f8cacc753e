package jsonledger

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/cellkernel/cellkernel/sdk"
)

const (
	maxAccounts = 1 << 20 // of a book
	maxLoaded   = 4       // segments whose ids are in memory
)

// A book is an open one. Whoever holds the ledger's turn changes it, and holds
// mu while readers could see the change.
type book struct {
	dir      fileSystem
	head     sdk.Head
	balances map[sdk.Account]sdk.ATP
	segments []*segment // in order; the last is written
	active   file       // the last segment
	since    int64      // bytes written since the checkpoint
	loaded   []*segment // those with ids in memory, oldest first
}

func (b *book) last() *segment { return b.segments[len(b.segments)-1] }

// stored counts the records of batch that are in the book, with their bytes.
func (b *book) stored(ctx context.Context, batch []sdk.Record) (int, error) {
	seen := make(map[sdk.RecordID]bool, len(batch))
	n := 0
	for i := range batch {
		r := &batch[i]
		if seen[r.ID] {
			return 0, sdk.Errorf(sdk.CodeInvalid, "record %s twice in one batch", r.ID)
		}
		seen[r.ID] = true
		old, err := b.find(ctx, r.ID)
		var damage *DamageError
		if err != nil && !errors.As(err, &damage) && ctx.Err() == nil {
			err = unavailable("look for record "+r.ID.String(), err)
		}
		if err != nil {
			return 0, err
		}
		if old == nil {
			continue
		}
		if !same(old, r) {
			return 0, sdk.Errorf(sdk.CodeInvalid, "record %s is stored with other bytes", r.ID)
		}
		n++
	}
	return n, nil
}

// find looks for a record. Ids begin with the time, so a new one is beyond the
// range of every segment but the last, and nothing is read.
func (b *book) find(ctx context.Context, id sdk.RecordID) (*sdk.Record, error) {
	for i := len(b.segments) - 1; i >= 0; i-- {
		s := b.segments[i]
		if !s.mayHave(id) {
			continue
		}
		if err := b.load(ctx, s); err != nil {
			return nil, err
		}
		if off, ok := s.ids[id]; ok {
			e, err := s.entryAt(b.dir, off)
			if err != nil {
				return nil, err
			}
			return &e.rec, nil
		}
	}
	return nil, nil
}

// load has the ids of s in memory, and those of few others.
func (b *book) load(ctx context.Context, s *segment) error {
	if s.ids != nil {
		return nil
	}
	if err := s.load(ctx, b.dir); err != nil {
		return err
	}
	b.keep(s)
	return nil
}

// keep notes that the ids of s are in memory. For it, the oldest are forgotten.
func (b *book) keep(s *segment) {
	b.loaded = append(b.loaded, s)
	if len(b.loaded) > maxLoaded {
		b.loaded[0].ids = nil
		b.loaded = b.loaded[1:]
	}
}

// sums returns what the accounts of batch come to behind it.
func (b *book) sums(batch []sdk.Record) (map[sdk.Account]sdk.ATP, error) {
	sums := map[sdk.Account]sdk.ATP{}
	for i := range batch {
		if err := add(sums, b.balances, batch[i].Postings); err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
		}
	}
	return sums, nil
}

// add adds postings to sums, which begin at base.
func add(sums, base map[sdk.Account]sdk.ATP, postings []sdk.Posting) error {
	for _, p := range postings {
		was, ok := sums[p.Account]
		if !ok {
			was = base[p.Account]
		}
		sum := was + p.Amount
		if p.Amount > 0 && sum < was || p.Amount < 0 && sum > was {
			return fmt.Errorf("account %q overflows", string(p.Account))
		}
		sums[p.Account] = sum
	}
	return nil
}

// entries numbers and chains a batch behind the head.
func (b *book) entries(batch []sdk.Record) ([]entry, sdk.Head, []byte) {
	head, off := b.head, b.last().size
	es := make([]entry, len(batch))
	var lines []byte
	for i := range batch {
		head = head.Next(&batch[i])
		e := &es[i]
		*e = entry{rec: batch[i], first: b.head.Seq + 1, last: b.head.Seq + uint64(len(batch)), hash: head.Hash}
		e.rec.Seq = head.Seq
		e.off = off + int64(len(lines))
		lines = appendEntry(lines, e)
		e.end = off + int64(len(lines))
	}
	return es, head, lines
}

// write makes lines durable behind the last segment's end, or leaves no trace.
func (b *book) write(lines []byte) error {
	end, name := b.last().size, b.last().name()
	if _, err := b.active.WriteAt(lines, end); err != nil {
		undo := b.active.Truncate(end)
		if undo == nil {
			undo = b.active.Sync()
		}
		if undo != nil {
			return &PoisonError{fmt.Errorf("cut %q to %d bytes after %w: %w", name, end, err, undo)}
		}
		return unavailable("append to "+name, err)
	}
	if err := b.active.Sync(); err != nil {
		return &PoisonError{fmt.Errorf("sync %q: %w", name, err)}
	}
	return nil
}

// turn begins a new segment when the last one is full.
func (b *book) turn(limit int64) (*segment, file, error) {
	if b.last().size < limit {
		return nil, nil, nil
	}
	s := newSegment(b.head.Seq + 1)
	line := appendHeader(nil, header{first: s.first, prev: b.head.Hash})
	s.size, s.ids = int64(len(line)), map[sdk.RecordID]int64{}
	err := writeNew(b.dir, s.name(), line)
	var poison *PoisonError
	if errors.As(err, &poison) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, unavailable("begin "+s.name(), err)
	}
	f, err := b.dir.OpenWrite(s.name())
	if err != nil {
		return nil, nil, unavailable("begin "+s.name(), err)
	}
	return s, f, nil
}

// use makes s the segment that is written.
func (b *book) use(s *segment, f file) error {
	old := b.active
	b.segments, b.active = append(b.segments, s), f
	if s.ids != nil {
		b.keep(s)
	}
	return old.Close()
}

// apply takes entries that are durable into the sums.
func (b *book) apply(es []entry, head sdk.Head, sums map[sdk.Account]sdk.ATP) {
	before := b.last().size
	b.last().add(es)
	b.since += b.last().size - before
	b.head = head
	maps.Copy(b.balances, sums)
}

// save writes the checkpoint.
func (b *book) save() error {
	content, err := newCheckpoint(b).format()
	if err != nil {
		return err
	}
	if err := writeNew(b.dir, checkpointName, content); err != nil {
		return err
	}
	b.since = 0
	return nil
}
