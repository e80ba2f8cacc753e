package lighthouse

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/plugins/discovery-lighthouse/datagram"
	"github.com/cellkernel/cellkernel/sdk"
)

// probeAgain is how often a probe asks.
const probeAgain = 250 * time.Millisecond

// Probe asks the lighthouse at addr for a cookie until it answers or ctx is
// done.
func Probe(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "ask lighthouse %q: %v", addr, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var id datagram.Session
	rand.Read(id[:])
	buf := make([]byte, datagram.MaxSize+1)
	for {
		// Whether it was sent shows in the answer.
		conn.Write(datagram.AppendHello(nil, id))
		conn.SetReadDeadline(time.Now().Add(probeAgain))
		n, err := conn.Read(buf)
		switch {
		case ctx.Err() != nil:
			return sdk.Errorf(sdk.CodeUnavailable, "ask lighthouse %q: no answer", addr)
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, syscall.ECONNREFUSED):
			return sdk.Errorf(sdk.CodeUnavailable, "ask lighthouse %q: connection refused: nothing listens there", addr)
		case err != nil:
			return sdk.Errorf(sdk.CodeUnavailable, "ask lighthouse %q: %v", addr, err)
		}
		if kind, got, err := datagram.Head(buf[:n]); err == nil && kind == datagram.KindCookie && got == id {
			return nil
		}
	}
}
