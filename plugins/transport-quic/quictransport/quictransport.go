// Package quictransport is the transport between machines: QUIC over UDP, RFC
// 9000. An address is "quic://host:port", where host is an IPv4 address, an
// IPv6 address in brackets or a name. (In the terms of the biology: the axon.)
//
// All links from one node to one listener are streams of one connection, so
// they share a handshake, a congestion window and a keep-alive, and none waits
// for lost packets of another. Who dials writes one byte, [version], in front
// of the link's bytes: a stream is only seen with its first byte.
//
// The TLS below is that of the hop. Its certificate is made by the kernel for
// this run; the hash of it is the listener's hint, and a dialler that knows
// the hint accepts no other. Without a hint every certificate is accepted:
// both ends learn the channel binding, and what runs in the link proves there
// who they are.
//
// Flow control gives each link a window of its own, and the connection one
// that is the sum of them, so that links nobody reads hold up no other. A link
// whose reader takes nothing for 5 s is reset by the pump of package plugin.
package quictransport

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
	"github.com/quic-go/quic-go"
)

const (
	// protocol is what both ends must speak (ALPN, RFC 7301).
	protocol = "cellkernel/1"
	// version is the first byte of every stream.
	version = 1
	// exporter names the channel binding: RFC 9266 with a label of our own, so
	// that no other protocol shares its value.
	exporter = "EXPORTER-cellkernel-channel-binding"
)

// Bounds of a connection. keepAlive + silence is the longest time in which
// nobody notices that the other end is gone: its last packet may have answered
// a keep-alive.
const (
	maxLinks    = 256
	linkWindow  = 256 << 10
	firstWindow = 64 << 10 // of a link that nobody has read yet: what a stranger can fill; it grows as it is read
	keepAlive   = 2500 * time.Millisecond
	silence     = 6 * time.Second
	quietAccept = 2500 * time.Millisecond // a handshake may take twice as long
	quietDial   = 4 * time.Second
	firstLink   = 10 * time.Second // from an accepted handshake to its first link
	lastBytes   = time.Second      // from the last link of a closed listener to the end of the connection
)

// Codes that end streams and connections. They are on the wire.
const (
	codeDone  = 0 // the other side has what it needs
	codeStall = 1 // a reader took nothing for too long
	codeGone  = 2 // the listener does not accept links any more
	codeRoom  = 3 // others need the room that an unproved connection takes
)

// Plugin returns the transport "quic".
func Plugin() plugin.Plugin {
	return plugin.Transport("quic", DefaultConfig(), New).WithSetup(setUp)
}

// setUp makes the process one that relays. quic-go hands each packet through
// four goroutines: spread over all processors each hand-over wakes a thread,
// and the plugin competes with the cells it works for. On one of two
// processors a call cost half of what it does on both.
func setUp() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/4))
	}
	// quic-go reads this from the environment alone; the warning is ours to give.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
}

// A Transport dials and listens with QUIC.
type Transport struct {
	config   Config
	host     plugin.Host
	log      *slog.Logger
	resetKey quic.StatelessResetKey
	gate     *gate
	network  network

	ctx    context.Context // done when the transport is closed
	cancel context.CancelFunc
	tasks  sync.WaitGroup // everything that ends after cancel
	warn   sync.Once      // of small buffers

	certMu sync.Mutex // held while the kernel makes the certificate
	cert   *certificate

	mu        sync.Mutex // guards the fields below, and of endpoints, listeners and peers what they say
	closed    bool
	endpoints map[*endpoint]struct{}
	dialling  *endpoint // the one that only dials; nil until the first dial that needs it
	peers     map[route]*peer
	sessions  map[*session]struct{}
}

// New opens the transport. It holds nothing until it listens or dials.
func New(_ context.Context, config Config, host plugin.Host) (*Transport, error) {
	if !config.GSO { // quic-go reads it from the environment alone
		os.Setenv("QUIC_GO_DISABLE_GSO", "true")
	}
	t := &Transport{
		config: config, host: host, log: host.Log(),
		resetKey: quic.StatelessResetKey(host.Subkey("stateless reset")),
		gate:     newGate(config.MaxConnections, config.MaxPerSource, host.Log()), network: machine{},
		endpoints: map[*endpoint]struct{}{}, peers: map[route]*peer{}, sessions: map[*session]struct{}{},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// Close ends all listeners and connections.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	sessions := make([]*session, 0, len(t.sessions))
	for s := range t.sessions {
		sessions = append(sessions, s)
	}
	t.mu.Unlock()
	t.cancel()
	var all sync.WaitGroup
	for _, s := range sessions {
		all.Go(func() { s.conn.CloseWithError(codeDone, "closed") })
	}
	all.Wait()
	t.mu.Lock()
	endpoints := make([]*endpoint, 0, len(t.endpoints))
	for e := range t.endpoints {
		endpoints = append(endpoints, e)
	}
	t.mu.Unlock()
	for _, e := range endpoints {
		e.close()
	}
	t.tasks.Wait()
	return nil
}

// settings are those of both ends of a connection; quiet is how long the other
// end may say nothing during the handshake.
func settings(quiet time.Duration) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: quiet, MaxIdleTimeout: silence, KeepAlivePeriod: keepAlive,
		InitialStreamReceiveWindow: firstWindow, MaxStreamReceiveWindow: linkWindow,
		// The sum of all links' windows: those that nobody reads leave the
		// others theirs.
		InitialConnectionReceiveWindow: maxLinks * linkWindow, MaxConnectionReceiveWindow: maxLinks * linkWindow,
		MaxIncomingStreams: -1, MaxIncomingUniStreams: -1,
	}
}

// binding returns what both ends of a connection share and nobody else has.
func binding(conn *quic.Conn) ([32]byte, error) {
	state := conn.ConnectionState().TLS // a copy; the method below needs it addressable
	b, err := state.ExportKeyingMaterial(exporter, nil, 32)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(b), nil
}

// baseTLS is TLS 1.3 alone, without resumption: nothing of one connection is
// of use in another.
func baseTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, SessionTicketsDisabled: true}
}

var _ sdk.Transport = (*Transport)(nil)
var _ net.Listener = (*listener)(nil)
