package quictransport

import (
	"context"
	"net"
	"syscall"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/quic-go/quic-go"
)

// wantBuffer is what quic-go wants for both buffers of a socket.
const wantBuffer = 7 << 20

// idLength is that of connection ids, in bytes: the most there is. quic-go
// answers with a stateless reset only to packets longer than one, 42 bytes
// (RFC 9000, section 10.3.3). With shorter ids a restarted peer would not
// answer short messages; keep-alives are too short in any case.
const idLength = 20

// An endpoint is a UDP socket and what runs over it. It is closed when it has
// neither a listener nor a connection any more; that which only dials stays
// until the transport is closed.
type endpoint struct {
	t      *Transport
	udp    net.PacketConn
	socket *socket // around udp
	quic   *quic.Transport

	// Guarded by Transport.mu.
	listener *listener // nil while none
	users    int       // sessions, the listener, dials in progress
	gone     bool      // closed, or about to be
}

// A network is where sockets come from: the operating system, or a simulation.
type network interface {
	// listen binds a UDP socket, as [net.ListenUDP] does.
	listen(network string, addr *net.UDPAddr) (net.PacketConn, error)
	// knock finds out whether nobody can be at an address: see [machine.knock].
	knock(ctx context.Context, to *net.UDPAddr) error
}

// A machine is the network of the operating system.
type machine struct{}

func (machine) listen(network string, addr *net.UDPAddr) (net.PacketConn, error) {
	return net.ListenUDP(network, addr)
}

// openEndpoint binds a socket. network is "udp4" for IPv4 alone, else "udp".
func (t *Transport) openEndpoint(network string, addr *net.UDPAddr) (*endpoint, error) {
	conn, err := t.network.listen(network, addr)
	if err != nil {
		return nil, err
	}
	sock, udp := &socket{}, conn
	if u, ok := conn.(*net.UDPConn); ok { // a simulation has others
		t.enlarge(u)
		if err := sock.open(u); err != nil {
			udp.Close()
			return nil, err
		}
		conn = sock
	}
	e := &endpoint{t: t, udp: udp, socket: sock, quic: &quic.Transport{
		Conn: conn, ConnectionIDLength: idLength, StatelessResetKey: &t.resetKey,
		VerifySourceAddress: func(a net.Addr) bool { return t.gate.doubts(source(a)) },
		ConnContext:         t.gate.admit,
	}}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		udp.Close()
		return nil, errClosed()
	}
	t.endpoints[e] = struct{}{}
	e.users = 1
	return e, nil
}

func errClosed() error { return sdk.Errorf(sdk.CodeUnavailable, "the transport is closed") }

// drop gives up one use; the last closes the endpoint before it returns.
func (e *endpoint) drop() {
	e.t.mu.Lock()
	e.users--
	last := e.users == 0
	e.gone = e.gone || last
	e.t.mu.Unlock()
	if last {
		e.close()
	}
}

// close frees the address at once. Connections that are left end without a
// word to the other end.
func (e *endpoint) close() {
	e.t.mu.Lock()
	_, ours := e.t.endpoints[e]
	delete(e.t.endpoints, e)
	e.gone = true
	e.t.mu.Unlock()
	if !ours {
		return
	}
	e.quic.Close()
	e.udp.Close()
}

// dialFrom returns an endpoint to dial from, with one use: a listener's that
// any address can be reached from, so that one port serves both, else the one
// that only dials. A socket bound to no address follows when those of this
// machine change.
func (t *Transport) dialFrom(four bool) (*endpoint, error) {
	t.mu.Lock()
	for e := range t.endpoints {
		if e.gone || e.listener == nil && e != t.dialling {
			continue
		}
		at := e.udp.LocalAddr().(*net.UDPAddr)
		if at.IP.IsUnspecified() && (four || at.IP.To4() == nil) {
			e.users++
			t.mu.Unlock()
			return e, nil
		}
	}
	t.mu.Unlock()
	e, err := t.openEndpoint("udp", nil)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "open a socket: %v", causeOf(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dialling == nil {
		t.dialling = e
		e.users++ // stays
	}
	return e, nil
}

// enlarge gives the socket large buffers, and says so once where it can not.
func (t *Transport) enlarge(udp *net.UDPConn) {
	if read, write := buffersOf(udp); min(read, write) < wantBuffer {
		t.warn.Do(func() {
			t.log.Warn("UDP buffers are small: bursts will lose packets", "receive", read, "send", write, "want", wantBuffer,
				"fix", "sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032")
		})
	}
}

// buffersOf enlarges buffers, beyond the limits of the system if we may, and
// returns what they have then.
func buffersOf(udp *net.UDPConn) (read, write int) {
	rc, err := udp.SyscallConn()
	if err != nil {
		return 0, 0
	}
	// An error shows in the size.
	_ = rc.Control(func(fd uintptr) {
		read = enlargeOne(int(fd), syscall.SO_RCVBUF, syscall.SO_RCVBUFFORCE)
		write = enlargeOne(int(fd), syscall.SO_SNDBUF, syscall.SO_SNDBUFFORCE)
	})
	return read, write
}

func enlargeOne(fd, option, force int) int {
	for _, o := range []int{option, force} {
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, o, wantBuffer)
		if n, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, option); err == nil && n >= wantBuffer {
			return n
		}
	}
	n, _ := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, option)
	return n
}
