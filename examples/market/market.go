package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	mesh        = "market"
	readyWithin = 5 * time.Minute // a first build included
	jobWithin   = 5 * time.Minute
)

// A market is two nodes and what they need to find each other.
type market struct {
	checkout string
	dir      string // all that is on disk
	light    *exec.Cmd
	address  string // of the lighthouse
	nodes    []*node
}

// A node is a directory with a genome, and the kernel that runs it.
type node struct {
	m   *market
	dir string
}

// openMarket builds the command, makes the mesh and starts the lighthouse.
func openMarket(ctx context.Context) (*market, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, fmt.Errorf("find the checkout: %w", err)
	}
	dir, err := os.MkdirTemp("", "ckmarket")
	if err != nil {
		return nil, err
	}
	m := &market{checkout: strings.TrimSpace(string(out)), dir: dir}
	build := exec.CommandContext(ctx, "go", "build", "-o", m.binary(), "./cmd/cellkernel")
	build.Dir = m.checkout
	if text, err := build.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("build cellkernel: %w: %s", err, text), m.close())
	}
	for _, sub := range []string{"home", "run"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, errors.Join(err, m.close())
		}
	}
	if _, err := m.command(ctx, dir, "mesh", "create", mesh); err != nil {
		return nil, errors.Join(err, m.close())
	}
	if err := m.lighthouse(); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *market) binary() string { return filepath.Join(m.dir, "cellkernel") }

// source is the directory of one of this example's cells.
func (m *market) source(cell string) string {
	return filepath.Join(m.checkout, "examples", "market", cell)
}

// environ has nothing of the user's own meshes and kernels.
func (m *market) environ() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CELLKERNEL_") {
			env = append(env, v)
		}
	}
	return append(env, "CELLKERNEL_HOME="+filepath.Join(m.dir, "home"), "XDG_RUNTIME_DIR="+filepath.Join(m.dir, "run"), "NO_COLOR=1")
}

// command runs the command to its end and returns its standard output.
func (m *market) command(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.binary(), args...)
	cmd.Dir, cmd.Env = dir, m.environ()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cellkernel %s: %w\n%s%s", words(args), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func words(args []string) string { return strings.Join(args, " ") }

// lighthouse starts the server by which the nodes find each other, and learns
// where it listens from its first line.
func (m *market) lighthouse() error {
	m.light = exec.Command(m.binary(), "lighthouse", "--listen", "127.0.0.1:0")
	m.light.Env = m.environ()
	r, err := m.light.StderrPipe()
	if err != nil {
		return err
	}
	if err := m.light.Start(); err != nil {
		return fmt.Errorf("start the lighthouse: %w", err)
	}
	lines := bufio.NewScanner(r)
	for m.address == "" && lines.Scan() {
		var said struct{ Address string }
		if json.Unmarshal(lines.Bytes(), &said) == nil {
			m.address = said.Address
		}
	}
	if m.address == "" {
		return errors.New("start the lighthouse: it does not say where it listens")
	}
	go func() { _, _ = io.Copy(io.Discard, r) }() // ends with the process
	return nil
}

// node starts a kernel and returns when all its services are ready.
func (m *market) node(ctx context.Context, name, cells string, flags ...string) (*node, error) {
	n := &node{m, filepath.Join(m.dir, name)}
	genome := fmt.Sprintf(`[kernel]
mesh = %q
node = %q

[golgi]
listen    = "127.0.0.1:0"
discovery = ["lighthouse"]
ledger    = "json"
billing   = "cgroup"

[plugins.discovery-lighthouse]
servers = [%q]
beat    = "500ms"

%s`, mesh, name, m.address, cells)
	err := os.Mkdir(n.dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(n.dir, "genome.toml"), []byte(genome), 0o600)
	}
	if err != nil {
		return nil, err
	}
	m.nodes = append(m.nodes, n)
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	_, err = n.run(ctx, append([]string{"up", "-d"}, flags...)...)
	return n, err
}

// run runs a command about this node.
func (n *node) run(ctx context.Context, args ...string) (string, error) {
	return n.m.command(ctx, n.dir, args...)
}

// jobEnds waits until a job is done.
func (n *node) jobEnds(ctx context.Context, job string) error {
	ctx, cancel := context.WithTimeout(ctx, jobWithin)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := n.run(ctx, "status", "-o", "json")
		var s struct {
			Cells []struct{ Name, State, Detail string }
		}
		if uerr := json.Unmarshal([]byte(out), &s); uerr != nil && err == nil {
			err = uerr
		}
		if err != nil {
			return err
		}
		for _, c := range s.Cells {
			if c.Name == job && c.State == "done" {
				return nil
			}
			if c.Name == job && (c.State == "failed" || c.State == "crashloop") {
				return fmt.Errorf("job %s: %s: %s", job, c.State, c.Detail)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("job %s does not end: %w", job, ctx.Err())
		}
	}
}

// close ends everything, whatever has become of ctx, and removes it.
func (m *market) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for i := len(m.nodes) - 1; i >= 0; i-- {
		if _, err := m.nodes[i].run(ctx, "down"); err != nil {
			errs = append(errs, err)
		}
	}
	if m.light != nil && m.light.Process != nil {
		_ = m.light.Process.Kill() // it may be gone
		_ = m.light.Wait()         // its state says nothing new
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}
