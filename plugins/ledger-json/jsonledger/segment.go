package jsonledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"

	"github.com/cellkernel/cellkernel/sdk"
)

// A segment is a file of the book: a header and the records from first on.
type segment struct {
	first     uint64
	size      int64        // bytes that are durable
	low, high sdk.RecordID // no id outside is in it; low > high: it has none
	ids       map[sdk.RecordID]int64
}

func newSegment(first uint64) *segment {
	s := &segment{first: first}
	for i := range s.low {
		s.low[i] = 0xff
	}
	return s
}

func (s *segment) name() string { return fmt.Sprintf("%020d.jsonl", s.first) }

// add notes where entries are. The ids are kept once they were asked for.
func (s *segment) add(batch []entry) {
	for i := range batch {
		id := batch[i].rec.ID
		s.low, s.high = lower(s.low, id), higher(s.high, id)
		if s.ids != nil {
			s.ids[id] = batch[i].off
		}
	}
	s.size = batch[len(batch)-1].end
}

func lower(a, b sdk.RecordID) sdk.RecordID {
	if slices.Compare(a[:], b[:]) <= 0 {
		return a
	}
	return b
}

func higher(a, b sdk.RecordID) sdk.RecordID {
	if slices.Compare(a[:], b[:]) >= 0 {
		return a
	}
	return b
}

// mayHave reports whether id is within the range of the segment's ids.
func (s *segment) mayHave(id sdk.RecordID) bool {
	return slices.Compare(s.low[:], id[:]) <= 0 && slices.Compare(id[:], s.high[:]) <= 0
}

// load reads where the ids of the segment are.
func (s *segment) load(ctx context.Context, fs fileSystem) error {
	f, err := fs.Open(s.name())
	if err != nil {
		return err
	}
	defer f.Close()
	ids := map[sdk.RecordID]int64{}
	_, start, err := readHeader(f, s.name())
	if err != nil {
		return err
	}
	err = lines(ctx, f, start, s.size, func(off int64, line []byte) error {
		e, err := parseEntry(line)
		if err != nil {
			return &badLine{off, err}
		}
		ids[e.rec.ID] = off
		return nil
	})
	if err != nil {
		return damaged(s.name(), s.first-1, err)
	}
	s.ids = ids
	return nil
}

// entryAt reads one entry.
func (s *segment) entryAt(fs fileSystem, off int64) (entry, error) {
	f, err := fs.Open(s.name())
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	var e entry
	stop := errors.New("found")
	err = lines(context.Background(), f, off, s.size, func(off int64, line []byte) error {
		var err error
		if e, err = parseEntry(line); err != nil {
			return &badLine{off, err}
		}
		return stop
	})
	if errors.Is(err, stop) {
		return e, nil
	}
	return e, damaged(s.name(), s.first-1, err)
}

// readHeader returns the first line of a segment and where the second begins.
func readHeader(f file, name string) (header, int64, error) {
	b := make([]byte, 256)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, 0, err
	}
	end := slices.Index(b[:n], '\n')
	if end < 0 {
		return header{}, 0, &DamageError{File: name, Cause: "it has no first line"}
	}
	h, err := parseHeader(b[:end])
	if err == nil && newSegment(h.first).name() != name {
		err = fmt.Errorf("its first record is %d, which its name does not say", h.first)
	}
	if err != nil {
		return h, 0, &DamageError{File: name, Cause: err.Error()}
	}
	return h, int64(end) + 1, nil
}

// damaged makes a [DamageError] of a [badLine]; other errors stay as they are.
func damaged(name string, seq uint64, err error) error {
	var bad *badLine
	if !errors.As(err, &bad) {
		return err
	}
	return &DamageError{File: name, Offset: bad.off, Seq: seq, Cause: bad.cause.Error()}
}

var segmentName = regexp.MustCompile(`^[0-9]{20}\.jsonl$`)

// segmentsOf lists the segments in order, by their names.
func segmentsOf(fs fileSystem) ([]*segment, error) {
	names, err := fs.List()
	if err != nil {
		return nil, err
	}
	var found []*segment
	for _, name := range names {
		if !segmentName.MatchString(name) {
			continue
		}
		first, err := strconv.ParseUint(name[:20], 10, 64)
		if err != nil {
			return nil, &DamageError{File: name, Cause: "no record has this number"}
		}
		found = append(found, newSegment(first))
	}
	slices.SortFunc(found, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	return found, nil
}

// writeNew puts a file at its place, whole and durable or not at all.
func writeNew(fs fileSystem, name string, content []byte) error {
	tmp := name + ".tmp"
	f, err := fs.Create(tmp)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		f.Close()
		return errors.Join(err, fs.Remove(tmp))
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return &PoisonError{fmt.Errorf("sync %q: %w", tmp, err)}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fs.Rename(tmp, name); err != nil {
		return err
	}
	if err := fs.SyncDir(); err != nil {
		return &PoisonError{fmt.Errorf("sync the directory of %q: %w", name, err)}
	}
	return nil
}
