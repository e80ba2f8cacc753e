package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/membership"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	wantFiles  = 4096   // descriptors: a link is one, at either end
	maxKeys    = 10_000 // files of the key directory that are looked at
	runNameLen = 16     // of a kernel's directory below the one of sockets
	socketLen  = 38     // of the longest name in it, that of a plugin
)

// oldest is before any clock that is right.
var oldest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// checkClock looks at the time, and whether something keeps it right
// (adjtimex(2)). Certificates are valid for a time.
func checkClock() finding {
	now := time.Now()
	if now.Before(oldest) {
		return finding{"clock", doctorFail, "it is " + now.Format(time.RFC3339) + " here: certificates of others are not valid yet", "timedatectl set-ntp true"}
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return finding{Check: "clock", State: doctorWarn, Detail: "whether it is synchronised can not be told: " + err.Error()}
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return finding{"clock", doctorWarn, "nothing keeps it right; it may drift away from those of other nodes", "timedatectl set-ntp true"}
	}
	return finding{Check: "clock", State: doctorOK, Detail: "synchronised"}
}

// checkCgroup makes the cgroup that a kernel would make, and removes it.
func checkCgroup() finding {
	f := finding{Check: "cgroup", State: doctorOK}
	s, err := supervisor.NewSpawner(supervisor.SpawnerOptions{})
	if err != nil {
		return finding{Check: "cgroup", State: doctorWarn, Detail: err.Error()}
	}
	dir, why := s.Cgroup()
	var have []string
	if dir != "" {
		text, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers")) // none is what it says then
		have = strings.Fields(string(text))
	}
	if err := s.Close(); err != nil {
		why = err.Error()
	}
	const fix = "systemd-run --user --scope -p Delegate=yes cellkernel up"
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, c) {
			missing = append(missing, c)
		}
	}
	switch {
	case dir == "" || why != "":
		f.State, f.Detail, f.Fix = doctorWarn, why+": CPU is metered by /proc, and limits of cells have no effect", fix
	case len(missing) > 0:
		f.State, f.Detail, f.Fix = doctorWarn, "used for metering; limits of "+strings.Join(missing, ", ")+" have no effect", fix
	default:
		f.Detail = "used for metering and limits"
	}
	return f
}

// checkKeys looks who can read the keys of meshes.
func (p *patient) checkKeys() finding {
	some, err := membership.Path("some", "")
	if err != nil {
		return finding{"keys", doctorFail, err.Error(), "export CELLKERNEL_HOME=$HOME/.cell"}
	}
	dirs := []string{filepath.Dir(some)}
	if p.genome != nil {
		own, err := membership.Path(sdk.CellName(p.genome.Kernel.Mesh), filepath.Dir(p.genome.File))
		if err != nil {
			return finding{Check: "keys", State: doctorFail, Detail: err.Error()}
		}
		if _, err := os.Stat(filepath.Join(own, "mesh.key")); errors.Is(err, fs.ErrNotExist) && p.genome.Kernel.Mesh != "" {
			return finding{"keys", doctorFail, fmt.Sprintf("this machine is not in mesh %q: %s has no mesh.key", p.genome.Kernel.Mesh, own),
				"cellkernel join CODE   # with a code that a member prints"}
		}
		if !strings.HasPrefix(own, dirs[0]) {
			dirs = append(dirs, own)
		}
	}
	files, worst := 0, finding{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if files++; err != nil || files > maxKeys {
				return errors.Join(err, fs.SkipAll)
			}
			if worst.State == "" && slices.Contains(keyFiles, d.Name()) {
				worst = checkKey(path)
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.SkipAll) && worst.State == "" {
			worst = finding{Check: "keys", State: doctorWarn, Detail: err.Error()}
		}
	}
	if worst.State != "" {
		return worst
	}
	return finding{Check: "keys", State: doctorOK, Detail: "only this user can read those in " + strings.Join(dirs, " and ")}
}

// keyFiles are the files of a mesh and of its nodes.
var keyFiles = []string{"mesh.key", "identity", "deny", "boots"}

// checkKey looks at one file and at its directory.
func checkKey(path string) (f finding) {
	if f = checkMode(filepath.Dir(path)); f.State != "" {
		return f
	}
	return checkMode(path)
}

func checkMode(path string) (f finding) {
	info, err := os.Lstat(path)
	if err != nil {
		return f // it has just gone
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && int(st.Uid) != os.Geteuid():
		return finding{"keys", doctorFail, fmt.Sprintf("%s belongs to user %d", path, st.Uid), "chown -h $USER " + path}
	case info.Mode()&fs.ModeSymlink != 0 || info.Mode().Perm()&0o077 == 0:
		return f
	case info.IsDir():
		return finding{"keys", doctorFail, fmt.Sprintf("%s has mode %#o: others can look into it", path, info.Mode().Perm()), "chmod 700 " + path}
	}
	return finding{"keys", doctorFail, fmt.Sprintf("%s has mode %#o: others may have read it; chmod mends the mode, not that", path, info.Mode().Perm()), "chmod 600 " + path}
}

// checkSockets looks at the directory below which kernels have their sockets.
func checkSockets() finding {
	base := runBase()
	info, err := os.Lstat(base)
	switch {
	case len(base)+1+runNameLen+1+socketLen >= len(syscall.RawSockaddrUnix{}.Path):
		return finding{"sockets", doctorFail, fmt.Sprintf("%s is too long for the address of a Unix socket", base), "export XDG_RUNTIME_DIR=/run/user/$(id -u)"}
	case errors.Is(err, fs.ErrNotExist):
		if err := unix.Access(filepath.Dir(base), unix.W_OK); err != nil {
			return finding{"sockets", doctorFail, filepath.Dir(base) + " can not be written", "export XDG_RUNTIME_DIR=/run/user/$(id -u)"}
		}
		return finding{Check: "sockets", State: doctorOK, Detail: base + " is made when it is needed"}
	case err != nil:
		return finding{Check: "sockets", State: doctorFail, Detail: err.Error()}
	case !ours(base) || info.Mode().Perm()&0o077 != 0:
		return finding{"sockets", doctorFail, fmt.Sprintf("%s is not a directory of this user alone (mode %#o)", base, info.Mode().Perm()), "chmod 700 " + base}
	}
	return finding{Check: "sockets", State: doctorOK, Detail: base}
}

// checkGo looks for the compiler, which builds cells that have a package.
func checkGo(ctx context.Context) finding {
	const fix = "see https://go.dev/dl"
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	version := strings.TrimSpace(string(out))
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return finding{"go", doctorWarn, "no Go: cells that have a package can not be built", fix}
	case err != nil:
		return finding{"go", doctorWarn, "ask Go for its version: " + err.Error(), fix}
	case olderGo(version):
		return finding{"go", doctorWarn, version + " is older than go1.26, which the sdk needs", fix}
	}
	return finding{Check: "go", State: doctorOK, Detail: version}
}

// olderGo reports whether a version is below go1.26.
func olderGo(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "go%d.%d", &major, &minor)
	return err == nil && (major < 1 || major == 1 && minor < 26) // others are made from source
}

// checkFiles looks at how many descriptors a process may have.
func checkFiles() finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return finding{Check: "files", State: doctorWarn, Detail: err.Error()}
	}
	if l.Max < wantFiles {
		return finding{"files", doctorWarn, fmt.Sprintf("a process may open %d files; every link is one", l.Max), fmt.Sprintf("ulimit -Hn %d   # or LimitNOFILE= of the service", 16*wantFiles)}
	}
	return finding{Check: "files", State: doctorOK, Detail: fmt.Sprintf("a process may open %d", l.Max)}
}
