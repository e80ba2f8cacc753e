package cgroupbilling

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// A group is the directory of one workload.
type group struct {
	dir    string
	source string
}

// groupAt returns where a workload was placed. Who placed it, this plugin or
// the kernel in its absence, does not matter.
func groupAt(p sdk.Placement) group {
	g := group{p.Cgroup, sourceCgroup2}
	if p.Source == sourceCpuacct {
		g.source = sourceCpuacct
	}
	return g
}

func (g group) file(name string) string { return filepath.Join(g.dir, name) }

// cpu returns what everything that ever ran in g has used.
func (g group) cpu() (time.Duration, error) {
	if g.source == sourceCpuacct {
		text, err := os.ReadFile(g.file("cpuacct.usage"))
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return time.Duration(ns), err
	}
	text, err := os.ReadFile(g.file("cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s: no usage_usec", g.file("cpu.stat"))
}

// stall returns for how long some of what runs in g wanted a CPU and had none,
// since g was made: "some" of its cpu.pressure (see PSI in the kernel's
// Documentation/accounting). It is 0 where that is not counted.
func (g group) stall() time.Duration {
	if g.source != sourceCgroup2 {
		return 0
	}
	text, err := os.ReadFile(g.file("cpu.pressure"))
	if err != nil {
		return 0 // PSI is off, or not built in
	}
	some, _, _ := strings.Cut(string(text), "\n")
	_, total, ok := strings.Cut(some, " total=")
	us, err := strconv.ParseInt(strings.TrimSpace(total), 10, 64)
	if !ok || err != nil {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// pids lists processes in g, not more than limit, without those in
// directories that a cell has made itself.
func (g group) pids(limit int) []int {
	text, err := os.ReadFile(g.file("cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for s := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(s); err == nil && len(pids) < limit {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removePause is the time between two looks whether a directory can be
// removed: those of ended processes are busy for a moment longer.
const removePause = 2 * time.Millisecond

// remove removes g and what cells have made below it. Not being there is no error.
func (g group) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		err := removeTree(g.dir)
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		t := time.NewTimer(removePause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

func removeTree(dir string) error {
	err := syscall.Rmdir(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if rerr != nil {
		return err
	}
	below := 0
	for _, e := range entries {
		if e.IsDir() {
			below++
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if below == 0 {
		return fmt.Errorf("remove %q: %w", dir, err)
	}
	return syscall.Rmdir(dir)
}

// nameOf makes an id fit for a directory's name: "cell/worker#2@7" becomes
// "cell-worker-2-7". It has no dot: those that the kernel makes have one.
func nameOf(id sdk.WorkloadID) string {
	safe := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}
	return strings.Map(safe, string(id[:min(len(id), 200)]))
}

// makeDir makes the directory of a workload. One that is there already is the
// answer to the same question, asked again, as long as nothing runs in it.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	text, rerr := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if rerr != nil {
		return rerr
	}
	if len(text) > 0 {
		return fmt.Errorf("%w, and a process is in it", err)
	}
	return nil
}
