package plugin

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Command says how a plugin's process is started.
type Command struct {
	Name string   // for people, "transport(uds)"
	Path string   // absolute path of the executable
	Exe  *os.File // if set, the open file to execute instead of Path; it stays the caller's
	Args []string // behind argv[0], which is Path
	Env  []string // the whole environment
	Dir  string   // working directory; empty for that of this process
	// Files become descriptors 3 and up. They stay the caller's, who may close
	// them once the process has started.
	Files []*os.File
}

// A Process is a started plugin process. Its pipes are the caller's to read
// and close; Wait does not close them.
type Process interface {
	PID() int
	Wait() error // blocks until the process has exited; called once
	Kill() error // kills it and what it started, at once; no error if it is gone
	Stdout() io.ReadCloser
	Stderr() io.ReadCloser
}

// Launch starts a process with standard input from /dev/null. Its ctx bounds
// the start alone. A kernel passes its supervisor here, so that control
// groups, limits and the sweeper work for plugins, too; everyone else [Exec].
type Launch func(ctx context.Context, c Command) (Process, error)

// firstSpareFD is above all descriptors that exec hands over, so that the one
// to execute is not replaced on the way.
const firstSpareFD = 200

// Exec is a [Launch] that starts an ordinary child process in a process group
// of its own.
func Exec(ctx context.Context, c Command) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	cmd := &exec.Cmd{Path: c.Path, Args: append([]string{c.Path}, c.Args...), Env: c.Env, Dir: c.Dir, ExtraFiles: c.Files}
	if c.Env == nil {
		cmd.Env = []string{}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Exe != nil {
		fd, err := dupAbove(c.Exe)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", c.Name, err)
		}
		defer unix.Close(fd)
		cmd.Path = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	return startProcess(cmd, c.Name)
}

func dupAbove(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup, inner := -1, error(nil)
	err = rc.Control(func(fd uintptr) {
		dup, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, firstSpareFD)
	})
	return dup, errors.Join(err, inner)
}

type process struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File
	exited         chan struct{}
}

func startProcess(cmd *exec.Cmd, name string) (*process, error) {
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer outW.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer errW.Close()
	cmd.Stdout, cmd.Stderr = outW, errW
	if err := cmd.Start(); err != nil {
		outR.Close()
		errR.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &process{cmd, outR, errR, make(chan struct{})}, nil
}

func (p *process) PID() int              { return p.cmd.Process.Pid }
func (p *process) Stdout() io.ReadCloser { return p.stdout }
func (p *process) Stderr() io.ReadCloser { return p.stderr }

func (p *process) Wait() error {
	defer close(p.exited)
	return p.cmd.Wait()
}

func (p *process) Kill() error {
	select {
	case <-p.exited:
		return nil // its number may be another's by now
	default:
	}
	if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %d: %w", p.PID(), err)
	}
	return nil
}

// Seal copies the executable at path into memory that nobody can change any
// more and checks the SHA-256 of what was copied against sum, 64 hexadecimal
// digits; an empty sum is not checked. The result is for [Command].Exe: what
// is executed is what was checked. The caller closes it.
func Seal(path, sum string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("open plugin %q: want an absolute path", path)
	}
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open plugin: %w", err)
	}
	defer src.Close()
	if info, err := src.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open plugin %q: not a regular file: %w", path, errors.Join(err, os.ErrInvalid))
	}
	mem, err := memfd(filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("seal plugin %q: %w", path, err)
	}
	if err := copySealed(mem, src, sum); err != nil {
		mem.Close()
		return nil, fmt.Errorf("seal plugin %q: %w", path, err)
	}
	return mem, nil
}

func memfd(name string) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	name = clip(name, 100)
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3 has no MFD_EXEC
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func copySealed(mem, src *os.File, sum string) error {
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(mem, h), src); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); sum != "" && !strings.EqualFold(got, sum) {
		return fmt.Errorf("sha256 is %s, the genome says %q: if the new file is the one you want, pin it instead", got, clip(sum, 64))
	}
	if _, err := elf.NewFile(mem); err != nil {
		return errors.New("not an ELF executable: a script can not be pinned, since its interpreter would read it again; build a binary or remove sha256")
	}
	rc, err := mem.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) {
		_, inner = unix.FcntlInt(fd, unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	})
	return errors.Join(err, inner)
}
