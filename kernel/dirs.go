package kernel

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/kernel/supervisor"
	"github.com/cellkernel/cellkernel/sdk"
)

// dirs are the places of one kernel. What is under .cell beside the genome is
// disposable; sockets live in a short path of their own, because the address
// of a Unix socket is at most 107 bytes long.
type dirs struct {
	cell    string // .cell beside the genome
	logs    string
	bin     string
	plugins string // states of plugins
	books   string // of the node: the only one that outlives the checkout
	state   string // what the next kernel must sweep if this one is killed
	run     string // sockets
	control string
	links   string
	key     string // the secret of links on this machine; readable by this user's other kernels
}

const runLinkName = "run" // in .cell: points to the run directory

// openDirs makes the directories, takes the lock of this checkout and clears
// up behind a kernel that was killed.
func (k *Kernel) openDirs(ctx context.Context, end *closers) error {
	root := filepath.Dir(k.genome.File)
	d := dirs{cell: filepath.Join(root, ".cell")}
	d.logs, d.bin, d.plugins = filepath.Join(d.cell, "logs"), filepath.Join(d.cell, "bin"), filepath.Join(d.cell, "plugins")
	d.state = filepath.Join(d.cell, "state.json")
	for _, dir := range []string{d.cell, d.logs, d.bin, d.plugins} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.cell, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := d.claim(root, end); err != nil {
		return err
	}
	st, err := supervisor.LoadState(d.state)
	if err == nil {
		_, err = supervisor.Sweep(ctx, st)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear up behind the last kernel: %w", err)
	}
	if err := d.makeRun(end); err != nil {
		return err
	}
	k.dirs = d
	return nil
}

// claim names the run directory and takes its lock, which lies beside it:
// whoever deletes .cell, which is disposable, must not be able to start a second
// kernel that takes the first one's sockets away.
func (d *dirs) claim(root string, end *closers) error {
	base, err := runBase()
	if err != nil {
		return err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return fmt.Errorf("find own directory: %w", err)
	}
	sum := sha256.Sum256([]byte(root))
	d.run = filepath.Join(base, hex.EncodeToString(sum[:8]))
	return lock(d.run+".lock", end)
}

// lock makes sure that this is the only kernel of the checkout. The file goes
// with the kernel: whoever has locked one that is gone by then tries again.
func lock(path string, end *closers) error {
	for {
		f, err := lockFile(path)
		if err != nil {
			return err
		}
		if sameFile(f, path) {
			end.add(func() error { return errors.Join(os.Remove(path), f.Close()) })
			return nil
		}
		f.Close()
	}
}

// sameFile reports whether f still is what is at path.
func sameFile(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(held, there)
}

// lockFile opens a file and locks it; only one process at a time can.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	rc, err := f.SyscallConn()
	if err == nil {
		var inner error
		err = rc.Control(func(fd uintptr) { inner = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
		err = errors.Join(err, inner)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "lock %s: another kernel runs here", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// makeRun makes the directory of the sockets, and a link to it.
func (d *dirs) makeRun(end *closers) error {
	// What is left there belongs to a kernel of this checkout, and the lock
	// says that there is none.
	if err := os.RemoveAll(d.run); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Mkdir(d.run, 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	end.add(func() error { return os.RemoveAll(d.run) })
	d.control, d.links, d.key = filepath.Join(d.run, "control.sock"), filepath.Join(d.run, "links.sock"), filepath.Join(d.run, "link.key")
	link := filepath.Join(d.cell, runLinkName)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make run directory: %w", err)
	}
	if err := os.Symlink(d.run, link); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	end.add(func() error { return os.Remove(link) })
	return nil
}

// runBase returns the directory in which this user's kernels have theirs. In
// /tmp anybody could have made it: it must be ours and closed to others.
func runBase() (string, error) {
	base := fmt.Sprintf("/tmp/cellkernel-%d", os.Getuid())
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) && owned(dir) == nil {
		base = filepath.Join(dir, "cellkernel")
	}
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make run directory: %w", err)
	}
	if err := owned(base); err != nil {
		return "", err
	}
	return base, nil
}

func owned(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("use run directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return sdk.Errorf(sdk.CodeDenied, "use run directory %s: it is not a directory of this user with mode 0700", dir)
	}
	return nil
}

// homeMesh makes the mesh of links on this machine. Its secret is in a file,
// so that this user's other kernels can come through their junctions.
func (d *dirs) homeMesh() (*identity.Mesh, error) {
	key := make([]byte, 32)
	rand.Read(key) // never fails: see package crypto/rand
	if err := os.WriteFile(d.key, key, 0o600); err != nil {
		return nil, fmt.Errorf("write link key: %w", err)
	}
	return identity.MeshOf(key)
}

// junction finds the kernel that runs in another directory of this user.
func junction(dir string) (sdk.Addr, *identity.Mesh, error) {
	run, err := filepath.EvalSymlinks(filepath.Join(dir, ".cell", runLinkName))
	if err != nil {
		return sdk.Addr{}, nil, fmt.Errorf("no kernel runs in %s", dir)
	}
	if err := owned(run); err != nil {
		return sdk.Addr{}, nil, err
	}
	key, err := os.ReadFile(filepath.Join(run, "link.key"))
	if err != nil {
		return sdk.Addr{}, nil, fmt.Errorf("read link key of the kernel in %s: %w", dir, err)
	}
	mesh, err := identity.MeshOf(key)
	return sdk.Addr{Scheme: "uds", Host: filepath.Join(run, "links.sock")}, mesh, err
}
