package plugin

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/cellkernel/cellkernel/internal/procstat"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// peerCreds lets a gRPC connection over a Unix socket through if the process
// at its other end is the right one. The operating system tells who that is
// (SO_PEERCRED), so no certificate is needed.
type peerCreds struct {
	credentials.TransportCredentials
	check func(pid int32, uid uint32) error
}

func newPeerCreds(check func(pid int32, uid uint32) error) credentials.TransportCredentials {
	return peerCreds{insecure.NewCredentials(), check}
}

// ServerHandshake is called in the plugin for everyone who connects.
func (p peerCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := p.verify(c); err != nil {
		return nil, nil, err
	}
	return p.TransportCredentials.ServerHandshake(c)
}

// ClientHandshake is called in the kernel when it has connected.
func (p peerCreds) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := p.verify(c); err != nil {
		return nil, nil, err
	}
	return p.TransportCredentials.ClientHandshake(ctx, authority, c)
}

func (p peerCreds) verify(c net.Conn) error {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("check peer: %T is no Unix socket", c)
	}
	pid, uid, err := channel.PeerCred(uc)
	if err != nil {
		return err
	}
	return p.check(pid, uid)
}

// Clone returns the credentials themselves, which nothing changes.
func (p peerCreds) Clone() credentials.TransportCredentials { return p }

// isKernel accepts the process that made the side channel, and only it.
func isKernel(conn *channel.Conn) (func(pid int32, uid uint32) error, error) {
	kernel, kuid, err := conn.PeerCred()
	if err != nil {
		return nil, err
	}
	return func(pid int32, uid uint32) error {
		if pid != kernel || uid != kuid {
			return fmt.Errorf("check peer: process %d of user %d is not the kernel %d", pid, uid, kernel)
		}
		return nil
	}, nil
}

// isPlugin accepts the process that was started, and its descendants:
// wrappers such as "uv run" do not exec.
func isPlugin(started func() int) func(pid int32, uid uint32) error {
	return func(pid int32, uid uint32) error {
		if int(uid) == os.Getuid() && descends(int(pid), started(), 16) {
			return nil
		}
		return fmt.Errorf("check peer: process %d of user %d is not the plugin %d", pid, uid, started())
	}
}

func descends(pid, from, depth int) bool {
	for ; depth > 0 && pid > 1; depth-- {
		if pid == from {
			return true
		}
		pid = parentOf(pid)
	}
	return false
}

// parentOf returns 0 for a process that can not be read.
func parentOf(pid int) int {
	st, err := procstat.Read(pid)
	if err != nil {
		return 0
	}
	return st.Parent
}
