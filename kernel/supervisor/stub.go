package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// StubCommand is the hidden command that runs [ExecStub].
const StubCommand = "__exec"

// A Stub is what must happen between fork and exec. The zero Stub is nothing.
type Stub struct {
	Rlimits    []Rlimit `json:"rlimits,omitempty"`
	NoNewPrivs bool     `json:"no_new_privs,omitempty"` // set-user-id programs gain nothing
	Join       []string `json:"join,omitempty"`         // directories of version 1 cgroups
}

// An Rlimit is one resource limit, by its name in getrlimit(2): "nofile".
type Rlimit struct {
	Name string `json:"name"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// zero reports whether there is nothing to do.
func (s Stub) zero() bool { return len(s.Rlimits) == 0 && !s.NoNewPrivs && len(s.Join) == 0 }

// A plan is what the stub is told. It is started as
//
//	cellkernel __exec <plan as JSON> <path> <argv...>
//
// with the program's environment, directory and descriptors 0 to Keep-1,
// then the write end of the verdict pipe, and after it the program's own
// descriptor if Exe is set. The verdict is "+" right before the exec and
// nothing more if that succeeds; the text of the error if anything fails.
type plan struct {
	Stub
	Keep int  `json:"keep"`
	Exe  bool `json:"exe,omitempty"`
}

// insertStub makes the stub what is started, and the program what the stub
// executes.
func (b *birth) insertStub() error {
	s := b.process.spawner
	if s.opt.Self == nil {
		return errors.New("rlimits and the like: this spawner has no stub")
	}
	pl := plan{Stub: b.spec.Stub, Keep: len(b.files), Exe: b.spec.Exe != nil}
	text, err := json.Marshal(pl)
	if err != nil {
		return err
	}
	var path string
	if pl.Exe {
		path = fmt.Sprintf("/proc/self/fd/%d", pl.Keep+1)
	} else if path, err = lookPath(b.argv[0], b.spec.Dir, b.spec.Env); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	b.ours, b.verdict, b.theirs = append(b.ours, r), r, w
	b.files = append(b.files, w)
	if pl.Exe {
		b.files = append(b.files, b.spec.Exe)
	}
	b.argv = append([]string{"cellkernel", StubCommand, string(text), path}, b.argv...)
	return b.program(s.opt.Self)
}

// confirm waits until the stub has become the program.
func (b *birth) confirm(ctx context.Context) error {
	if b.verdict == nil {
		return nil
	}
	b.theirs.Close() // or the end of the verdict would never come
	stop := context.AfterFunc(ctx, func() { _ = b.process.Signal(unix.SIGKILL) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(b.verdict, maxStubError))
	trimmed := strings.TrimPrefix(string(text), "+")
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("read the stub's verdict: %w", err)
	case len(text) == 0:
		return fmt.Errorf("the stub ended before the program began: %s", b.process.Exit())
	case trimmed != "":
		return errors.New(trimmed)
	}
	return nil
}

// ExecStub is the command [StubCommand]: args are what follows it. It
// replaces this process by a program and returns only if it could not.
func ExecStub(args []string) int {
	// no_new_privs belongs to a thread, and the thread that executes decides.
	runtime.LockOSThread()
	var pl plan
	if len(args) < 3 {
		fmt.Fprintln(os.Stderr, "cellkernel: this command is started by the kernel only")
		return 2
	}
	if err := json.Unmarshal([]byte(args[0]), &pl); err != nil || pl.Keep < 3 {
		fmt.Fprintf(os.Stderr, "cellkernel: malformed plan %.200q\n", args[0])
		return 2
	}
	verdict := os.NewFile(uintptr(pl.Keep), "verdict")
	err := pl.run(verdict, args[1], args[2:])
	fmt.Fprint(verdict, err) // nobody else would hear it
	return 127
}

// run executes the plan.
func (pl *plan) run(verdict *os.File, path string, argv []string) error {
	if err := sealDescriptors(pl.Keep); err != nil {
		return err
	}
	for _, dir := range pl.Join {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	if pl.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	env := os.Environ()
	if _, err := verdict.WriteString("+"); err != nil {
		return err
	}
	for _, l := range pl.Rlimits { // last: a small one could end the stub itself
		if err := l.set(); err != nil {
			return err
		}
	}
	err := syscall.Exec(path, argv, env)
	return fmt.Errorf("exec %q: %w", argv[0], err)
}

// set applies the limit to this process.
func (l Rlimit) set() error {
	resource, ok := map[string]int{
		"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU,
		"data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "memlock": unix.RLIMIT_MEMLOCK,
		"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "stack": unix.RLIMIT_STACK,
	}[l.Name]
	if !ok {
		return fmt.Errorf("rlimit %q: unknown", l.Name)
	}
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
		return fmt.Errorf("rlimit %q: %w", l.Name, err)
	}
	return nil
}

// SealDescriptors marks every open descriptor from 3 up close-on-exec. A
// kernel calls it first, so that what it inherited does not leak into cells.
func SealDescriptors() error { return sealDescriptors(3) }

func sealDescriptors(first int) error {
	if err := unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("seal descriptors: %w", err)
	}
	return nil
}
