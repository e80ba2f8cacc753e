// Package udstransport is the reference transport: Unix stream sockets. An
// address is the absolute path of a socket, "uds:///run/user/1000/a.sock".
// (In the terms of the biology: the gap junction.)
//
// It hands over the very sockets it dials and accepts, so the plugin is off
// the path once a link is open. Only processes of the same user get through:
// sockets have mode 0600 in a directory that nobody else may enter, and who
// connects is asked for from the operating system (SO_PEERCRED).
package udstransport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// maxPath is the longest path of a socket: sun_path of unix(7) without the
// final zero byte.
const maxPath = 107

// Plugin returns the transport "uds".
func Plugin() plugin.Plugin { return plugin.Transport("uds", DefaultConfig(), New) }

// A Transport dials and listens on Unix sockets.
type Transport struct {
	config Config
	log    *slog.Logger
}

// New opens the transport. It holds nothing until it listens.
func New(_ context.Context, config Config, host plugin.Host) (*Transport, error) {
	return &Transport{config: config, log: host.Log()}, nil
}

// Dial connects to the socket at addr.
func (t *Transport) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	path, err := pathOf(addr)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, os.ErrPermission):
		return nil, sdk.Errorf(sdk.CodeDenied, "connect to %q: permission denied: it belongs to another user", path)
	}
	return nil, sdk.Errorf(sdk.CodeUnavailable, "connect to %q: %v", path, cause(err))
}

// cause leaves out what net repeats: the operation and the address.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// Listen makes the socket at addr, and its directory if that is missing.
func (t *Transport) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	path, err := pathOf(addr)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := openPrivate(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// Looking for a stale socket and replacing it must be one step: the lock
	// is released with the descriptor.
	if err := lock(dir); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	l, err := t.bind(path)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "listen at %q: %v", path, cause(err))
	}
	return l, nil
}

func (t *Transport) bind(path string) (net.Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Nobody else can enter the directory between bind and chmod.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	if t.config.Backlog > 0 {
		if err := setBacklog(l, t.config.Backlog); err != nil {
			l.Close()
			return nil, err
		}
	}
	return &listener{UnixListener: l, log: t.log}, nil
}

// setBacklog calls listen again, which on Linux only changes the backlog.
func setBacklog(l *net.UnixListener, n int) error {
	rc, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) { inner = syscall.Listen(int(fd), n) })
	return errors.Join(err, inner)
}

// pathOf checks an address.
func pathOf(addr sdk.Addr) (string, error) {
	path := addr.Host
	switch {
	case addr.Scheme != "uds":
		return "", sdk.Errorf(sdk.CodeInvalid, "address %q: want the scheme uds", addr)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0):
		return "", sdk.Errorf(sdk.CodeInvalid, "address %q: want the clean absolute path of a socket", addr)
	case len(path) > maxPath:
		return "", sdk.Errorf(sdk.CodeInvalid, "path %q has %d bytes, a socket's can have %d: use a shorter directory", path, len(path), maxPath)
	}
	return path, nil
}

// openPrivate opens a directory of mode 0700 that is ours, and makes it if it
// is not there.
func openPrivate(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "make directory %q: %v", dir, cause(err))
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "open directory %q: %v", dir, cause(err))
	}
	info, err := f.Stat()
	if err == nil {
		owner := info.Sys().(*syscall.Stat_t).Uid // on Linux it is
		if int(owner) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("mode %v, owner %d: others may enter it: use `chmod 700`, or a directory of your own", info.Mode().Perm(), owner)
		}
	}
	if err != nil {
		f.Close()
		return nil, sdk.Errorf(sdk.CodeDenied, "directory %q: %v", dir, err)
	}
	return f, nil
}

func lock(dir *os.File) error {
	rc, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	// Whoever holds it does so for the blink of a dial to a local socket.
	err = rc.Control(func(fd uintptr) { inner = syscall.Flock(int(fd), syscall.LOCK_EX) })
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("lock directory %q: %w", dir.Name(), err)
	}
	return nil
}

// removeStale removes a socket of ours that nobody listens at. Whatever else
// is at path stays, and is an error.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "look at %q: %v", path, cause(err))
	}
	owner := info.Sys().(*syscall.Stat_t).Uid // on Linux it is
	if info.Mode().Type() != os.ModeSocket || int(owner) != os.Getuid() {
		return sdk.Errorf(sdk.CodeInvalid, "listen at %q: there is a file that is not a socket of ours", path)
	}
	// A datagram socket can not be connected to a stream socket, but how that
	// fails tells whether there is one, and nobody has to accept anything.
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixgram", path)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return sdk.Errorf(sdk.CodeInvalid, "listen at %q: address in use: another process has this socket", path)
	}
	if err := os.Remove(path); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "remove stale socket %q: %v", path, cause(err))
	}
	return nil
}

// A listener turns away who is not of our user.
type listener struct {
	*net.UnixListener
	log *slog.Logger
}

// Accept returns connections as they are, *net.UnixConn, so that they can be
// handed over.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		err = sameUser(c)
		if err == nil {
			return c, nil
		}
		c.Close()
		l.log.Warn("turned a connection away", "socket", l.Addr().String(), "error", err)
	}
}

func sameUser(c *net.UnixConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	var inner error
	err = rc.Control(func(fd uintptr) {
		cred, inner = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, inner); err != nil {
		return err
	}
	if int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("process %d belongs to user %d", cred.Pid, cred.Uid)
	}
	return nil
}
