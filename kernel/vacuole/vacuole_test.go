package vacuole_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cellkernel/cellkernel/kernel/vacuole"
)

func worker(replica int) vacuole.Source {
	return vacuole.Source{Kind: vacuole.Cell, Name: "worker", Replica: replica, Stream: "stdout"}
}

// open returns a vacuole that is closed, and must have ended, after the test.
func open(t testing.TB, dir string, opts vacuole.Options) *vacuole.Vacuole {
	t.Helper()
	v, err := vacuole.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, v) })
	return v
}

func closeAll(t testing.TB, v *vacuole.Vacuole) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := v.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
	if s := v.Stats(); s.Readers != 0 {
		t.Errorf("readers after Close = %d, want 0", s.Readers)
	}
}

// feed attaches a real pipe, writes text to it, ends it and waits.
func feed(t testing.TB, v *vacuole.Vacuole, src vacuole.Source, text []byte) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done, err := v.Attach(r, src)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
}

func read(t testing.TB, dir string, q vacuole.Query) []vacuole.Line {
	t.Helper()
	var lines []vacuole.Line
	err := vacuole.Read(context.Background(), dir, q, func(l vacuole.Line) bool {
		lines = append(lines, l)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func texts(lines []vacuole.Line) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.Text)
	}
	return out
}

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, vacuole.Options{})
	feed(t, v, worker(2), []byte("hello\r\nta\tb ö\n\nred \x1b[31m\x00 \xff \u202e\nno end"))
	feed(t, v, vacuole.Source{Kind: vacuole.Plugin, Name: "transport-uds", Stream: "stderr"}, []byte("{}\n"))
	w, err := v.Writer(vacuole.Source{Kind: vacuole.Kernel, Name: "kernel"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"one\ntw", "o", "\n"} {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	closeAll(t, v)
	want := map[string]string{
		"cell-worker.log": `T worker#2 hello
T worker#2 ta	b ö
T worker#2 
T worker#2 red \x1b[31m\x00 \xff \u{202e}
T worker#2 no end
`,
		"plugin-transport-uds.log": "T transport-uds {}\n",
		"kernel.log":               "T kernel one\nT kernel two\n",
	}
	stamp := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if s := stamp.ReplaceAllString(string(got), "T"); s != text {
			t.Errorf("%s:\n%s\nwant:\n%s", name, s, text)
		}
	}
}

func TestSourcesThatCouldEscape(t *testing.T) {
	v := open(t, t.TempDir(), vacuole.Options{})
	for _, src := range []vacuole.Source{
		{Kind: vacuole.Cell}, {Kind: vacuole.Cell, Name: "../x"}, {Kind: vacuole.Cell, Name: "a b"},
		{Kind: vacuole.Cell, Name: "a#1"}, {Kind: "x", Name: "a"}, {Kind: vacuole.Kernel, Name: "a"},
	} {
		if _, err := v.Writer(src); err == nil {
			t.Errorf("Writer(%+v): no error", src)
		}
	}
}

func TestLongLinesAndJunk(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, vacuole.Options{MaxSize: 1 << 30})
	junk := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(junk); err != nil {
		t.Fatal(err)
	}
	junk = append(bytes.ReplaceAll(junk, []byte("\n"), []byte("n")), '\n')
	feed(t, v, worker(1), junk)
	long := append(bytes.Repeat([]byte("aö"), 10<<20/3), '\n')
	feed(t, v, worker(2), long)
	feed(t, v, worker(3), []byte("after\n"))

	var whole strings.Builder
	for _, l := range read(t, dir, vacuole.Query{Names: []string{"worker#2"}}) {
		piece, _ := strings.CutSuffix(l.Text, " [+]")
		if len(piece) > vacuole.MaxLine {
			t.Errorf("piece of %d bytes, want at most %d", len(piece), vacuole.MaxLine)
		}
		whole.WriteString(piece)
	}
	if whole.String()+"\n" != string(long) {
		t.Errorf("10 MB line: %d bytes came back, want %d", whole.Len()+1, len(long))
	}
	if n := len(read(t, dir, vacuole.Query{Names: []string{"worker#1"}})); n < 3<<20/vacuole.MaxLine {
		t.Errorf("junk: %d pieces", n)
	}
	file, err := os.ReadFile(filepath.Join(dir, "cell-worker.log"))
	if err != nil {
		t.Fatal(err)
	}
	bad := func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
	}
	if !utf8.Valid(file) || bytes.ContainsFunc(file, bad) {
		t.Error("the file is not text")
	}
}

func TestRotationKeepsEveryLineOnce(t *testing.T) {
	dir := t.TempDir()
	const size, sources, each = 64 << 10, 4, 5000
	v := open(t, dir, vacuole.Options{MaxSize: size, Backups: 40})
	var wg sync.WaitGroup
	for s := 1; s <= sources; s++ {
		wg.Go(func() {
			var text bytes.Buffer
			for i := range each {
				fmt.Fprintf(&text, "%d %s\n", i, strings.Repeat("x", i%97))
			}
			feed(t, v, worker(s), text.Bytes())
		})
	}
	wg.Wait()
	next := map[int]int{}
	for _, l := range read(t, dir, vacuole.Query{}) {
		var i int
		if _, err := fmt.Sscanf(l.Text, "%d ", &i); err != nil || i != next[l.Source.Replica] {
			t.Fatalf("replica %d: line %q, want %d", l.Source.Replica, l.Text, next[l.Source.Replica])
		}
		next[l.Source.Replica]++
	}
	for s := 1; s <= sources; s++ {
		if next[s] != each {
			t.Errorf("replica %d: %d lines, want %d", s, next[s], each)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 10 || int64(len(files)) != v.Stats().Rotations+1 {
		t.Errorf("%d files, %d rotations, %v", len(files), v.Stats().Rotations, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > size {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
}

func TestBackupsAreBounded(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, vacuole.Options{MaxSize: 64 << 10, Backups: 2})
	feed(t, v, worker(1), bytes.Repeat([]byte(strings.Repeat("x", 99)+"\n"), 10_000))
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 {
		t.Errorf("files: %v, %v, want 3", files, err)
	}
}

// TestFloodIsSlowedAndBystandersAreNot attaches a source that never stops. Its
// writer waits, its memory here stays bounded, and others get through.
func TestFloodIsSlowedAndBystandersAreNot(t *testing.T) {
	dir := t.TempDir()
	slowed := make(chan vacuole.Source, 1)
	v := open(t, dir, vacuole.Options{Rate: 1 << 20, Slowed: func(s vacuole.Source) { slowed <- s }})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done, err := v.Attach(r, worker(1))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	flood := make(chan int64)
	go func() {
		line := bytes.Repeat([]byte("\n"), 64<<10) // the worst case: empty lines
		var total int64
		for {
			n, err := w.Write(line)
			total += int64(n)
			if err != nil {
				flood <- total
				return
			}
		}
	}()
	if src := <-slowed; src.String() != "worker#1" {
		t.Errorf("slowed %v, want worker#1", src)
	}
	feed(t, v, worker(2), []byte("me too\n"))
	if got := v.Last(worker(2), 5); len(got) != 1 || got[0] != "me too" {
		t.Errorf("bystander: %q", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	total := <-flood
	closeAll(t, v)
	<-done
	if got := v.Stats().Lines; got != total+1 {
		t.Errorf("%d lines stored, want %d", got, total+1)
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := open(t, t.TempDir(), vacuole.Options{Rate: 1 << 20})
		r, w := io.Pipe()
		done, err := v.Attach(r, worker(1))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		line := append(bytes.Repeat([]byte("x"), 1<<10-1), '\n')
		for range 10 << 10 {
			if _, err := w.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
		if took := time.Since(start); took < 8*time.Second || took > 10*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %v, want 9 s: one second's worth is free", took)
		}
	})
}

func TestLast(t *testing.T) {
	v := open(t, t.TempDir(), vacuole.Options{})
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	text.WriteString("panic: at last")
	feed(t, v, worker(1), []byte(text.String()))
	got := v.Last(worker(1), 3)
	want := []string{"line 19998", "line 19999", "panic: at last"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("Last = %q, want %q", got, want)
	}
	if got := v.Last(worker(1), 1<<20); len(got) < 100 || !strings.HasPrefix(got[0], "line ") {
		t.Errorf("Last(all): %d lines, first %q", len(got), got[0])
	}
	out, errs := worker(3), worker(3)
	out.Stream, errs.Stream = "stdout", "stderr"
	feed(t, v, errs, []byte("why\n"))
	feed(t, v, out, []byte("one\ntwo\nthree\nfour\n"))
	if got := v.Last(worker(3), 4); strings.Join(got, "|") != "two|three|four|why" {
		t.Errorf("Last of two streams = %q", got)
	}
	feed(t, v, out, []byte("of the next run\n"))
	if got := v.Last(out, 9); strings.Join(got, "|") != "of the next run|why" {
		t.Errorf("Last of the next run = %q", got)
	}
	if got := v.Last(worker(9), 3); got != nil {
		t.Errorf("Last of a stranger = %q", got)
	}
}

func TestCloseEndsOpenPipes(t *testing.T) {
	v, err := vacuole.Open(t.TempDir(), vacuole.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	done, err := v.Attach(r, worker(1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := v.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close = %v, want canceled", err)
	}
	<-done
	if _, err := v.Attach(r, worker(1)); err == nil {
		t.Error("Attach after Close: no error")
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\x00\xff\u2028"), uint16(3))
	f.Add(bytes.Repeat([]byte("ö"), 40<<10), uint16(1000))
	f.Fuzz(func(t *testing.T, text []byte, step uint16) {
		dir := t.TempDir()
		v := open(t, dir, vacuole.Options{MaxSize: 64 << 10, Backups: 100})
		r, w := io.Pipe()
		done, err := v.Attach(r, worker(1))
		if err != nil {
			t.Fatal(err)
		}
		for rest := text; len(rest) > 0; {
			n := min(len(rest), int(step)+1+len(text)/100)
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
		want := bytes.Count(text, []byte("\n"))
		if len(text) > 0 && text[len(text)-1] != '\n' {
			want++
		}
		got := 0
		for _, l := range read(t, dir, vacuole.Query{}) {
			if !strings.HasSuffix(l.Text, " [+]") {
				got++
			}
			if !utf8.ValidString(l.Text) || strings.ContainsFunc(l.Text, func(r rune) bool { return r != '\t' && !unicode.IsGraphic(r) }) {
				t.Errorf("not text: %q", l.Text)
			}
		}
		if got > want || got < want && !bytes.Contains(text, []byte(" [+]")) {
			t.Errorf("%d lines, want %d", got, want)
		}
	})
}

func BenchmarkAttach(b *testing.B) {
	v := open(b, b.TempDir(), vacuole.Options{})
	line := append(bytes.Repeat([]byte("x"), 99), '\n')
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	done, err := v.Attach(r, worker(1))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Write(line); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	<-done
}
