package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cellkernel/cellkernel/internal/procstat"
	"github.com/cellkernel/cellkernel/sdk"
)

// pipeSize is the size of output pipes: what a process can write while
// nobody reads.
const pipeSize = 1 << 20

// maxStubError bounds what the stub says about its failure.
const maxStubError = 4 << 10

// A Spec says what to start. Name and Argv are required.
type Spec struct {
	// Name is for errors and for the cgroup's directory; it need not be unique.
	Name string
	// Exe is the program. Where it is nil, Argv[0] is: a name without a
	// slash is searched for in the PATH of Env; a relative path begins in Dir.
	// A script can only be started by name.
	Exe  *os.File
	Argv []string
	// Env is the whole environment, apart from the run's mark, which is added.
	Env []string
	Dir string // working directory; empty for the kernel's
	// Files become descriptors 3 and up. Passing a file makes what it
	// describes blocking.
	Files []*os.File
	// Stdin is /dev/null if nil. If Stdout or Stderr is nil, it is a pipe of
	// 1 MiB whose other end is in the [Process].
	Stdin, Stdout, Stderr *os.File
	// Cgroup is a directory below [Spawner.Cgroup] to be born in. Nothing else
	// may live there, since it is killed with the process; it stays the
	// caller's to remove. Empty for a new one, where there can be one.
	Cgroup string
	// Limits are enforced by the process's own cgroup or the start fails,
	// unless it was given a cgroup, where whoever made that has set them.
	Limits sdk.Limits
	// Stub is what happens between fork and exec. It costs the start of one
	// more program, a few milliseconds, unless it is zero.
	Stub Stub
}

// check reports what can never work.
func (spec *Spec) check() error {
	if spec.Name == "" || len(spec.Argv) == 0 || spec.Argv[0] == "" {
		return errors.New("a name and a command are required")
	}
	if spec.Dir != "" {
		if st, err := os.Stat(spec.Dir); err != nil {
			return fmt.Errorf("working directory: %w", err)
		} else if !st.IsDir() {
			return fmt.Errorf("working directory: %q is not a directory", spec.Dir)
		}
	}
	return nil
}

// A birth is the start of one process: what it needs for that moment only.
type birth struct {
	spec    Spec
	process *Process
	path    string // what is executed
	argv    []string
	files   []*os.File // descriptors 0 and up of the child
	group   *os.File   // its cgroup's directory
	exe     *os.File   // keeps what path names open
	verdict *os.File   // where the stub says why it failed
	theirs  *os.File   // the stub's end of it
	ours    []*os.File // closed when the start is over
	detach  bool       // the sweeper: outlives the kernel, carries no mark
}

// open adopts f for the duration of the birth.
func (b *birth) open(f *os.File, err error) (*os.File, error) {
	if err == nil {
		b.ours = append(b.ours, f)
	}
	return f, err
}

// release closes what only the birth needed and, if it failed, everything.
func (b *birth) release(failed bool) {
	for _, f := range b.ours {
		f.Close()
	}
	if b.theirs != nil {
		b.theirs.Close()
	}
	p := b.process
	if !failed {
		return
	}
	for _, f := range []*os.File{p.Stdout, p.Stderr} {
		if f != nil {
			f.Close()
		}
	}
	if p.proc == nil && p.ownGroup {
		if err := p.group.remove(); err != nil {
			p.spawner.opt.Log.Warn("remove the cgroup of a failed start", "error", err)
		}
	}
}

// prepare makes everything that must exist before the fork.
func (b *birth) prepare() error {
	if err := b.standardFiles(); err != nil {
		return err
	}
	if err := b.placeCgroup(); err != nil {
		return err
	}
	b.files = append(b.files, b.spec.Files...)
	b.argv = b.spec.Argv
	if b.spec.Stub.zero() {
		return b.program(b.spec.Exe)
	}
	return b.insertStub()
}

// standardFiles opens descriptors 0, 1 and 2.
func (b *birth) standardFiles() error {
	in, err := b.spec.Stdin, error(nil)
	if in == nil {
		if in, err = b.open(os.Open(os.DevNull)); err != nil {
			return err
		}
	}
	p := b.process
	out, err := b.output(b.spec.Stdout, &p.Stdout)
	if err != nil {
		return err
	}
	errs, err := b.output(b.spec.Stderr, &p.Stderr)
	if err != nil {
		return err
	}
	b.files = []*os.File{in, out, errs}
	return nil
}

// output returns given, or the write end of a new pipe.
func (b *birth) output(given *os.File, ours **os.File) (*os.File, error) {
	if given != nil {
		return given, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	*ours = r
	// An ordinary user's pipes share a budget; a smaller one works, too.
	for size := pipeSize; size > 1<<16; size /= 2 {
		if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, size); err == nil {
			break
		}
	}
	return b.open(w, nil)
}

// placeCgroup makes or checks the directory in which the child is born.
func (b *birth) placeCgroup() error {
	s, p := b.process.spawner, b.process
	if b.detach || s.run == "" {
		if b.spec.Limits != (sdk.Limits{}) || b.spec.Cgroup != "" {
			return fmt.Errorf("there is no cgroup: %s", s.noGroup)
		}
		return nil
	}
	p.group = cgroup(filepath.Clean(b.spec.Cgroup))
	if b.spec.Cgroup == "" {
		p.group = cgroup(s.run.file(fmt.Sprintf("%s.%d", fileName(b.spec.Name), p.seq)))
		if err := makeCgroup(p.group); err != nil {
			return err
		}
		p.ownGroup = true
		if err := p.group.limit(b.spec.Limits); err != nil {
			return err
		}
	} else if !strings.HasPrefix(string(p.group), string(s.run)+"/") {
		return fmt.Errorf("cgroup %q: want one below %s", b.spec.Cgroup, s.run)
	}
	var err error
	b.group, err = b.open(os.Open(string(p.group)))
	return err
}

// fileName makes name fit for a file's: other characters become hyphens.
func fileName(name string) string {
	safe := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}
	return strings.Map(safe, name[:min(len(name), 128)])
}

// program sets what is executed: exe, or what argv[0] names.
func (b *birth) program(exe *os.File) error {
	if exe == nil {
		path, err := lookPath(b.argv[0], b.spec.Dir, b.spec.Env)
		b.path = path
		return err
	}
	// os.StartProcess moves descriptors out of its way to numbers just above
	// those it was given; the program's must lie beyond. The child resolves
	// the path in its own table, before close-on-exec takes effect.
	high := len(b.files) + 16
	for _, f := range b.files {
		high = max(high, int(f.Fd())+len(b.files)+16)
	}
	fd, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, high)
	if err != nil {
		return fmt.Errorf("program %q: %w", exe.Name(), err)
	}
	b.exe, err = b.open(os.NewFile(uintptr(fd), exe.Name()), nil)
	b.path = fmt.Sprintf("/proc/self/fd/%d", fd)
	return err
}

// lookPath finds the file that name means for a process with env in dir.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = v
		}
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			continue // what runs must not depend on where
		}
		file := filepath.Join(d, name)
		if st, err := os.Stat(file); err == nil && !st.IsDir() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("exec %q: not found in PATH %q", name, path)
}

// start forks and executes. It runs on the spawner's thread.
func (b *birth) start() error {
	p := b.process
	pidfd := -1
	sys := &syscall.SysProcAttr{PidFD: &pidfd}
	env := b.spec.Env
	if b.detach {
		sys.Setsid = true
	} else {
		sys.Setpgid, sys.Pdeathsig = true, syscall.SIGKILL
		env = markedEnv(env, processMark(p.spawner.RunID(), p.seq))
	}
	if b.group != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, int(b.group.Fd())
	}
	attr := &os.ProcAttr{Dir: b.spec.Dir, Env: env, Files: b.files, Sys: sys}
	proc, err := os.StartProcess(b.path, b.argv, attr)
	if err != nil {
		return b.explain(err)
	}
	p.name, p.proc, p.pidfd = b.spec.Name, proc, adoptPidFD(pidfd)
	if st, err := procstat.Read(proc.Pid); err == nil {
		p.startTime = st.StartTime // the child is ours and unreaped: it is there
	}
	return nil
}

// adoptPidFD makes a process descriptor one that the runtime can wait for
// without a thread. nil if the system has none.
func adoptPidFD(fd int) *os.File {
	if fd < 0 {
		return nil
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), "pidfd")
}

// markedEnv returns env with m in front, and with no other mark.
func markedEnv(env []string, m mark) []string {
	out := []string{string(m)}
	for _, e := range env {
		if !strings.HasPrefix(e, markVariable) {
			out = append(out, e)
		}
	}
	return out
}

// explain turns the error of a start into one that names the program.
func (b *birth) explain(err error) error {
	name := b.spec.Argv[0]
	if b.spec.Exe != nil {
		name = b.spec.Exe.Name()
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	file := b.path
	if !filepath.IsAbs(file) {
		file = filepath.Join(b.spec.Dir, file)
	}
	if _, serr := os.Stat(file); errors.Is(err, unix.ENOENT) && serr == nil {
		return fmt.Errorf("exec %q: the program its first line names does not exist", name)
	}
	return fmt.Errorf("exec %q: %w", name, err)
}
