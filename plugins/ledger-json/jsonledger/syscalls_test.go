package jsonledger_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk"
)

// What a process finds that plays the script.
const (
	scripted   = "TEST_SCRIPT"      // the directory
	scriptSeed = "TEST_SCRIPT_SEED" // says which records
	scriptLen  = 25                 // appends
	closed     = 3                  // exit code: the book takes nothing any more
	follows    = 50                 // operations behind each crash
)

// What strace counts is counted for each thread, so the script stays on one.
func init() {
	if os.Getenv(scripted) != "" {
		runtime.LockOSThread()
	}
}

// script writes a line when it begins and one for each append that was
// acknowledged, each as soon as it knows.
func script(dir string) int {
	seed, err := strconv.ParseUint(os.Getenv(scriptSeed), 10, 64)
	if err != nil {
		return 2
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 2
	}
	os.Stdout.WriteString("begin\n")
	l := jsonledger.NewOn(small(), jsonledger.FilesOf(root))
	head, err := l.Open(context.Background())
	if err != nil {
		return closed
	}
	w := &writer{r: rand.New(rand.NewPCG(seed, 3))}
	for w.acked < int(head.Seq) {
		w.submit()
		w.acked = len(w.submitted)
	}
	for range scriptLen {
		w.submit()
		next, err := l.Append(context.Background(), head, w.submitted[w.acked:])
		for tries := 0; err != nil && tries < 3; tries++ {
			var poison *jsonledger.PoisonError
			if errors.As(err, &poison) || sdk.CodeOf(err) != sdk.CodeUnavailable {
				return closed
			}
			next, err = l.Append(context.Background(), head, w.submitted[w.acked:])
		}
		if err != nil {
			return closed
		}
		head, w.acked = next, len(w.submitted)
		os.Stdout.WriteString("stored\n")
	}
	if err := l.Close(); err != nil {
		return closed
	}
	return 0
}

// traced are the calls of an append, a checkpoint, a new segment and a start.
const traced = "openat,write,pwrite64,fsync,fdatasync,renameat,renameat2,unlinkat,ftruncate,close,flock,getdents64,pread64,fstat"

// A laboratory runs one script again and again.
type laboratory struct {
	seed    uint64
	start   shelf // the directory before the script
	batches int   // in it
}

// newLaboratory begins with nothing if seed is even, else with a book whose
// last append was torn and whose checkpoint was being written.
func newLaboratory(t *testing.T, seed uint64) *laboratory {
	t.Helper()
	lab := &laboratory{seed: seed, start: shelf{}}
	if seed%2 == 0 {
		return lab
	}
	l, w := jsonledger.NewOn(small(), lab.start), &writer{r: rand.New(rand.NewPCG(seed, 3))}
	if _, err := l.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		before := lab.start.clone()
		if err := w.append(t, l); err != nil {
			t.Fatal(err)
		}
		lab.batches++
		last := lab.start.lastSegment()
		grown := len(lab.start[last]) - len(before[last])
		if lab.batches > 5 && len(before) == len(lab.start) && bytes.Equal(before["mitochondria.json"], lab.start["mitochondria.json"]) {
			before[last] = lab.start[last][:len(before[last])+grown/2]
			before["mitochondria.json.tmp"] = []byte("{")
			lab.start, lab.batches = before, lab.batches-1
			return lab
		}
	}
}

func (s shelf) clone() shelf {
	c := shelf{}
	for name, b := range s {
		c[name] = slices.Clone(b)
	}
	return c
}

func (s shelf) lastSegment() string {
	last := ""
	for name := range s {
		if strings.HasSuffix(name, ".jsonl") {
			last = max(last, name)
		}
	}
	return last
}

// play runs the script under strace and returns what it said and how it ended.
func (lab *laboratory) play(t *testing.T, dir string, strace ...string) (said string, end error) {
	t.Helper()
	for name, b := range lab.start {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "strace", append(append([]string{"-f", "-qq"}, strace...), self)...)
	c.Env = append(os.Environ(), scripted+"="+dir, scriptSeed+"="+strconv.FormatUint(lab.seed, 10))
	var out, notes bytes.Buffer
	c.Stdout, c.Stderr = &out, &notes
	end = c.Run()
	if notes.Len() > 0 {
		t.Fatalf("strace %q: %s", strace, notes.String())
	}
	return out.String(), end
}

// A point is the nth time that the script's thread makes a call.
type point struct {
	call string
	n    int
}

var tracedCall = regexp.MustCompile(`^(\d+) +(\w+)\(`)

// points lists the calls from the script's first line on.
func (lab *laboratory) points(t *testing.T) []point {
	t.Helper()
	log := filepath.Join(t.TempDir(), "strace")
	if said, err := lab.play(t, quick(t), "-e", "trace="+traced, "-o", log); err != nil {
		t.Fatalf("the script alone: %v: %s", err, said)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, `"begin\n"`) })
	if at < 0 {
		t.Fatalf("the script did not begin:\n%s", b)
	}
	thread, count, begun := tracedCall.FindStringSubmatch(lines[at])[1], map[string]int{}, false
	var list []point
	for i, l := range lines {
		m := tracedCall.FindStringSubmatch(l)
		if m == nil || m[1] != thread {
			continue
		}
		count[m[2]]++
		if begun = begun || i == at; begun && i != at {
			list = append(list, point{m[2], count[m[2]]})
		}
	}
	return list
}

// judge checks the book that the script left.
func (lab *laboratory) judge(t *testing.T, dir, said string) error {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &writer{r: rand.New(rand.NewPCG(lab.seed, 3))}
	for range lab.batches + strings.Count(said, "stored\n") {
		w.submit()
		w.acked = len(w.submitted)
	}
	w.submit()
	d := jsonledger.FilesOf(root)
	l, err := w.settle(t, d)
	if err != nil {
		return err
	}
	for i := range follows {
		if err := w.append(t, l); err != nil {
			return fmt.Errorf("operation %d behind it: %w", i+1, err)
		}
	}
	return errors.Join(w.check(t, l, d), l.Close())
}

// every returns about want of the points, none of them if that is 0.
func every(list []point, want int) []point {
	step := max(1, cmp.Or(len(list)/max(want, 1), 1))
	var some []point
	for i := 0; i < len(list) && len(some) < want; i += step {
		some = append(some, list[i])
	}
	return some
}

// quick is a directory in memory where there is one: a process that is killed
// leaves what it wrote, synced or not, so a disk would only take time.
func quick(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "jsonledger")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("no strace: can not stop a process within a system call")
	}
}

// What a failing call says is said once; a short write is the disk's own.
var failures = []string{"error=EIO", "error=ENOSPC", "error=EINTR"}

// A process is killed at any system call that it makes for its book. What was
// acknowledged is there, what is there was submitted, and it goes on.
// KILL_POINTS says at how many calls.
func TestKilledAtEveryCall(t *testing.T) {
	needStrace(t)
	want, done, calls := many(t, "KILL_POINTS", 40), 0, map[string]int{}
	for seed := uint64(0); done < want; seed++ {
		lab := newLaboratory(t, seed)
		for _, p := range every(lab.points(t), min(want-done, max(want/2, 4))) {
			dir := quick(t)
			said, end := lab.play(t, dir, "-e", "trace="+p.call, "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", p.call, p.n))
			var exit *exec.ExitError
			if !errors.As(end, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || !strings.HasPrefix(said, "begin\n") {
				t.Fatalf("seed %d, %s %d: not killed within the script: %v: %q", seed, p.call, p.n, end, said)
			}
			if err := lab.judge(t, dir, said); err != nil {
				t.Fatalf("seed %d, killed at %s %d: %v", seed, p.call, p.n, err)
			}
			done++
			calls[p.call]++
		}
	}
	t.Logf("%d kill points: %v", done, calls)
}

// One system call fails, each in turn. The script goes on if it can; what was
// acknowledged before and behind the failure is there. FAIL_POINTS says how many.
func TestAnyCallFails(t *testing.T) {
	needStrace(t)
	want, done, ended := many(t, "FAIL_POINTS", 40), 0, map[string]int{}
	for seed := uint64(0); done < want; seed++ {
		lab := newLaboratory(t, seed)
		for i, p := range every(lab.points(t), min(want-done, max(want/2, 4))) {
			failure := failures[i%len(failures)]
			dir := quick(t)
			said, end := lab.play(t, dir, "-e", "trace="+p.call, "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:%s:when=%d", p.call, failure, p.n))
			var exit *exec.ExitError
			if end != nil && (!errors.As(end, &exit) || exit.ExitCode() != closed) {
				t.Fatalf("seed %d, %s at %s %d: %v: %q", seed, failure, p.call, p.n, end, said)
			}
			if err := lab.judge(t, dir, said); err != nil {
				t.Fatalf("seed %d, %s at %s %d: %v", seed, failure, p.call, p.n, err)
			}
			done++
			ended[fmt.Sprintf("%s: %v", failure, end == nil)]++
		}
	}
	t.Logf("%d failures: %v", done, ended)
}
