package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of times in /proc: USER_HZ is 100 on every
// architecture Go runs on.
const clockTick = 10 * time.Millisecond

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 1 << 20

// maxWatched bounds the descriptors that one scan of /proc holds.
const maxWatched = 256

// A procStat is what the supervisor needs of /proc/PID/stat.
type procStat struct {
	state     byte          // 'R', 'S', 'Z'…
	cpu       time.Duration // user and system time, waited-for children included
	startTime uint64        // field 22, clock ticks since boot
}

// readStat reads /proc/PID/stat.
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(string(data))
}

// parseStat parses a line of /proc/PID/stat. The command's name is in
// parentheses and may itself hold spaces and parentheses.
func parseStat(line string) (procStat, error) {
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("parse stat %.80q: no command", line)
	}
	f := strings.Fields(line[end+1:]) // f[0] is field 3, the state
	if len(f) < 20 || len(f[0]) != 1 {
		return procStat{}, fmt.Errorf("parse stat %.80q: %d fields", line, len(f)+2)
	}
	st := procStat{state: f[0][0]}
	var ticks int64
	for _, s := range f[11:15] { // fields 14 to 17: utime, stime, cutime, cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("parse stat %.80q: %w", line, err)
		}
		ticks += n
	}
	st.cpu = time.Duration(ticks) * clockTick
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("parse stat %.80q: %w", line, err)
	}
	st.startTime = start
	return st, nil
}

// readRSS returns the resident bytes of a process, 0 if it is gone.
func readRSS(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// A mark is the environment variable by which a child and all of its
// descendants are found: CELLKERNEL_RUN=<run id>.<number of the spawn>.
type mark string

// markVariable is the name of the mark's variable.
const markVariable = "CELLKERNEL_RUN="

// runMark matches every process of a run.
func runMark(runID string) mark { return mark(markVariable + runID + ".") }

// processMark matches one spawned process and its descendants.
func processMark(runID string, seq uint64) mark {
	return mark(fmt.Sprintf("%s%s.%d", markVariable, runID, seq))
}

// in reports whether environ, NUL-separated, carries m.
func (m mark) in(environ []byte) bool {
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		rest, ok := bytes.CutPrefix(entry, []byte(m))
		if ok && (len(rest) == 0 || strings.HasSuffix(string(m), ".")) {
			return true
		}
	}
	return false
}

// killMarked kills every process that carries m until there is none, or
// within has passed; that is an error. Processes of other users, whose
// environment can not be read, are never touched.
func killMarked(m mark, within time.Duration) (killed int, err error) {
	deadline := time.Now().Add(within)
	// A process that forked while /proc was read may have been missed, and
	// one that is inside execve shows no environment: only two empty scans
	// in a row are an end.
	for clean := 0; clean < 2; {
		n, doomed, err := killScan(m)
		killed += n
		if err != nil {
			return killed, err
		}
		clean++
		if n > 0 {
			clean = 0
			waitFiles(doomed, unix.POLLIN, deadline)
		}
		if clean == 0 && time.Now().After(deadline) {
			return killed, fmt.Errorf("kill %s: processes are left after %s", m, within)
		}
	}
	return killed, nil
}

// killScan kills what carries m now and returns how many that were, and
// descriptors of up to maxWatched of them, which become readable when they
// are gone. The caller closes them.
func killScan(m mark) (n int, doomed []*os.File, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, nil, fmt.Errorf("list /proc: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		f := killIfMarked(pid, m)
		if f == nil {
			continue
		}
		n++
		if len(doomed) == maxWatched {
			f.Close()
			continue
		}
		doomed = append(doomed, f)
	}
	return n, doomed, nil
}

// killIfMarked kills pid if it carries m. The descriptor is opened before
// the environment is read, so a pid that is reused meanwhile is not hit.
func killIfMarked(pid int, m mark) *os.File {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // gone, or a thread
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if m.in(readEnviron(pid)) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
		return f
	}
	f.Close()
	return nil
}

// readEnviron returns the environment of a process as it was at its exec;
// nothing for a zombie and for what may not be read.
func readEnviron(pid int) []byte {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil
	}
	return data
}

// waitFiles waits until every file has had one of events, or the deadline is
// over, and closes them all.
func waitFiles(files []*os.File, events int16, deadline time.Time) {
	for _, f := range files {
		waitFD(int(f.Fd()), events, deadline)
		f.Close()
	}
}

// waitFD blocks until fd has one of events and reports whether it did before
// the deadline.
func waitFD(fd int, events int16, deadline time.Time) bool {
	for {
		left := time.Until(deadline)
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p, max(0, int(left/time.Millisecond)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}

// Observe reads what a process that is not a cell uses, descendants it has
// waited for included. It is the zero Reading if there is no such process.
func Observe(pid int) Reading {
	st, err := readStat(pid)
	if err != nil {
		return Reading{}
	}
	return Reading{CPU: st.cpu, RSS: readRSS(pid), Source: "procfs"}
}
