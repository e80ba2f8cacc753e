package vacuole_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cellkernel/cellkernel/kernel/vacuole"
)

// smallDisk mounts a file system of 256 KiB, half of it taken by ballast.
func smallDisk(t *testing.T) (dir, ballast string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	ballast = filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, ballast
}

// TestDiskFull fills a real file system, makes room again, and counts: every
// line is stored or part of a noted loss.
func TestDiskFull(t *testing.T) {
	dir, ballast := smallDisk(t)
	synctest.Test(t, func(t *testing.T) {
		troubles := make(chan vacuole.Trouble, 10)
		v := open(t, dir, vacuole.Options{Trouble: func(tr vacuole.Trouble) { troubles <- tr }})
		w, err := v.Writer(worker(1))
		if err != nil {
			t.Fatal(err)
		}
		const total = 5000
		for i := 0; i < total; i += 50 { // 70 KiB/s into 128 KiB
			if i == 4000 {
				if err := os.Remove(ballast); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.Write(numbered(i, i+50)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if tr := <-troubles; tr.Err == nil || tr.File != "cell-worker.log" {
			t.Errorf("first trouble %+v, want one with an error", tr)
		}
		end := <-troubles
		if end.Err != nil || end.Lines == 0 {
			t.Errorf("second trouble %+v, want the end and a count", end)
		}
		if len(troubles) > 0 {
			t.Errorf("a third: %+v", <-troubles)
		}
		stored, noted, last := int64(0), int64(0), -1
		for _, l := range read(t, dir, vacuole.Query{}) {
			if l.Source.Replica == 0 {
				var size int64
				if _, err := fmt.Sscanf(l.Text, "%d lines (%d bytes) lost: no space left", &noted, &size); err != nil {
					t.Errorf("note %q: %v", l.Text, err)
				}
				last += int(noted)
				continue
			}
			stored++
			if last++; number(t, l) != last {
				t.Fatalf("line %d, want %d", number(t, l), last)
			}
		}
		if noted != end.Lines || noted != v.Stats().LostLines || stored+noted != total {
			t.Errorf("%d stored, %d noted, %d told, %d counted, want %d in all", stored, noted, end.Lines, v.Stats().LostLines, total)
		}
	})
}

// TestRotationThatFails puts a directory into the way of the only backup.
// Nothing is lost, and rotation works again when the way is free.
func TestRotationThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		block := filepath.Join(dir, "cell-worker.log.1", "x")
		if err := os.MkdirAll(block, 0o700); err != nil {
			t.Fatal(err)
		}
		troubles := make(chan vacuole.Trouble, 10)
		v := open(t, dir, vacuole.Options{MaxSize: 64 << 10, Backups: 1, Trouble: func(tr vacuole.Trouble) { troubles <- tr }})
		w, err := v.Writer(worker(1))
		if err != nil {
			t.Fatal(err)
		}
		write := func(from, to int) {
			if _, err := w.Write(numbered(from, to)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		write(0, 1000)
		write(1000, 2000)
		if tr := <-troubles; tr.Err == nil || !strings.Contains(tr.Err.Error(), "rotate") {
			t.Errorf("trouble %+v", tr)
		}
		for i, l := range read(t, dir, vacuole.Query{}) {
			if number(t, l) != i {
				t.Fatalf("line %d is %d", i, number(t, l))
			}
		}
		if err := os.RemoveAll(filepath.Dir(block)); err != nil {
			t.Fatal(err)
		}
		write(2000, 2010)
		if tr := <-troubles; tr.Err != nil {
			t.Errorf("trouble %+v, want its end", tr)
		}
		if n := v.Stats().Rotations; n != 1 {
			t.Errorf("%d rotations, want 1", n)
		}
		if n := len(read(t, dir, vacuole.Query{})); n != 2010 {
			t.Errorf("%d lines, want 2010", n)
		}
	})
}

func TestRemovedFileComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		v := open(t, dir, vacuole.Options{})
		feed(t, v, worker(1), []byte("one\n"))
		if err := os.Remove(filepath.Join(dir, "cell-worker.log")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		feed(t, v, worker(1), []byte("two\n"))
		if got := texts(read(t, dir, vacuole.Query{})); len(got) != 1 || got[0] != "two" {
			t.Errorf("lines %q", got)
		}
	})
}

// TestTornFile finds what a crash left behind: half a line.
func TestTornFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "cell-worker.log")
	if err := os.WriteFile(file, []byte("2026-11-22T20:36:01.123Z worker#1 ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := open(t, dir, vacuole.Options{})
	feed(t, v, worker(1), []byte("whole\n"))
	if got := texts(read(t, dir, vacuole.Query{})); len(got) != 2 || got[0] != "ha" || got[1] != "whole" {
		t.Errorf("lines %q", got)
	}
	if s := v.Stats(); s.Lines != 1 {
		t.Errorf("%d lines counted, want 1", s.Lines)
	}
	text, err := os.ReadFile(file)
	if err != nil || bytes.Count(text, []byte("\n")) != 2 {
		t.Errorf("file %q, %v", text, err)
	}
}

// TestLinkOutOfTheDirectory plants a link where a log belongs.
func TestLinkOutOfTheDirectory(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "target")
	if err := os.Symlink(outside, filepath.Join(dir, "cell-worker.log")); err != nil {
		t.Fatal(err)
	}
	v := open(t, dir, vacuole.Options{})
	feed(t, v, worker(1), []byte("secret\n"))
	if _, err := os.Stat(outside); err == nil {
		t.Error("the log was written outside of its directory")
	}
	if s := v.Stats(); s.LostLines != 1 {
		t.Errorf("lost %d lines, want 1", s.LostLines)
	}
}
