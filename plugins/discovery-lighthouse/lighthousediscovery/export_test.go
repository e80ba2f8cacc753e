package lighthousediscovery

import (
	"context"
	"log/slog"
	"net"
)

// Open returns a discovery whose sockets dial opens.
func Open(c Config, secret [32]byte, log *slog.Logger, dial func(ctx context.Context, server string, attempt int) (net.Conn, error)) *Discovery {
	return open(c, secret, log, dial)
}

// DoubtTime is how long nodes are believed that a restarted lighthouse does
// not know.
const DoubtTime = doubtTime
