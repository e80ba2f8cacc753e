package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A Live is a process, by its number, that runs a program of the lab. Zombies
// are not listed: they are gone, and only not yet waited for.
type Live struct {
	PID  int
	Path string
}

// Processes lists what runs out of the lab's directory, however it was
// started and whatever became of its parents. The command's own child
// processes run the same file and are listed, too.
func (l *Lab) Processes() ([]Live, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []Live
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		path, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err == nil && strings.HasPrefix(path, l.Dir+"/") && state(pid) != 'Z' {
			list = append(list, Live{pid, path})
		}
	}
	return list, nil
}

// signal sends a signal through a descriptor of the process, so that it can
// not reach another one that got the number meanwhile.
func (p Live) signal(sig syscall.Signal) error {
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	defer h.Release()
	if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID)); err != nil || path != p.Path {
		return fmt.Errorf("signal process %d: it is another one now", p.PID)
	}
	return h.Signal(sig)
}

func (p Live) kill() { _ = p.signal(syscall.SIGKILL) } // if it is gone, good

// stat returns the fields of /proc/PID/stat from the third, the state, on.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	text := string(b)
	return strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
}

func state(pid int) byte {
	if f := stat(pid); len(f) > 0 {
		return f[0][0]
	}
	return 'Z'
}

// CPU returns the CPU time that a process has used, in ticks of 10 ms.
func CPU(pid int) (ticks int64, err error) {
	f := stat(pid)
	if len(f) < 13 {
		return 0, fmt.Errorf("read cpu of process %d: it is gone", pid)
	}
	for _, s := range f[11:13] { // utime, stime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read cpu of process %d: %w", pid, err)
		}
		ticks += n
	}
	return ticks, nil
}

// Descriptors returns how many a process has open.
func Descriptors(pid int) (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("count descriptors: %w", err)
	}
	return len(list), nil
}

// RSS returns the bytes of a process that are in memory.
func RSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0, fmt.Errorf("read memory of process %d: %q", pid, b)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// A Memory is what of a process is in memory, in bytes.
type Memory struct {
	All  int64
	Anon int64 // of its own
	File int64 // of files, such as its program: shared with all who use them
}

// MemoryOf reads the memory of a process by kind.
func MemoryOf(pid int) (m Memory, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		field := map[string]*int64{"VmRSS:": &m.All, "RssAnon:": &m.Anon, "RssFile:": &m.File}[f[0]]
		if field == nil {
			continue
		}
		if len(f) != 3 || f[2] != "kB" {
			return m, fmt.Errorf("read memory of process %d: %q", pid, line)
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("read memory of process %d: %w", pid, err)
		}
		*field = n << 10
	}
	return m, nil
}
