package cgroupbilling

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/cellkernel/cellkernel/sdk"
)

// runPrefix begins the name of the directory in which the kernel of this node
// keeps those of all its processes, ours among them.
const runPrefix = "cellkernel-"

// A hierarchy says which cgroups are meant: those of version 2, or those of
// version 1 with a controller.
type hierarchy struct{ controller string }

// of reports whether a mount shows the hierarchy.
func (h hierarchy) of(m *procfs.MountInfo) bool {
	if h.controller == "" {
		return m.FSType == "cgroup2"
	}
	_, has := m.SuperOptions[h.controller]
	return m.FSType == "cgroup" && has
}

// own finds the directory this process is in, wherever the hierarchy is
// mounted: the mount whose root holds our path tells where it is visible.
func (h hierarchy) own(proc procfs.FS) (string, error) {
	self, err := proc.Self()
	if err != nil {
		return "", err
	}
	groups, err := self.Cgroups()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(groups, func(g procfs.Cgroup) bool {
		if h.controller == "" {
			return g.HierarchyID == 0
		}
		return slices.Contains(g.Controllers, h.controller)
	})
	if i < 0 || strings.HasPrefix(groups[i].Path, "/..") {
		return "", errors.New("this process is in none that is visible here")
	}
	mounts, err := proc.GetMounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		rel, err := filepath.Rel(m.Root, groups[i].Path)
		if h.of(m) && err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return filepath.Join(m.MountPoint, rel), nil
		}
	}
	return "", fmt.Errorf("no mount shows %q", groups[i].Path)
}

// unified places processes in cgroups of version 2.
type unified struct{ dir string }

// newUnified finds where directories of workloads are made: beside our own, if
// the kernel of this node has made that, else below it.
func newUnified(proc procfs.FS) (rung, error) {
	dir, err := hierarchy{}.own(proc)
	if err != nil {
		return nil, err
	}
	if up := filepath.Dir(dir); strings.HasPrefix(filepath.Base(up), runPrefix) {
		dir = up
	}
	return unified{dir}, try(dir)
}

// try reports whether directories can be made in dir, and processes put there.
func try(dir string) error {
	trial := filepath.Join(dir, runPrefix+"trial-"+strconv.Itoa(os.Getpid()))
	if err := makeDir(trial); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(trial, "cgroup.procs"), os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	return errors.Join(err, syscall.Rmdir(trial))
}

func (u unified) place(w sdk.Workload) (sdk.Placement, error) {
	g := group{filepath.Join(u.dir, nameOf(w.ID)), sourceCgroup2}
	if err := makeDir(g.dir); err != nil {
		return sdk.Placement{}, err
	}
	return sdk.Placement{Cgroup: g.dir, Source: sourceCgroup2, Note: g.limit(w.Limits)}, nil
}

// limit writes what limits it can, and says which it can not.
func (g group) limit(l sdk.Limits) string {
	var missing []string
	set := func(name, file, value string) {
		if os.WriteFile(g.file(file), []byte(value), 0) != nil {
			missing = append(missing, name)
		}
	}
	if l.CPUs > 0 {
		const period = 100_000 // µs
		set("cpus", "cpu.max", fmt.Sprintf("%d %d", max(1000, int64(l.CPUs*period)), period))
	}
	if l.Memory > 0 {
		set("memory", "memory.max", strconv.FormatInt(l.Memory, 10))
	}
	if l.Pids > 0 {
		set("pids", "pids.max", strconv.FormatInt(l.Pids, 10))
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("limits of %s have no effect: their controllers are not delegated to %s", strings.Join(missing, ", "), filepath.Dir(g.dir))
}

// cpuacct places processes in cgroups of version 1.
type cpuacct struct{ dir string }

// newCpuacct makes a directory for those of workloads below our own. What the
// plugin of a kernel that was killed has left behind is removed, if it is empty.
func newCpuacct(proc procfs.FS) (rung, error) {
	own, err := hierarchy{sourceCpuacct}.own(proc)
	if err != nil {
		return nil, err
	}
	if err := try(own); err != nil {
		return nil, err
	}
	c := cpuacct{own}
	return c, c.tidy()
}

// forgotten is how old a directory is that nobody will use any more.
const forgotten = 10 * time.Minute

// tidy removes old directories in which nothing runs.
func (c cpuacct) tidy() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), runPrefix) && time.Since(info.ModTime()) > forgotten {
			_ = syscall.Rmdir(filepath.Join(c.dir, e.Name())) // refused while something runs in it
		}
	}
	return nil
}

func (c cpuacct) place(w sdk.Workload) (sdk.Placement, error) {
	dir := filepath.Join(c.dir, runPrefix+runID()+"-"+nameOf(w.ID))
	if err := makeDir(dir); err != nil {
		return sdk.Placement{}, err
	}
	p := sdk.Placement{Cgroup: dir, Source: sourceCpuacct}
	if w.Limits != (sdk.Limits{}) {
		p.Note = "limits have no effect without cgroup2"
	}
	return p, nil
}

// runID is the part of CELLKERNEL_RUN that names this run of the kernel, our
// parent's number where nobody has set it.
func runID() string {
	id, _, _ := strings.Cut(os.Getenv("CELLKERNEL_RUN"), ".")
	if id == "" || len(id) > 64 || strings.ContainsAny(id, "/\x00") {
		return strconv.Itoa(os.Getppid())
	}
	return id
}
