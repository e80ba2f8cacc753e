package sdk

import (
	"context"
	"net"
)

// A Transport moves bytes between machines, or between the cells of one. It
// does not encrypt, frame, retry or route.
//
// Both methods return when the thing is usable or ctx is done; what they
// return outlives ctx. Connections are reliable, ordered byte streams; the
// end of input ends them after all bytes before it were delivered.
//
// Connections may also implement [Binder], listeners [Hinter].
type Transport interface {
	// Listen accepts connections at addr. The listener's Addr().String() is
	// the host part that peers dial, so a port of 0 comes back resolved.
	Listen(ctx context.Context, addr Addr) (net.Listener, error)
	// Dial connects to addr.
	Dial(ctx context.Context, addr Addr) (net.Conn, error)
}

// A Binder is a connection that has a secure channel of its own below it.
type Binder interface {
	// ChannelBinding returns a value both ends of that channel share and
	// nobody else has: for QUIC the TLS exporter (RFC 5705, RFC 9266).
	ChannelBinding() [32]byte
}

// A Hinter is a listener whose dialers need to know more than an address.
type Hinter interface {
	// Hint returns what travels in the signed announcement and comes back in
	// [Addr].Hint: at most [MaxHint] bytes, for example a certificate hash.
	Hint() []byte
}
