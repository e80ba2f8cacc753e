package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cellkernel/cellkernel/examples/netlab"
)

// MeshName is the mesh in which the sites of a lab are, unless they are
// strangers.
const MeshName = "lab"

// A Site is a host of a network lab with a home directory of its own, on which
// kernels run one after the other. What a node keeps, its keys above all, stays
// there from one kernel to the next.
type Site struct {
	Host *netlab.Host
	Dir  string // of its genome.toml

	lab       *Lab
	home, run string // CELLKERNEL_HOME and XDG_RUNTIME_DIR
}

// NewSite makes a site on a host. Sites with the same secret, 32 bytes, are in
// one mesh; nil is that of the lab.
func (l *Lab) NewSite(host *netlab.Host, secret []byte) (*Site, error) {
	if secret == nil {
		secret = l.secret()
	}
	dir, err := l.Write(host.Name, "")
	if err != nil {
		return nil, err
	}
	// Addresses of sockets are short: /tmp/accept-NNN/xN.
	s := &Site{Host: host, Dir: dir, lab: l, home: filepath.Join(dir, "home"), run: filepath.Join(l.Dir, fmt.Sprintf("x%d", l.count))}
	mesh := filepath.Join(s.home, MeshName)
	err = errors.Join(os.MkdirAll(mesh, 0o700), os.Mkdir(s.run, 0o700), os.WriteFile(filepath.Join(mesh, "mesh.key"), secret, 0o600))
	if err != nil {
		return nil, fmt.Errorf("make site %q: %w", host.Name, err)
	}
	return s, nil
}

// secret is that of the lab's mesh.
func (l *Lab) secret() []byte {
	if l.mesh == nil {
		l.mesh = NewSecret()
	}
	return l.mesh
}

// NewSecret makes the secret of a mesh.
func NewSecret() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: see package crypto/rand
	return b
}

// Exec starts a kernel with the genome and waits for nothing.
func (s *Site) Exec(genome string) (*Kernel, error) {
	if err := s.lab.Rewrite(s.Dir, genome); err != nil {
		return nil, err
	}
	return s.lab.begin(s, s.Dir)
}

// Boot starts a kernel with the genome and waits until all is ready.
func (s *Site) Boot(ctx context.Context, genome string) (*Kernel, error) {
	k, err := s.Exec(genome)
	if err != nil {
		return nil, err
	}
	return k, k.Ready(ctx)
}

// environ is the environment of a command at the site; nil is this machine.
func (s *Site) environ(l *Lab) []string {
	env := l.environ()
	if s == nil {
		return env
	}
	// Of two values of one name the last counts.
	return append(env, "CELLKERNEL_HOME="+s.home, "XDG_RUNTIME_DIR="+s.run)
}

func (s *Site) start(cmd *exec.Cmd) error {
	if s == nil {
		return cmd.Start()
	}
	return s.Host.Start(cmd)
}
