package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/genome"
)

// maxStack is how many kernels one devstack may have.
const maxStack = 32

// stackMesh is the mesh of a devstack. Its secret is made anew each time.
const stackMesh = "devstack"

type devstackFlags struct {
	nodes int
	sdk   string
}

func (a *app) devstackCommand() *cobra.Command {
	var f devstackFlags
	cmd := &cobra.Command{
		Use:   "devstack [GENOME]",
		Short: "Run a throwaway mesh of several kernels on this machine",
		Long: `Devstack starts kernels that all run the same genome.toml, in a mesh of their own that ends with them. They
find each other by a lighthouse and call each other by quic, all on 127.0.0.1. Every node runs every
service, and listens for the others; jobs run on the first node only. Without a GENOME it is what
"cellkernel init" writes. Logs of all nodes come together. Ctrl-C ends and removes everything, a second one
kills.`,
		Example: "  cellkernel devstack --nodes 3\n  cellkernel devstack --nodes 2 examples/hello/genome.toml",
		Args:    args(0, 1),
		RunE: func(cmd *cobra.Command, words []string) error {
			if f.nodes < 1 || f.nodes > maxStack {
				return usage(fmt.Errorf("read flag --nodes: want 1 to %d, got %d", maxStack, f.nodes))
			}
			return a.devstack(cmd.Context(), f, words)
		},
	}
	cmd.Flags().IntVar(&f.nodes, "nodes", 2, "how many kernels")
	cmd.Flags().StringVar(&f.sdk, "sdk", "", "without a GENOME: use the sdk of this checkout instead of a released one")
	return cmd
}

// A stack is a mesh of child processes.
type stack struct {
	a     *app
	base  string // all that is on disk
	light string // address of the lighthouse

	mu    sync.Mutex // guards writes to the terminal
	ended chan error // a child has ended
	procs []child    // the lighthouse is the first
}

// A child is a process of a stack.
type child struct {
	*exec.Cmd
	gone chan struct{} // closed when it has ended and all it wrote is shown
}

func (a *app) devstack(ctx context.Context, f devstackFlags, words []string) (err error) {
	runtime.LockOSThread() // it lives as long as this function, and so do the children it starts
	defer runtime.UnlockOSThread()
	base, err := os.MkdirTemp("", "ckdev")
	if err != nil {
		return fmt.Errorf("make devstack: %w", err)
	}
	s := &stack{a: a, base: base, ended: make(chan error, f.nodes+1)}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	defer s.end()
	file := filepath.Join(base, "app", "genome.toml")
	if len(words) == 1 {
		file, err = manifestAt(words[0])
	} else {
		err = a.initDir(ctx, filepath.Dir(file), initFlags{module: "devstack", sdk: f.sdk})
	}
	if err != nil {
		return err
	}
	g, _, err := load(admin.Plan{File: file, Environ: settingsOf(os.Environ())})
	if err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	ready := make(chan struct{}, f.nodes)
	for i := range f.nodes {
		if err := s.node(i+1, file, g, ready); err != nil {
			return err
		}
	}
	return s.watch(ctx, f.nodes, ready)
}

// begin makes the mesh and starts the lighthouse.
func (s *stack) begin(ctx context.Context) error {
	if err := os.Mkdir(s.keys(), 0o700); err != nil {
		return err
	}
	if out, err := s.command(ctx, "mesh", "create", stackMesh).CombinedOutput(); err != nil {
		return fmt.Errorf("make mesh: %w: %s", err, out)
	}
	at := make(chan string, 1)
	err := s.start("lighthouse", s.command(context.WithoutCancel(ctx), "lighthouse", "--listen", "127.0.0.1:0"), func(line string) {
		var said struct{ Msg, Address string }
		if json.Unmarshal([]byte(line), &said) == nil && said.Address != "" {
			select {
			case at <- said.Address:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	select {
	case s.light = <-at:
		return nil
	case err := <-s.ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keys is where the mesh is. Sockets are where those of all kernels are: their
// addresses have to be short.
func (s *stack) keys() string { return filepath.Join(s.base, "keys") }

// command is this program again, with the keys of the stack.
func (s *stack) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CELLKERNEL_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "CELLKERNEL_HOME="+s.keys())
	// An interrupt from the terminal is for us: we pass it on, once. If we are
	// killed the kernel tells the child, as soon as the thread is gone that started
	// it: see devstack.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// node starts a kernel. Its own genome is empty: the one that was named lies
// over it, so that paths in that keep their meaning, and what must be of this
// node alone comes last.
func (s *stack) node(i int, file string, g *genome.Genome, ready chan<- struct{}) error {
	name := fmt.Sprintf("node%d", i)
	dir := filepath.Join(s.base, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	own := filepath.Join(dir, "genome.toml")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		return err
	}
	args := []string{"up", own, "--overlay", file}
	set := func(format string, words ...any) { args = append(args, "--set", fmt.Sprintf(format, words...)) }
	set("kernel.node=%q", name)
	set("kernel.mesh=%q", stackMesh)
	set("kernel.metrics=%q", "") // all nodes would serve at one address
	set("golgi.listen=%q", "127.0.0.1:0")
	set("golgi.transports=%s", `["uds", "quic"]`)
	set("golgi.discovery=%s", `["lighthouse"]`)
	set("plugins.discovery-lighthouse.servers=[%q]", s.light)
	set("workspace.main=%q", "") // a job that ends must not end its node
	services := []string{}
	for cell, c := range g.Cells {
		if c.Job {
			continue
		}
		services = append(services, string(cell))
		if !c.Ready.Probe() { // others do not speak the sdk
			set("cells.%s.listen=true", cell)
		}
	}
	if i > 1 && len(services) > 0 {
		args = append(args, services...)
	}
	cmd := s.command(context.Background(), args...)
	cmd.Dir = dir
	var once sync.Once
	return s.start(name, cmd, func(line string) {
		if strings.HasPrefix(line, "ready ") {
			once.Do(func() { ready <- struct{}{} })
		}
	})
}

// start starts a child and shows what it writes, line by line, each of which
// heard gets as well.
func (s *stack) start(name string, cmd *exec.Cmd, heard func(line string)) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return fmt.Errorf("start %s: %w", name, err)
	}
	c := child{cmd, make(chan struct{})}
	s.procs = append(s.procs, c)
	go func() {
		defer close(c.gone)
		defer r.Close()
		s.show(name, r, heard)
		err := cmd.Wait()
		if err == nil {
			err = errors.New("it has ended")
		}
		s.ended <- fmt.Errorf("run %s: %w", name, err)
	}()
	return nil
}

func (s *stack) show(name string, r io.Reader, heard func(string)) {
	head := paint(colourful(s.a.stderr), colourOf(name), fmt.Sprintf("%-10s |", name))
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimRight(line, "\n"); line != "" {
			heard(line)
			s.say("%s %s", head, printable(line))
		}
		if err != nil {
			return
		}
	}
}

func (s *stack) say(format string, words ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.a.stderr, format+"\n", words...)
}

// watch says where the nodes are when all are ready, and waits for the end.
func (s *stack) watch(ctx context.Context, nodes int, ready <-chan struct{}) error {
	for {
		select {
		case <-ready:
			if nodes--; nodes == 0 {
				s.say("\nall nodes are ready; Ctrl-C ends and removes them. In another terminal:")
				for _, cmd := range s.procs[1:] {
					s.say("  cellkernel peers --genome %s", cmd.Dir)
				}
				s.say("")
			}
		case err := <-s.ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// end ends all children, by force when a second interrupt comes. The lighthouse
// is the last, so that the kernels can say goodbye.
func (s *stack) end() {
	if len(s.procs) == 0 {
		return
	}
	s.endAll(s.procs[1:])
	s.endAll(s.procs[:1])
}

func (s *stack) endAll(list []child) {
	for _, c := range list {
		_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, c := range list {
		select {
		case <-c.gone:
		case <-s.a.kill:
			_ = c.Process.Kill() // the same
			<-c.gone
		}
	}
}
