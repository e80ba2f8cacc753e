package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/sdk"
)

// A cgroup is the absolute path of a cgroup2 directory. The empty cgroup
// means none.
type cgroup string

// cgroupPrefix begins the name of a run's directory; the run id follows.
const cgroupPrefix = "cellkernel-"

// ownCgroup finds the cgroup2 directory this process is in, wherever the
// hierarchy is mounted.
func ownCgroup() (cgroup, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return locateCgroup(string(mounts), string(self))
}

// locateCgroup joins proc_pid_mountinfo(5) and cgroups(7): the mount whose
// root holds our path tells where that path is visible.
func locateCgroup(mountinfo, self string) (cgroup, error) {
	path, found := "", false
	for line := range strings.Lines(self) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			path, found = strings.TrimSuffix(rest, "\n"), true
		}
	}
	if !found || strings.HasPrefix(path, "/..") {
		return "", errors.New("this process is in no cgroup2 that is visible here")
	}
	mounted := false
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before) // id, parent, device, root, mount point, …
		if len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		mounted = true
		root, point := unescapeMount(f[3]), unescapeMount(f[4])
		rel, err := filepath.Rel(root, path)
		if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return cgroup(filepath.Join(point, rel)), nil
		}
	}
	if !mounted {
		return "", errors.New("no cgroup2 hierarchy is mounted")
	}
	return "", fmt.Errorf("no cgroup2 mount shows %q", path)
}

// unescapeMount undoes the octal escapes of mountinfo: space, tab, newline
// and backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// makeCgroup makes g a new directory and checks that it can be used to kill.
func makeCgroup(g cgroup) error {
	if err := os.Mkdir(string(g), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"cgroup.kill", "cgroup.procs"} {
		if err := unix.Access(g.file(name), unix.W_OK); err != nil {
			os.Remove(string(g))
			return fmt.Errorf("%s: %w", g.file(name), err)
		}
	}
	return nil
}

// file returns the path of one of g's files.
func (g cgroup) file(name string) string { return filepath.Join(string(g), name) }

// kill sends SIGKILL to every process in g and below, those being forked
// included, and waits until they are gone or the deadline is over.
func (g cgroup) kill(deadline time.Time) error {
	if err := os.WriteFile(g.file("cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	return g.waitEmpty(deadline)
}

// waitEmpty waits until no process is in g or below. The kernel announces
// changes of cgroup.events as exceptional conditions.
func (g cgroup) waitEmpty(deadline time.Time) error {
	f, err := os.Open(g.file("cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256)
	for {
		n, err := f.ReadAt(buf, 0)
		if err != nil && err != io.EOF {
			return err
		}
		if !strings.Contains(string(buf[:n]), "populated 1") {
			return nil
		}
		if !waitFD(int(f.Fd()), unix.POLLPRI, deadline) {
			return fmt.Errorf("%s: processes are left", g)
		}
	}
}

// populated reports whether a process is in g or below.
func (g cgroup) populated() bool {
	data, err := os.ReadFile(g.file("cgroup.events"))
	return err == nil && strings.Contains(string(data), "populated 1")
}

// cpu returns the CPU time of everything that ever ran in g. cpu.stat exists
// whether the cpu controller is enabled or not.
func (g cgroup) cpu() (time.Duration, error) {
	f, err := os.Open(g.file("cpu.stat"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "usage_usec "); ok {
			us, err := strconv.ParseInt(v, 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s: no usage_usec", f.Name())
}

// rss sums the resident bytes of the processes in g and below.
func (g cgroup) rss() int64 {
	var sum int64
	for _, dir := range g.tree() {
		data, err := os.ReadFile(cgroup(dir).file("cgroup.procs"))
		if err != nil {
			continue
		}
		for _, s := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(s); err == nil {
				sum += readRSS(pid)
			}
		}
	}
	return sum
}

// tree lists g and every directory below it, parents first.
func (g cgroup) tree() []string {
	var dirs []string
	// A directory that vanishes while it is walked is what is wanted anyway.
	_ = filepath.WalkDir(string(g), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// remove removes g and everything below it. There must be no process left.
func (g cgroup) remove() error {
	dirs := g.tree()
	slices.Reverse(dirs)
	var first error
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && first == nil {
			first = fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	return first
}

// limit writes l into g's controllers. A limit that nothing here can enforce
// is an error.
func (g cgroup) limit(l sdk.Limits) error {
	set := func(file, value string) error {
		if err := os.WriteFile(g.file(file), []byte(value), 0); err != nil {
			return fmt.Errorf("limit: %w", err)
		}
		return nil
	}
	var errs []error
	if l.CPUs > 0 {
		errs = append(errs, set("cpu.max", fmt.Sprintf("%d 100000", int64(l.CPUs*100_000))))
	}
	if l.Memory > 0 {
		errs = append(errs, set("memory.max", strconv.FormatInt(l.Memory, 10)))
	}
	if l.Pids > 0 {
		errs = append(errs, set("pids.max", strconv.FormatInt(l.Pids, 10)))
	}
	return errors.Join(errs...)
}

// delegate enables what controllers it can for the directories below g.
func (g cgroup) delegate() {
	for _, c := range []string{"+cpu", "+memory", "+pids"} {
		// What is not available here is missed when a limit asks for it.
		_ = os.WriteFile(g.file("cgroup.subtree_control"), []byte(c), 0)
	}
}
