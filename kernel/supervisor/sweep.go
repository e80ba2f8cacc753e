package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SweepCommand is the hidden command that runs [SweepMain].
const SweepCommand = "__sweep"

const (
	sweepWait = 10 * time.Second      // bounds the killing of one sweep
	maxState  = 64 << 10              // bytes of an encoded state
	lockPause = 20 * time.Millisecond // between two tries of a file lock, which has no event
)

// A RunState is what must be known to clear up behind a kernel. Save it before
// the first child, so that whoever comes next can do it.
type RunState struct {
	RunID  string   `json:"run_id"`
	Cgroup string   `json:"cgroup,omitempty"` // the run's directory
	Dirs   []string `json:"dirs,omitempty"`   // directories of sockets; removed with them
	File   string   `json:"file,omitempty"`   // where this state is saved; removed last
}

// State returns the state of this spawner's run. file may be empty, then
// nothing is saved; dirs hold the run's sockets. All paths are absolute.
func (s *Spawner) State(file string, dirs ...string) RunState {
	return RunState{RunID: s.opt.RunID, Cgroup: string(s.run), Dirs: dirs, File: file}
}

// LoadState reads a saved state. Where there is none, the error is
// [fs.ErrNotExist]: the last kernel left nothing behind.
func LoadState(file string) (RunState, error) {
	f, err := os.Open(file)
	if err != nil {
		return RunState{}, err
	}
	defer f.Close()
	st, err := readState(f)
	if err != nil {
		return RunState{}, fmt.Errorf("read %s: %w", file, err)
	}
	st.File = file
	return st, nil
}

// readState decodes and checks a state from outside.
func readState(r io.Reader) (RunState, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxState))
	if err != nil {
		return RunState{}, err
	}
	var st RunState
	if err := json.Unmarshal(data, &st); err != nil {
		return RunState{}, err
	}
	return st, st.check()
}

// check reports what makes it dangerous to act on st.
func (st RunState) check() error {
	if err := checkRunID(st.RunID); err != nil {
		return err
	}
	if st.Cgroup != "" {
		if filepath.Base(st.Cgroup) != cgroupPrefix+st.RunID || !filepath.IsAbs(st.Cgroup) {
			return fmt.Errorf("cgroup %q is not the one of run %s", st.Cgroup, st.RunID)
		}
	}
	for _, path := range append(slices.Clone(st.Dirs), st.File) {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("path %q is not absolute", path)
		}
	}
	return nil
}

// save writes st to its file, whole or not at all.
func (st RunState) save() error {
	if st.File == "" {
		return nil
	}
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if len(data) > maxState {
		return fmt.Errorf("save %s: %d bytes: at most %d", st.File, len(data), maxState)
	}
	tmp := st.File + "." + st.RunID[:8]
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, st.File)
}

// Sweep ends every process of a run whose kernel is dead, removes its cgroup,
// its sockets and the saved state, and returns how many processes it found by
// their mark. It may run in several processes at once. A process that does
// not belong to the run is never touched.
func Sweep(ctx context.Context, st RunState) (killed int, err error) {
	if err := st.check(); err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	release, current, err := st.claim(ctx)
	if err != nil {
		return 0, fmt.Errorf("sweep run %s: %w", st.RunID, err)
	}
	defer release()
	err = st.killGroup()
	killed, kerr := killMarked(runMark(st.RunID), sweepWait)
	if err = errors.Join(err, kerr); err != nil {
		return killed, fmt.Errorf("sweep run %s: %w", st.RunID, err)
	}
	if st.Cgroup != "" {
		err = cgroup(st.Cgroup).remove()
	}
	if !current {
		return killed, err // the directories may belong to the next kernel already
	}
	for _, dir := range st.Dirs {
		err = errors.Join(err, removeSockets(dir, st.File))
	}
	if err == nil && st.File != "" {
		err = os.Remove(st.File)
	}
	if err == nil {
		for _, dir := range st.Dirs {
			_ = os.Remove(dir) // only if nothing else is in it
		}
	}
	return killed, err
}

// killGroup kills what is in the run's cgroup.
func (st RunState) killGroup() error {
	if st.Cgroup == "" {
		return nil
	}
	var fsys unix.Statfs_t
	switch err := unix.Statfs(st.Cgroup, &fsys); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case fsys.Type != unix.CGROUP2_SUPER_MAGIC:
		return fmt.Errorf("%s is not a cgroup", st.Cgroup)
	}
	err := cgroup(st.Cgroup).kill(time.Now().Add(sweepWait))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another sweep was faster
	}
	return err
}

// claim locks the saved state against other sweeps. current is false if the
// file is no longer this state's: then a later kernel may own the directories.
func (st RunState) claim(ctx context.Context) (release func(), current bool, err error) {
	if st.File == "" {
		return func() {}, true, nil
	}
	f, err := os.Open(st.File)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, false, fmt.Errorf("lock %s: %w", st.File, ctx.Err())
		case <-time.After(lockPause):
		}
	}
	saved, err := readState(f)
	mine, serr := f.Stat()
	named, nerr := os.Stat(st.File)
	current = err == nil && saved.RunID == st.RunID &&
		serr == nil && nerr == nil && os.SameFile(mine, named)
	return func() { f.Close() }, current, nil
}

// removeSockets removes the sockets and the empty directories in dir, and
// nothing else. It follows no symbolic link.
func removeSockets(dir, keep string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	var dirs []string
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || path == "." || filepath.Join(dir, path) == keep:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		case d.Type() == fs.ModeSocket:
			return root.Remove(path)
		}
		return nil
	})
	for _, path := range slices.Backward(dirs) {
		_ = root.Remove(path) // only if it is empty
	}
	return err
}

// SweepMain is the command [SweepCommand]. It reads a state from descriptor 3
// until its end, which is the end of the kernel, and then sweeps. It returns
// the exit code.
func SweepMain([]string) int {
	// Whoever stops the kernel through its terminal or its service manager
	// must not stop the one who clears up.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := SealDescriptors(); err != nil {
		return 1
	}
	st, err := readState(os.NewFile(3, "kernel"))
	if err != nil {
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*sweepWait)
	defer cancel()
	if _, err := Sweep(ctx, st); err != nil {
		return 1 // the saved state stays: the next kernel tries again and says so
	}
	return 0
}

// encode returns st as [SweepMain] reads it.
func (st RunState) encode() (string, error) {
	var b strings.Builder
	err := json.NewEncoder(&b).Encode(st)
	return b.String(), err
}
