package vacuole_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/vacuole"
)

// numbered returns lines "from" to "to"-1, wide enough to rotate often.
func numbered(from, to int) []byte {
	var b bytes.Buffer
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%d %s\n", i, strings.Repeat("x", 60))
	}
	return b.Bytes()
}

func number(t testing.TB, l vacuole.Line) int {
	t.Helper()
	var i int
	if _, err := fmt.Sscanf(l.Text, "%d ", &i); err != nil {
		t.Fatalf("line %+v: %v", l, err)
	}
	return i
}

func TestTailAndSinceAcrossRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v := open(t, dir, vacuole.Options{MaxSize: 64 << 10, Backups: 20})
		w, err := v.Writer(worker(1))
		if err != nil {
			t.Fatal(err)
		}
		other, err := v.Writer(worker(2))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for i := range 5000 { // a line a second
			if _, err := w.Write(numbered(i, i+1)); err != nil {
				t.Fatal(err)
			}
			if i%2500 == 0 {
				if _, err := other.Write(numbered(i, i+1)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		if v.Stats().Rotations < 5 {
			t.Fatalf("%d rotations: not much of a test", v.Stats().Rotations)
		}
		for _, c := range []struct {
			q           vacuole.Query
			first, last int
			count       int
		}{
			{vacuole.Query{Names: []string{"worker#1"}}, 0, 4999, 5000},
			{vacuole.Query{Tail: 1}, 4999, 4999, 1},
			{vacuole.Query{Names: []string{"worker#1"}, Tail: 3000}, 2000, 4999, 3000},
			{vacuole.Query{Names: []string{"worker#1"}, Tail: 9000}, 0, 4999, 5000},
			{vacuole.Query{Names: []string{"worker#2"}, Tail: 2}, 0, 2500, 2},
			{vacuole.Query{Names: []string{"worker#1"}, Since: start.Add(4000 * time.Second)}, 4000, 4999, 1000},
			{vacuole.Query{Names: []string{"worker#1"}, Since: start.Add(4990 * time.Second), Tail: 500}, 4990, 4999, 10},
			{vacuole.Query{Names: []string{"nobody"}}, 0, 0, 0},
		} {
			lines := read(t, dir, c.q)
			if len(lines) != c.count {
				t.Errorf("%+v: %d lines, want %d", c.q, len(lines), c.count)
				continue
			}
			if c.count > 0 && (number(t, lines[0]) != c.first || number(t, lines[len(lines)-1]) != c.last) {
				t.Errorf("%+v: %d to %d, want %d to %d", c.q, number(t, lines[0]), number(t, lines[len(lines)-1]), c.first, c.last)
			}
		}
	})
}

func TestReadMergesByTimeAndStopsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v := open(t, dir, vacuole.Options{})
		for i := range 6 {
			w, err := v.Writer(vacuole.Source{Kind: vacuole.Cell, Name: string(rune('a' + i%2))})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(w, i)
			time.Sleep(time.Millisecond)
		}
		if got := strings.Join(texts(read(t, dir, vacuole.Query{})), ""); got != "012345" {
			t.Errorf("merged %q", got)
		}
		n := 0
		if err := vacuole.Read(context.Background(), dir, vacuole.Query{}, func(vacuole.Line) bool { n++; return n < 3 }); err != nil || n != 3 {
			t.Errorf("stopped after %d, %v", n, err)
		}
	})
	if err := vacuole.Read(context.Background(), filepath.Join(t.TempDir(), "none"), vacuole.Query{}, nil); err != nil {
		t.Errorf("no directory: %v", err)
	}
}

// TestReadWhileRotating reads as another process would, again and again, while
// lines are written and files rotated: what it sees has no gaps, no doubles.
func TestReadWhileRotating(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, vacuole.Options{MaxSize: 64 << 10, Backups: 100})
	w, err := v.Writer(worker(1))
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		for i := 0; i < 40_000; i += 100 {
			if _, err := w.Write(numbered(i, i+100)); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for ended := false; !ended; {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			ended = true
		default:
		}
		for i, l := range read(t, dir, vacuole.Query{}) {
			if number(t, l) != i {
				t.Fatalf("line %d is %d", i, number(t, l))
			}
		}
	}
}

// TestFollow joins at a random moment: every line comes exactly once, stored
// or live.
func TestFollow(t *testing.T) {
	for _, size := range []int64{64 << 10, 10 << 20} {
		dir := t.TempDir()
		v := open(t, dir, vacuole.Options{MaxSize: size, Backups: 100})
		feed(t, v, worker(1), numbered(0, 3000))
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Attach(r, worker(1)); err != nil {
			t.Fatal(err)
		}
		const last = 8000
		wrote := make(chan error, 1)
		go func() {
			_, err := w.Write(numbered(3000, last))
			wrote <- errors.Join(err, w.Close())
		}()
		s, err := v.Follow(vacuole.Query{Names: []string{"worker"}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range last {
			l, err := s.Next(context.Background())
			if err != nil || number(t, l) != i {
				t.Fatalf("line %d: %+v, %v", i, l, err)
			}
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		closeAll(t, v)
		if l, err := s.Next(context.Background()); err != io.EOF {
			t.Errorf("after the end: %+v, %v, want EOF", l, err)
		}
	}
}

func TestFollowNewLogsOnly(t *testing.T) {
	v := open(t, t.TempDir(), vacuole.Options{})
	feed(t, v, worker(1), []byte("old\n"))
	s, err := v.Follow(vacuole.Query{Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	feed(t, v, vacuole.Source{Kind: vacuole.Cell, Name: "late"}, []byte("new\n"))
	if l, err := s.Next(context.Background()); err != nil || l.Text != "new" {
		t.Errorf("Next = %+v, %v", l, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with nothing to come: %v", err)
	}
}

// TestSlowSubscriber never reads while a cell writes: the cell is not slowed,
// and what the subscriber gets adds up to what was written.
func TestSlowSubscriber(t *testing.T) {
	v := open(t, t.TempDir(), vacuole.Options{MaxSize: 1 << 30})
	s, err := v.Follow(vacuole.Query{})
	if err != nil {
		t.Fatal(err)
	}
	const total = 100_000
	feed(t, v, worker(1), numbered(0, total/2))
	feed(t, v, worker(1), numbered(total/2, total))
	s.Close()
	var got, lost int64
	for {
		l, err := s.Next(context.Background())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if l.Lost > 0 {
			lost += l.Lost
		} else {
			got++
		}
	}
	if got == 0 || lost == 0 || got+lost != total {
		t.Errorf("%d lines and %d lost, want %d in all", got, lost, total)
	}
}
