package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	readyWithin = 60 * time.Second
	downWithin  = 30 * time.Second
	readyLine   = "ready     node" // of "cellkernel up", when everything is
	maxTail     = 16 << 10         // bytes kept of what a kernel wrote, for its error
)

// A kernel is one "cellkernel up" on a machine.
type kernel struct {
	s     *stage
	on    machine
	dir   string
	cmd   *exec.Cmd
	ready chan struct{} // closed at readyLine
	ended chan struct{} // closed when the process has ended
	tail  []byte        // what it wrote last; to be read when ended is closed
}

// boot starts a kernel with this genome. What it and its cells print goes to
// out, from where the kernel is ready, unless out is nil.
func (s *stage) boot(on machine, cells string, stdout, stderr io.Writer) (*kernel, error) {
	k := &kernel{s: s, on: on, dir: filepath.Join(s.dir, on.name), ready: make(chan struct{}), ended: make(chan struct{})}
	genome := fmt.Sprintf("[kernel]\nnode = %q\nmesh = %q\n\n[golgi]\nlisten    = %q\ndiscovery = %s\n\n%s", on.name, meshName, on.listen(), on.discovery, cells)
	if err := os.Mkdir(k.dir, 0o700); err != nil {
		return nil, fmt.Errorf("boot %s: %w", on.name, err)
	}
	if err := os.WriteFile(filepath.Join(k.dir, "genome.toml"), []byte(genome), 0o600); err != nil {
		return nil, fmt.Errorf("boot %s: %w", on.name, err)
	}
	k.cmd = exec.Command(s.bin("cellkernel"), "up")
	k.cmd.Dir, k.cmd.Env, k.cmd.Stdout = k.dir, s.environ(), stdout
	r, w := io.Pipe()
	k.cmd.Stderr = w
	if err := on.start(k.cmd); err != nil {
		return nil, fmt.Errorf("boot %s: %w", on.name, err)
	}
	s.kernels = append(s.kernels, k)
	read := make(chan struct{})
	go func() { defer close(read); k.listen(r, stderr) }()
	go func() {
		_ = k.cmd.Wait() // ProcessState says it
		w.Close()
		<-read
		close(k.ended)
	}()
	return k, nil
}

// listen reads what the kernel says on standard error.
func (k *kernel) listen(r io.Reader, to io.Writer) {
	lines := bufio.NewReader(r)
	isReady := false
	for {
		line, err := lines.ReadString('\n')
		if isReady && to != nil {
			_, _ = io.WriteString(to, line) // a display
		}
		if k.tail = append(k.tail, line...); len(k.tail) > maxTail {
			k.tail = k.tail[len(k.tail)-maxTail:]
		}
		if !isReady && strings.Contains(line, readyLine) {
			isReady = true
			close(k.ready)
		}
		if err != nil {
			return // the end of the process
		}
	}
}

// await waits until the kernel is ready.
func (k *kernel) await(ctx context.Context) error {
	late := time.NewTimer(readyWithin)
	defer late.Stop()
	select {
	case <-k.ready:
		return nil
	case <-k.ended:
		return k.failed()
	case <-late.C:
		return fmt.Errorf("boot %s: not ready within %s", k.on.name, readyWithin)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end waits for the end of the kernel, which is that of its main job.
func (k *kernel) end(ctx context.Context) error {
	select {
	case <-k.ended:
		if !k.cmd.ProcessState.Success() {
			return k.failed()
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *kernel) failed() error {
	return fmt.Errorf("kernel %s: %s\n%s", k.on.name, k.cmd.ProcessState, k.tail)
}

// down ends the kernel as a service manager does.
func (k *kernel) down() error {
	select {
	case <-k.ended:
		return nil
	default:
	}
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end kernel %s: %w", k.on.name, err)
	}
	late := time.AfterFunc(downWithin, func() { _ = k.cmd.Process.Kill() }) // ended tells
	defer late.Stop()
	<-k.ended
	return nil
}
