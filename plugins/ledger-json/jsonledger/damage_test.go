package jsonledger_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk"
)

// A shelf is a file system in memory, quick to copy.
type shelf map[string][]byte

type shelved struct {
	s    shelf
	name string
}

func (s shelf) List() ([]string, error) { return slices.Collect(maps.Keys(s)), nil }
func (s shelf) Open(name string) (jsonledger.File, error) {
	if _, ok := s[name]; !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return shelved{s, name}, nil
}
func (s shelf) OpenWrite(name string) (jsonledger.File, error) { return s.Open(name) }
func (s shelf) Create(name string) (jsonledger.File, error) {
	s[name] = []byte{}
	return s.Open(name)
}
func (s shelf) Rename(from, to string) error   { s[to] = s[from]; return s.Remove(from) }
func (s shelf) Remove(name string) error       { delete(s, name); return nil }
func (s shelf) SyncDir() error                 { return nil }
func (s shelf) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
func (f shelved) Close() error                 { return nil }
func (f shelved) Sync() error                  { return nil }
func (f shelved) Size() (int64, error)         { return int64(len(f.s[f.name])), nil }
func (f shelved) Truncate(n int64) error       { f.s[f.name] = f.s[f.name][:n]; return nil }
func (f shelved) ReadAt(p []byte, off int64) (int, error) {
	b := f.s[f.name]
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f shelved) WriteAt(p []byte, off int64) (int, error) {
	b := append(slices.Clone(f.s[f.name][:off]), p...)
	if old := f.s[f.name]; len(old) > len(b) {
		b = append(b, old[len(b):]...)
	}
	f.s[f.name] = b
	return len(p), nil
}

// written is a book of about size bytes; closed says whether its last
// checkpoint is at its end.
func written(t *testing.T, size int, closed bool) (shelf, *writer) {
	t.Helper()
	s, w := shelf{}, &writer{r: rand.New(rand.NewPCG(7, 7))}
	l := jsonledger.NewOn(jsonledger.Config{Segment: 24 << 10, Checkpoint: 10 << 10}, s)
	if _, err := l.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for s.size() < size {
		if err := w.append(t, l); err != nil {
			t.Fatal(err)
		}
	}
	if closed {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return s, w
}

func (s shelf) size() int {
	n := 0
	for _, b := range s {
		n += len(b)
	}
	return n
}

// outcome opens, reads and verifies, and tells how the damage was taken.
func outcome(t *testing.T, s shelf, w *writer) (detected bool, records int) {
	t.Helper()
	_, verifyErr := jsonledger.VerifyOn(t.Context(), s)
	l := jsonledger.NewOn(small(), maps.Clone(s))
	head, err := l.Open(t.Context())
	if err != nil {
		var damage *jsonledger.DamageError
		if !errors.As(err, &damage) || damage.File == "" || damage.Cause == "" || sdk.CodeOf(err) != sdk.CodeInternal {
			t.Fatalf("refused without saying where: %v", err)
		}
		return true, 0
	}
	written, got, n := sdk.Head{}, sdk.Head{}, 0
	err = l.Read(t.Context(), 1, func(r sdk.Record) bool {
		written, got = written.Next(&w.submitted[n]), got.Next(&r)
		n++
		return n < len(w.submitted)
	})
	if err != nil {
		return true, n
	}
	if written != head || got != head {
		t.Fatalf("it has other records than were written, and says nothing")
	}
	return verifyErr != nil, n
}

// Every byte of a book of 64 KiB is changed. BYTES says how many of them,
// 65536 for all.
func TestEveryByte(t *testing.T) {
	for _, closed := range []bool{true, false} {
		s, w := written(t, 64<<10, closed)
		last := w.lastBatch(t, s)
		step := max(1, s.size()/many(t, "BYTES", 1000))
		changed, torn := 0, 0
		for name, content := range s {
			for at := 0; at < len(content); at += step {
				c := maps.Clone(s)
				c[name] = slices.Clone(content)
				c[name][at] ^= byte(1 + w.r.IntN(255))
				changed++
				detected, n := outcome(t, c, w)
				if detected {
					continue
				}
				// Only the last append may be taken for one that never was.
				if closed || n != last {
					t.Fatalf("%s: byte %d of %d: not detected: %d records of %d", name, at, len(content), n, w.acked)
				}
				torn++
			}
		}
		t.Logf("closed %v: %d bytes changed, %d taken for a torn tail", closed, changed, torn)
	}
}

// lastBatch returns how many records are before the last append.
func (w *writer) lastBatch(t *testing.T, s shelf) int {
	t.Helper()
	c := maps.Clone(s)
	name := slices.Max(slices.DeleteFunc(slices.Collect(maps.Keys(c)), func(n string) bool { return !strings.HasSuffix(n, ".jsonl") }))
	c[name] = c[name][:len(c[name])-1]
	_, n := outcome(t, c, w)
	return n
}

// The original took a ledger it could not read for an empty one.
func TestUnreadableIsNotZero(t *testing.T) {
	s, w := written(t, 64<<10, true)
	for name, content := range s {
		for what, with := range map[string][]byte{
			"empty": {}, "cut": content[:len(content)/2], "zeros": make([]byte, len(content)), "words": []byte("hello\n"), "json": []byte("{}\n"),
		} {
			c := maps.Clone(s)
			c[name] = with
			before := maps.Clone(c)
			if detected, n := outcome(t, c, w); !detected {
				t.Errorf("%s, %s: opened with %d records of %d", name, what, n, w.acked)
			}
			if !maps.EqualFunc(c, before, slices.Equal) {
				t.Errorf("%s, %s: it was changed", name, what)
			}
		}
		c := maps.Clone(s)
		delete(c, name)
		l := jsonledger.NewOn(small(), c)
		head, err := l.Open(t.Context())
		if rebuilt := name == "mitochondria.json"; rebuilt != (err == nil) || rebuilt && head != w.head {
			t.Errorf("%s is missing: %v, %v", name, head.Seq, err)
		}
	}
}
