// Package tcptransport is a transport over TCP. Addresses are host and port,
// "tcp://10.0.0.2:9000"; port 0 takes a free one.
package tcptransport

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Plugin returns the transport "tcp", as the main function, the kernel and
// the tests use it.
func Plugin() plugin.Plugin { return plugin.Transport("tcp", DefaultConfig(), New) }

// A Transport dials and listens on TCP.
type Transport struct {
	keepAlive time.Duration
	log       *slog.Logger
}

// New opens the transport. A plugin with sockets or files of its own opens
// them here, and has a Close method that closes them.
func New(_ context.Context, c Config, host plugin.Host) (*Transport, error) {
	return &Transport{keepAlive: time.Duration(c.KeepAlive), log: host.Log()}, nil
}

// Dial connects. It returns the *net.TCPConn as it is, so that the connection
// itself is handed over and this process is off the path; a wrapper around it
// would be pumped.
func (t *Transport) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	if err := checkHost(addr); err != nil {
		return nil, err
	}
	d := net.Dialer{KeepAlive: t.keepAlive}
	return d.DialContext(ctx, "tcp", addr.Host)
}

// Listen binds the address. The listener outlives ctx.
func (t *Transport) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	if err := checkHost(addr); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAlive: t.keepAlive}
	l, err := lc.Listen(ctx, "tcp", addr.Host)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	t.log.Info("listening", "addr", l.Addr().String())
	return l, nil
}

// checkHost gives what can never work the code that says so.
func checkHost(addr sdk.Addr) error {
	if _, _, err := net.SplitHostPort(addr.Host); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "address %q: want tcp://host:port", addr)
	}
	return nil
}
