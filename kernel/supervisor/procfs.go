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

	"github.com/cellkernel/cellkernel/internal/procstat"
)

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 1 << 20

// maxWatched bounds the descriptors that one scan of /proc holds.
const maxWatched = 256

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
	st, err := procstat.Read(pid)
	if err != nil {
		return Reading{}
	}
	return Reading{CPU: st.All, RSS: readRSS(pid), Source: "procfs"}
}
