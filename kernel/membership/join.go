package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/kernel/identity"
	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

const (
	joinDial = 5 * time.Second // for one attempt to connect to an inviter
	joinEnd  = 2 * time.Second // for an inviter to close
)

// JoinOptions are what a join needs besides the invitation. All but Mesh,
// Replace and Trying are required.
type JoinOptions struct {
	Mesh    sdk.CellName // what the mesh is called here; empty: as the inviter calls it
	Node    sdk.CellName // who joins
	Replace bool         // also in the place of another mesh
	// Self is the program, and Bundled returns the arguments by which it serves
	// a bundled plugin.
	Self    *os.File
	Bundled func(kind sdk.Kind, use string) (args []string, ok bool)
	// Trying is told each address before it is dialled; nil is nobody.
	Trying func(addr string)
}

// Join asks for the secret of the mesh that an invitation leads to, at each of
// its addresses in turn, and stores it. No kernel is needed: the transport is
// opened for this alone. Where there is a mesh of that name already the error
// is fs.ErrExist, and the invitation is still good.
func Join(ctx context.Context, code string, o JoinOptions) (*admin.Identity, error) {
	inv, err := identity.ParseInvitation(code)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	if o.Mesh == "" {
		o.Mesh = inv.Mesh
	}
	m, err := Open(o.Mesh, o.Node, "")
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if old, err := m.store.Mesh(); err == nil && !o.Replace {
		return nil, fmt.Errorf("join mesh %q: %s has the secret of mesh %s: %w", o.Mesh, m.store.Path(), ShortID(old), fs.ErrExist)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	self, err := m.store.Identity(o.Node)
	if err != nil {
		return nil, err
	}
	defer self.Wipe()
	mesh, err := ask(ctx, inv, self, o)
	if err != nil {
		return nil, err
	}
	defer mesh.Wipe()
	if err := m.store.SetMesh(mesh); err != nil {
		return nil, err
	}
	return Describe(m.store, self, mesh, o.Mesh, o.Node), nil
}

// ask tries the addresses of an invitation until one answers.
func ask(ctx context.Context, inv identity.Invitation, self *identity.Identity, o JoinOptions) (*identity.Mesh, error) {
	t := transports{self: self, o: o, open: make(map[string]*plugin.Client)}
	defer t.close()
	var errs []error
	for _, addr := range inv.Addrs {
		if o.Trying != nil {
			o.Trying(addr.String())
		}
		mesh, err := askAt(ctx, &t, addr, inv, self)
		if err == nil {
			return mesh, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, identity.ErrJoin) {
			err = sdk.Errorf(sdk.CodeDenied, "%v", err)
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, joinError(errs)
}

// joinError is the error of a join: a refusal says more than an address at
// which nobody answers.
func joinError(errs []error) error {
	code := sdk.CodeUnavailable
	var said []string
	for _, err := range errs {
		said = append(said, err.Error())
		if sdk.CodeOf(err) == sdk.CodeDenied {
			code = sdk.CodeDenied
		}
	}
	return sdk.Errorf(code, "%s", strings.Join(said, "; "))
}

func askAt(ctx context.Context, t *transports, addr sdk.Addr, inv identity.Invitation, self *identity.Identity) (*identity.Mesh, error) {
	conn, err := t.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	mesh, err := identity.Join(ctx, conn, self, inv)
	if err == nil {
		awaitEnd(conn)
	}
	return mesh, err
}

// awaitEnd waits until the other side has closed: the transport, which ends
// with this side, may hold our last word still.
func awaitEnd(conn net.Conn) {
	if conn.SetReadDeadline(time.Now().Add(joinEnd)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1)) // the mesh is ours whether or not the inviter knows
	}
}

// transports are the bundled transports that a join has opened.
type transports struct {
	self *identity.Identity
	o    JoinOptions
	open map[string]*plugin.Client // by scheme
}

func (t *transports) dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, joinDial, sdk.Errorf(sdk.CodeUnavailable, "nobody answers within %v", joinDial))
	defer cancel()
	c := t.open[addr.Scheme]
	if c == nil {
		var err error
		if c, err = t.start(ctx, addr.Scheme); err != nil {
			return nil, err
		}
		t.open[addr.Scheme] = c
	}
	tr, err := c.Transport()
	if err != nil {
		return nil, err
	}
	return tr.Dial(ctx, addr)
}

// start runs a bundled transport in a process of its own, as a kernel does.
func (t *transports) start(ctx context.Context, scheme string) (*plugin.Client, error) {
	args, ok := t.o.Bundled(sdk.KindTransport, scheme)
	if !ok {
		return nil, sdk.Errorf(sdk.CodeNotFound, "no transport %q is bundled", scheme)
	}
	secret := t.self.Subkey("join " + scheme)
	return plugin.Start(ctx, plugin.Command{Name: "transport-" + scheme, Path: "/proc/self/exe", Exe: t.o.Self, Args: args}, plugin.Options{
		Kind: plugin.KindTransport, Secret: secret[:],
		Certify: func(_ context.Context, spki []byte) ([]byte, error) {
			return t.self.CertifyTransport(spki, nil, time.Now())
		},
	})
}

func (t *transports) close() {
	ctx, cancel := context.WithTimeout(context.Background(), joinEnd)
	defer cancel()
	for _, c := range t.open {
		if c.Stop(ctx) != nil {
			c.Kill()
		}
	}
}
