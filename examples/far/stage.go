package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cellkernel/cellkernel/examples/netlab"
)

// meshName is the throwaway mesh.
const meshName = "far"

// A stage is a directory with the built programs and a mesh, and two machines.
type stage struct {
	what      string // for people: what the machines are
	dir       string
	lab       *netlab.Lab // nil: loopback addresses
	near, far machine
	kernels   []*kernel
	servers   []*server
}

// A machine is where a kernel runs.
type machine struct {
	name      string
	ip        string
	port      int // of its kernel
	host      *netlab.Host
	discovery string // of its genome
}

// listen is the machine's golgi.listen.
func (m machine) listen() string { return net.JoinHostPort(m.ip, fmt.Sprint(m.port)) }

// start starts a program on the machine.
func (m machine) start(cmd *exec.Cmd) error {
	if m.host != nil {
		return m.host.Start(cmd)
	}
	// As in a lab: nothing outlives this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Start()
}

// axon returns the address by which the other machine reaches a cell of m:
// its name, where machines find each other.
func (m machine) axon(cell string) string {
	if m.host != nil {
		return "axon://" + cell
	}
	return "axon://" + m.listen() + "/" + cell
}

// setStage makes everything that all acts need.
func setStage(ctx context.Context, loopback bool) (_ *stage, err error) {
	s := new(stage)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "far-"); err == nil {
		s.dir, err = filepath.EvalSymlinks(s.dir)
	}
	if err != nil {
		return s, fmt.Errorf("set stage: %w", err)
	}
	if err := s.makeMesh(); err != nil {
		return s, err
	}
	if err := s.build(ctx, "cmd/cellkernel"); err != nil {
		return s, err
	}
	return s, s.makeMachines(loopback)
}

// makeMesh makes both machines members: they share the directory in which the
// mesh secret is, as the kernels of one user do. Machines of their own share
// it by "cellkernel invite" and "cellkernel join".
func (s *stage) makeMesh() error {
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return fmt.Errorf("make mesh: %w", err)
	}
	dir := filepath.Join(s.home(), meshName)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Mkdir(s.runtime(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "mesh.key"), secret[:], 0o600)
	}
	if err != nil {
		return fmt.Errorf("make mesh: %w", err)
	}
	return nil
}

func (s *stage) home() string    { return filepath.Join(s.dir, "home") }
func (s *stage) runtime() string { return filepath.Join(s.dir, "run") } // sockets

// makeMachines opens a lab, or says why there is none.
func (s *stage) makeMachines(loopback bool) error {
	why := errors.New("as asked for")
	if !loopback {
		var err error
		if s.lab, err = netlab.Open(); err == nil {
			return s.makeHosts()
		} else if !errors.Is(err, netlab.ErrUnavailable) {
			return err
		}
		why = err
	}
	s.what = fmt.Sprintf("127.0.0.1 and 127.0.0.2, configured and not discovered (%v)", why)
	for i, m := range []*machine{&s.near, &s.far} {
		*m = machine{name: []string{"near", "far"}[i], ip: fmt.Sprintf("127.0.0.%d", i+1), discovery: "[]"}
		// Whoever takes the port meanwhile makes the boot fail, which says so.
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(m.ip)})
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		m.port = c.LocalAddr().(*net.UDPAddr).Port
		c.Close()
	}
	return nil
}

func (s *stage) makeHosts() error {
	for i, m := range []*machine{&s.near, &s.far} {
		h, err := s.lab.Host([]string{"near", "far"}[i], netlab.V4)
		if err != nil {
			return err
		}
		*m = machine{name: h.Name, ip: h.Addr(netlab.V4).String(), port: 9000, host: h, discovery: `["multicast"]`}
	}
	s.what = fmt.Sprintf("network namespaces on a switch, %s and %s, that find each other by multicast", s.near.ip, s.far.ip)
	return nil
}

// build builds programs of this module, statically.
func (s *stage) build(ctx context.Context, packages ...string) error {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	args := []string{"build", "-o", filepath.Join(s.dir, "bin") + string(filepath.Separator)}
	for _, p := range packages {
		args = append(args, "./"+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env, cmd.Stderr = filepath.Dir(strings.TrimSpace(string(mod))), append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", strings.Join(packages, ", "), err)
	}
	return nil
}

func (s *stage) bin(name string) string { return filepath.Join(s.dir, "bin", name) }

// environ is the environment of what runs on the stage.
func (s *stage) environ() []string {
	env := []string{"CELLKERNEL_HOME=" + s.home(), "XDG_RUNTIME_DIR=" + s.runtime()}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CELLKERNEL_") && !strings.HasPrefix(v, "XDG_RUNTIME_DIR=") {
			env = append(env, v)
		}
	}
	return env
}

// close ends what runs and removes everything.
func (s *stage) close() error {
	var errs []error
	for _, k := range s.kernels {
		errs = append(errs, k.down())
	}
	for _, v := range s.servers {
		v.end()
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
