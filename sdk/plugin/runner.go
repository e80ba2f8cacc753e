package plugin

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pipeGrace is how long a plugin's pipes are read after its process ended:
// something it started may hold them open.
const pipeGrace = time.Second

// A runner is how go-plugin runs our process. It sees neither the process nor
// its pipes: of standard output it gets the one handshake line, of standard
// error nothing, because go-plugin panics on some lines of JSON.
type runner struct {
	launch Launch
	cmd    Command
	dir    string // the only directory whose sockets are dialled
	log    sink
	tail   tail

	pid     atomic.Int64
	greeted atomic.Bool // the handshake line was seen
	mu      sync.Mutex  // guards proc and killed
	proc    Process
	killed  bool
	exited  chan struct{} // closed once err is set
	err     error
	pipes   sync.WaitGroup

	handR, errR *io.PipeReader // what go-plugin reads
	handW, errW *io.PipeWriter
}

func newRunner(launch Launch, cmd Command, dir string, log sink) *runner {
	r := &runner{launch: launch, cmd: cmd, dir: dir, log: log, exited: make(chan struct{})}
	r.handR, r.handW = io.Pipe()
	r.errR, r.errW = io.Pipe()
	return r
}

// Start launches the process and everything that reads from it.
func (r *runner) Start(ctx context.Context) error {
	proc, err := r.launch(ctx, r.cmd)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.proc = proc
	killed := r.killed
	r.mu.Unlock()
	r.pid.Store(int64(proc.PID()))
	r.pipes.Go(func() { r.readStdout(proc.Stdout()) })
	r.pipes.Go(func() { readLines(proc.Stderr(), r.line) })
	go r.wait(proc)
	if killed {
		return proc.Kill()
	}
	return nil
}

func (r *runner) line(b []byte) {
	r.tail.add(b)
	r.log.give(b)
}

// readStdout passes the handshake on and logs all other lines: an init
// function that prints must not break a plugin.
func (r *runner) readStdout(stdout io.Reader) {
	found := false
	readLines(stdout, func(line []byte) {
		if found || !isHandshake(line) {
			r.line(line)
			return
		}
		found = true
		r.greeted.Store(true)
		// Nobody reads once go-plugin gave up; wait closes the pipe then.
		_, _ = r.handW.Write(append(line, '\n'))
	})
}

// isHandshake recognises "1|1|unix|/path|grpc|".
func isHandshake(line []byte) bool {
	parts := strings.Split(string(line[:min(len(line), 1024)]), "|")
	if len(parts) < 5 || len(line) > 1024 {
		return false
	}
	_, err := strconv.Atoi(parts[0])
	return err == nil
}

// wait is where the death of a plugin is noticed.
func (r *runner) wait(proc Process) {
	r.err = proc.Wait()
	read := make(chan struct{})
	go func() {
		r.pipes.Wait()
		close(read)
	}()
	r.handW.Close() // wakes a blocked writer, too
	timer := time.NewTimer(pipeGrace)
	defer timer.Stop()
	select {
	case <-read:
	case <-timer.C:
	}
	proc.Stdout().Close()
	proc.Stderr().Close()
	<-read
	r.errW.Close()
	close(r.exited)
}

// Wait blocks until the process has ended and its output was read.
func (r *runner) Wait(context.Context) error {
	<-r.exited
	return r.err
}

// Kill ends the process. It never kills a stranger: a process that has been
// waited for is left alone. A process that is about to start ends at once.
func (r *runner) Kill(context.Context) error {
	select {
	case <-r.exited:
		return nil
	default:
	}
	r.mu.Lock()
	r.killed = true
	proc := r.proc
	r.mu.Unlock()
	if proc == nil {
		return nil
	}
	return proc.Kill()
}

// settle waits, after Kill, until the last words of the process are read. It
// does not wait for a process that can not be killed, or never was.
func (r *runner) settle() {
	r.mu.Lock()
	proc := r.proc
	r.mu.Unlock()
	if proc == nil {
		return
	}
	timer := time.NewTimer(2 * pipeGrace)
	defer timer.Stop()
	select {
	case <-r.exited:
	case <-timer.C:
	}
}

// PluginToHost refuses every address but a socket in the private directory.
func (r *runner) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" || !filepath.IsAbs(addr) || filepath.Clean(addr) != addr || filepath.Dir(filepath.Dir(addr)) != r.dir {
		return "", "", fmt.Errorf("it serves on %.20q %.120q: want a Unix socket in $PLUGIN_UNIX_SOCKET_DIR", network, addr)
	}
	return network, addr, nil
}

// HostToPlugin is the identity: both see one file system.
func (r *runner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// Stdout is what go-plugin may see of standard output.
func (r *runner) Stdout() io.ReadCloser { return r.handR }

// Stderr is empty and ends with the process.
func (r *runner) Stderr() io.ReadCloser { return r.errR }

// Name is for go-plugin's own messages.
func (r *runner) Name() string { return r.cmd.Name }

// ID is the process number.
func (r *runner) ID() string { return strconv.FormatInt(r.pid.Load(), 10) }

// Diagnose has nothing to add; [Start] says it better.
func (r *runner) Diagnose(context.Context) string { return "" }
