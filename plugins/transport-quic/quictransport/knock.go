package quictransport

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// knock finds out what an unconnected socket is not told: that there is no
// route to a peer, or nobody at its port (ICMP). It returns nil when ctx is
// done and nothing of the kind was heard. Whoever could forge the answer would
// have to guess the port of a socket that lives for one handshake, and would
// gain a failed dial.
//
// The packet is one zero byte, which is not QUIC: RFC 9443 has peers ignore it.
func (machine) knock(ctx context.Context, to *net.UDPAddr) error {
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return causeOf(err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if _, err = c.Write([]byte{0}); err == nil {
		_, err = c.Read(make([]byte, 1)) // nobody answers in bytes
	}
	var errno syscall.Errno
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &errno) {
		return nil
	}
	return errno
}
