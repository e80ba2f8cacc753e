package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cellkernel/cellkernel/sdk"
)

// A dir is an open directory that belongs to this user alone.
type dir struct {
	root *os.Root
	path string
}

// openDir opens the directory at path and checks whose it is. What is above it
// is not checked: whoever can replace the directory can only put one there
// that is not this user's.
func openDir(path string) (dir, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return dir{}, fmt.Errorf("open key directory: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return dir{}, fmt.Errorf("open key directory: %w", err)
	}
	info, err := root.Stat(".")
	if err == nil && !os.SameFile(before, info) {
		err = denied(path, "it is a symbolic link")
	}
	if err == nil {
		err = private(path, info, fs.ModeDir)
	}
	if err != nil {
		root.Close()
		return dir{}, err
	}
	return dir{root, path}, nil
}

// makeDir makes a directory of mode 0700 where there is none, durably.
func makeDir(path string) error {
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("make key directory: %w", err)
	}
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = syncDir(parent)
	}
	if err != nil {
		return fmt.Errorf("make key directory: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func denied(path, format string, args ...any) error {
	return sdk.Errorf(sdk.CodeDenied, "use %s: %s", path, fmt.Sprintf(format, args...))
}

// private checks that nobody but this user can read what info describes: a
// directory or, with kind 0, a regular file.
func private(path string, info fs.FileInfo, kind fs.FileMode) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Type() != kind || !ok:
		return denied(path, "it is not a %s", map[fs.FileMode]string{0: "regular file", fs.ModeDir: "directory"}[kind])
	case int(st.Uid) != os.Geteuid():
		return denied(path, "it belongs to user %d, not to this one, %d", st.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return denied(path, "mode %04o lets others at it: want %04[2]o (if nobody has read it: chmod %04[2]o %[3]s)", info.Mode().Perm(), info.Mode().Perm()&0o700, path)
	case kind == 0 && st.Nlink != 1:
		return denied(path, "it has %d names: want 1", st.Nlink)
	}
	return nil
}

func (d dir) close() error { return d.root.Close() }

// read returns a file of at most most bytes. It opens nothing that is not a
// private regular file, so a pipe or a device does not make it wait.
func (d dir) read(name string, most int) ([]byte, error) {
	path := filepath.Join(d.path, name)
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	if err := private(path, before, 0); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if !os.SameFile(before, info) {
		return nil, denied(path, "it was replaced meanwhile")
	}
	if err := private(path, info, 0); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(b) > most:
		return nil, denied(path, "it has more than %d bytes", most)
	}
	return b, nil
}

// create writes a file that must not be there yet: the error is fs.ErrExist.
func (d dir) create(name string, content []byte) error { return d.write(name, content, true) }

// replace writes a file, in the place of another one if there is one.
func (d dir) replace(name string, content []byte) error { return d.write(name, content, false) }

// write is atomic and durable: at every moment there is the old file or the
// new one, and after it returned it is the new one. One process at a time may
// write into a directory; readers need not care.
func (d dir) write(name string, content []byte, create bool) error {
	path := filepath.Join(d.path, name)
	self, err := d.lock()
	if err != nil {
		return err
	}
	defer self.Close()
	if _, err := d.root.Lstat(name); err == nil && create {
		return fmt.Errorf("create %s: %w", path, fs.ErrExist)
	}
	fresh := name + ".new"
	if err := d.root.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err) // of a process that was killed here
	}
	err = d.writeFresh(fresh, content)
	if err == nil {
		err = d.root.Rename(fresh, name)
	}
	if err == nil {
		err = self.Sync()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (d dir) writeFresh(name string, content []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// lock returns the directory itself, locked until it is closed.
func (d dir) lock() (*os.File, error) {
	self, err := d.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", d.path, err)
	}
	raw, err := self.SyscallConn()
	if err == nil {
		var inner error
		err = raw.Control(func(fd uintptr) { inner = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) })
		err = errors.Join(err, inner)
	}
	if err != nil {
		self.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "lock %s: another process writes there", d.path)
		}
		return nil, fmt.Errorf("lock %s: %w", d.path, err)
	}
	return self, nil
}
