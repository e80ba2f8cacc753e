package gauge

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/sdk"
)

// sound reports whether a process may be born where a billing says: whoever is
// in the same cgroup is killed with it.
func (g *Gauge) sound(p sdk.Placement) error {
	if p.Cgroup == "" {
		return nil
	}
	if p.Source == "cpuacct" {
		var st unix.Statfs_t
		if err := unix.Statfs(p.Cgroup, &st); err != nil {
			return fmt.Errorf("cgroup %q: %w", p.Cgroup, err)
		}
		if st.Type != unix.CGROUP_SUPER_MAGIC {
			return fmt.Errorf("cgroup %q: not one of version 1", p.Cgroup)
		}
	} else if g.opt.Below == "" || filepath.Dir(p.Cgroup) != filepath.Clean(g.opt.Below) {
		return fmt.Errorf("cgroup %q: want one in %q", p.Cgroup, g.opt.Below)
	}
	return vacant(p.Cgroup)
}

// vacant reports whether a cgroup is new: no process in it and nothing below.
func vacant(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	if len(text) > 0 {
		return fmt.Errorf("cgroup %q: a process is in it", dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			return fmt.Errorf("cgroup %q: it holds another", dir)
		}
	}
	return err
}

// removeCgroup removes what a billing that is gone has left, those first that
// a cell has made below. What is not empty is removed with the run's own.
func removeCgroup(p sdk.Placement) {
	if p.Cgroup == "" || !strings.HasPrefix(p.Cgroup, "/") {
		return
	}
	var dirs []string
	_ = filepath.WalkDir(p.Cgroup, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := range dirs {
		_ = unix.Rmdir(dirs[len(dirs)-1-i])
	}
}
