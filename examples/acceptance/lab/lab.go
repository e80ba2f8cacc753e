// Package lab runs the built command as a user does, for tests of whole
// kernels: in directories of their own, with cells built before, and with
// nothing left behind.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	buildWithin   = 10 * time.Minute
	commandWithin = time.Minute
	maxOutput     = 4 << 20 // bytes kept of what a command writes
)

// A Lab is a directory with the programs under test. Its methods are not for
// concurrent use.
type Lab struct {
	Repo    string // the working tree that is tested
	Dir     string // everything the lab writes; no symbolic link leads there
	Command string // the built cellkernel

	kernels []*Kernel
	count   int
	mesh    []byte // the secret of its sites; nil until there is one
}

// New makes a lab under a new directory and builds the command and the cells
// of the acceptance tests. repo is the root of the module.
func New(ctx context.Context, repo string) (*Lab, error) {
	dir, err := os.MkdirTemp("", "accept-")
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	l := &Lab{Repo: repo, Dir: dir, Command: filepath.Join(dir, "bin", "cellkernel")}
	if err := os.Mkdir(l.Runtime(), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make lab: %w", err), l.Close())
	}
	for _, pkg := range []string{
		"cmd/cellkernel", "examples/hello/greeter", "examples/hello/visitor", "examples/acceptance/cells/target",
		"examples/acceptance/cells/target2", "examples/acceptance/cells/load", "examples/acceptance/cells/nasty",
		"examples/acceptance/cells/rogue", "examples/acceptance/plugins/transport-uds",
		"examples/acceptance/cells/echo", "examples/acceptance/cells/caller",
		"examples/acceptance/cells/burner", "examples/acceptance/cells/payer",
	} {
		if err := l.Build(ctx, pkg); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Runtime is the directory in which the lab's kernels keep their sockets, so
// that they meet no other kernel of this user.
func (l *Lab) Runtime() string { return filepath.Join(l.Dir, "run") }

// Bin returns the path of a built program.
func (l *Lab) Bin(name string) string { return filepath.Join(l.Dir, "bin", name) }

// Build builds a package of the working tree, statically, under its last name.
func (l *Lab) Build(ctx context.Context, pkg string) error {
	ctx, cancel := context.WithTimeout(ctx, buildWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", l.Bin(filepath.Base(pkg)), "./"+pkg)
	cmd.Dir, cmd.Env = l.Repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// Close kills whatever still runs out of the lab's directory and removes it.
func (l *Lab) Close() error {
	for _, k := range l.kernels {
		k.kill()
	}
	for range 50 {
		left, err := l.Processes()
		if err != nil || len(left) == 0 {
			break
		}
		for _, p := range left {
			p.kill()
		}
		time.Sleep(20 * time.Millisecond) // the end of a process that is no child is no event
	}
	return os.RemoveAll(l.Dir)
}

// environ is the environment of all commands.
func (l *Lab) environ() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CELLKERNEL_") && !strings.HasPrefix(e, "XDG_RUNTIME_DIR=") {
			env = append(env, e)
		}
	}
	return append(env, "XDG_RUNTIME_DIR="+l.Runtime(), "NO_COLOR=1")
}

// A Result is how a command ended.
type Result struct {
	Code           int
	Stdout, Stderr string
	Took           time.Duration
}

// Run runs the command in dir until it ends, at most a minute. An exit code is
// no error.
func (l *Lab) Run(ctx context.Context, dir string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	return l.Exec(ctx, dir, l.Command, args...)
}

// RunAsNobody is Run as a user who may read what everybody may and owns
// nothing, if we are root; else we are such a user ourselves.
func (l *Lab) RunAsNobody(ctx context.Context, dir string, args ...string) (Result, error) {
	const nobody = 65534
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.Command, args...)
	if os.Geteuid() == 0 {
		if err := os.Chmod(l.Dir, 0o711); err != nil { // so that it finds the command
			return Result{}, fmt.Errorf("run as nobody: %w", err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return l.execute(ctx, dir, l.environ(), cmd)
}

// Exec is Run for any program and any time.
func (l *Lab) Exec(ctx context.Context, dir, program string, args ...string) (Result, error) {
	return l.execute(ctx, dir, l.environ(), exec.CommandContext(ctx, program, args...))
}

func (l *Lab) execute(ctx context.Context, dir string, env []string, cmd *exec.Cmd) (Result, error) {
	var stdout, stderr tail
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 15 * time.Second
	begin := time.Now()
	err := cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(begin)}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.Code, err = exit.ExitCode(), nil
	}
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return r, fmt.Errorf("run %s %s: %w\n%s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err, r.Stderr)
	}
	return r, nil
}

// Write makes a new directory with a genome.toml and returns the directory.
// In the text, BIN stands for the directory of the built programs.
func (l *Lab) Write(name, genome string) (dir string, err error) {
	l.count++
	dir = filepath.Join(l.Dir, fmt.Sprintf("%s-%d", name, l.count))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("write genome: %w", err)
	}
	return dir, l.Rewrite(dir, genome)
}

// Rewrite replaces the genome.toml of a directory.
func (l *Lab) Rewrite(dir, genome string) error {
	text := strings.ReplaceAll(genome, "BIN", filepath.Join(l.Dir, "bin"))
	if err := os.WriteFile(filepath.Join(dir, "genome.toml"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write genome: %w", err)
	}
	return nil
}

// A tail keeps the last bytes written to it.
type tail struct {
	mu    sync.Mutex // guards all below
	b     []byte
	watch map[chan struct{}]string // closed when the text has come
}

var _ io.Writer = (*tail)(nil)

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > maxOutput {
		t.b = append(t.b[:0], t.b[len(t.b)-maxOutput/2:]...)
	}
	for c, text := range t.watch {
		if bytes.Contains(t.b, []byte(text)) {
			delete(t.watch, c)
			close(c)
		}
	}
	return len(p), nil
}

// saw returns a channel that is closed once text was written.
func (t *tail) saw(text string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(chan struct{})
	if bytes.Contains(t.b, []byte(text)) {
		close(c)
		return c
	}
	if t.watch == nil {
		t.watch = map[chan struct{}]string{}
	}
	t.watch[c] = text
	return c
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// Chroot is Exec with another root directory and an empty environment. It
// needs root.
func (l *Lab) Chroot(ctx context.Context, root, program string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{"HOME=/tmp"}, &stdout, &stderr
	cmd.WaitDelay = 15 * time.Second
	err := cmd.Run()
	r := Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, fmt.Errorf("run %s in %s: %w", program, root, err)
	}
	return r, nil
}
