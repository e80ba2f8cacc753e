package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// Deadlines of a transport's calls.
const (
	dialTimeout        = 30 * time.Second
	listenTimeout      = 10 * time.Second
	closeListenTimeout = 2 * time.Second
)

// maxPending is how many accepted connections wait for Accept; behind them
// the transport's own queue fills.
const maxPending = 16

// A Filer is a connection whose descriptor can be given away. All connections
// of a [Client]'s transport are. File returns a duplicate, in non-blocking
// mode, that the caller closes; the connection stays open.
type Filer interface {
	File() (*os.File, error)
}

// Transport returns the plugin as a transport. Its connections are sockets of
// this process, and [Filer]s; those with a channel binding are sdk.Binders.
// Its listeners are sdk.Hinters and end with the plugin.
func (c *Client) Transport() (sdk.Transport, error) {
	if err := c.want(KindTransport); err != nil {
		return nil, err
	}
	return &transportClient{c, pluginpb.NewTransportClient(c.cc)}, nil
}

type transportClient struct {
	*Client
	rpc pluginpb.TransportClient
}

// Dial asks the plugin for a connection and takes the descriptor it sends.
func (t *transportClient) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	verb := fmt.Sprintf("dial %s", addr)
	if err := addr.Validate(); err != nil {
		return nil, t.errorf(sdk.CodeInvalid, "dial: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ticket := t.side.expect()
	defer ticket.drop()
	reply, err := t.rpc.Dial(ctx, &pluginpb.DialRequest{Address: addressPB(addr), Token: ticket.token})
	if err != nil {
		return nil, t.fromStatus(ctx, err, verb)
	}
	return t.receive(ctx, verb, ticket, reply.GetPeer())
}

func addressPB(a sdk.Addr) *pluginpb.Address {
	return &pluginpb.Address{Scheme: a.Scheme, Host: a.Host, Hint: a.Hint}
}

// receive takes a descriptor and makes a connection of it, if it is one.
func (t *transportClient) receive(ctx context.Context, verb string, ticket ticket, peer *pluginpb.Peer) (net.Conn, error) {
	if n := len(peer.GetBinding()); n != 0 && n != 32 {
		return nil, t.badAnswer(verb, "channel binding of %d bytes", n)
	}
	if len(peer.GetLocal()) > maxHost || len(peer.GetRemote()) > maxHost {
		return nil, t.badAnswer(verb, "addresses of %d and %d bytes", len(peer.GetLocal()), len(peer.GetRemote()))
	}
	f, err := ticket.take(ctx)
	if errors.Is(err, ErrGone) {
		return nil, goneError{t.errorf(sdk.CodeUnavailable, "%s: %v", verb, err)}
	}
	if err != nil {
		return nil, t.badAnswer(verb, "%v", err)
	}
	defer f.Close()
	if err := checkStream(f); err != nil {
		return nil, t.badAnswer(verb, "%v", err)
	}
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, t.badAnswer(verb, "%v", err)
	}
	made := &conn{Conn: nc, local: textAddr(clip(peer.GetLocal(), maxHost)), remote: textAddr(clip(peer.GetRemote(), maxHost))}
	if len(peer.GetBinding()) == 32 {
		return &boundConn{made, [32]byte(peer.GetBinding())}, nil
	}
	return made, nil
}

// checkStream accepts connected stream sockets of the families that a cell
// can use.
func checkStream(f *os.File) error {
	if err := channel.IsStream(f); err != nil {
		return err
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	domain, inner := 0, error(nil)
	err = rc.Control(func(fd uintptr) {
		domain, inner = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
	})
	if err := errors.Join(err, inner); err != nil {
		return err
	}
	if domain != unix.AF_UNIX && domain != unix.AF_INET && domain != unix.AF_INET6 {
		return fmt.Errorf("socket of family %d", domain)
	}
	return nil
}

// textAddr is an address as the plugin told it.
type textAddr string

func (a textAddr) Network() string { return "plugin" }
func (a textAddr) String() string  { return string(a) }

// A conn is a socket of this process. It knows the addresses of the
// connection that the plugin made, where the socket itself is only one end of
// a pair.
type conn struct {
	net.Conn
	local, remote textAddr
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// File returns a duplicate of the descriptor.
func (c *conn) File() (*os.File, error) {
	return c.Conn.(Filer).File() // net.FileConn made a UnixConn or TCPConn
}

type boundConn struct {
	*conn
	binding [32]byte
}

func (c *boundConn) ChannelBinding() [32]byte { return c.binding }

// Listen opens a listener in the plugin.
func (t *transportClient) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	if err := addr.Validate(); err != nil {
		return nil, t.errorf(sdk.CodeInvalid, "listen: %v", err)
	}
	l := &listener{t: t, verb: fmt.Sprintf("listen %s", addr), accepted: make(chan net.Conn, maxPending), done: make(chan struct{}), closing: make(chan struct{})}
	sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	// The stream outlives ctx, which bounds the opening alone.
	octx, ocancel := context.WithTimeout(ctx, listenTimeout)
	defer ocancel()
	unhook := context.AfterFunc(octx, cancel)
	err := l.open(sctx, addr)
	if !unhook() && err == nil {
		err = octx.Err()
	}
	if err != nil {
		cancel()
		if octx.Err() != nil {
			err = t.errorf(sdk.CodeOf(octx.Err()), "%s: %v", l.verb, octx.Err())
		}
		return nil, err
	}
	go l.read(sctx)
	return l, nil
}

// A listener is the kernel's end of a Listen stream.
type listener struct {
	t        *transportClient
	verb     string
	host     textAddr
	hint     []byte
	stream   grpc.BidiStreamingClient[pluginpb.ListenRequest, pluginpb.ListenReply]
	cancel   context.CancelFunc
	accepted chan net.Conn
	err      error         // why it ended; set before done is closed
	done     chan struct{} // closed when the reader has ended
	closing  chan struct{}
	once     sync.Once

	mu      sync.Mutex        // guards the tickets and sending on stream
	tickets map[uint64]ticket // granted and not yet used
}

func (l *listener) open(ctx context.Context, addr sdk.Addr) error {
	stream, err := l.t.rpc.Listen(ctx)
	if err == nil {
		err = stream.Send(&pluginpb.ListenRequest{Kind: &pluginpb.ListenRequest_Open{Open: addressPB(addr)}})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv knows why
		return l.t.fromStatus(ctx, err, l.verb)
	}
	reply, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return l.t.badAnswer(l.verb, "the listener ended before it was open")
	}
	if err != nil {
		return l.t.fromStatus(ctx, err, l.verb)
	}
	opened := reply.GetOpened()
	at := sdk.Addr{Scheme: addr.Scheme, Host: opened.GetHost(), Hint: opened.GetHint()}
	if err := at.Validate(); err != nil {
		return l.t.badAnswer(l.verb, "%v", err)
	}
	l.stream, l.host, l.hint, l.tickets = stream, textAddr(at.Host), at.Hint, map[uint64]ticket{}
	for range maxPending {
		if err := l.grant(); err != nil {
			return l.t.fromStatus(ctx, err, l.verb)
		}
	}
	return nil
}

// grant lets the plugin accept one more connection.
func (l *listener) grant() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closing: // nothing may be sent any more
		return nil
	default:
	}
	t := l.t.side.expect()
	l.tickets[t.token] = t
	err := l.stream.Send(&pluginpb.ListenRequest{Kind: &pluginpb.ListenRequest_Grant{Grant: &pluginpb.Grant{Tokens: []uint64{t.token}}}})
	if errors.Is(err, io.EOF) {
		return nil // the reader learns why
	}
	return err
}

// read queues what the plugin accepts; the grants bound the queue.
func (l *listener) read(ctx context.Context) {
	defer l.cancel()
	defer l.release()
	for {
		reply, err := l.stream.Recv()
		if err != nil {
			l.err = l.ended(ctx, err)
			return
		}
		conn, err := l.take(ctx, reply.GetAccepted())
		if err != nil {
			l.err = err
			return
		}
		l.accepted <- conn
	}
}

func (l *listener) ended(ctx context.Context, err error) error {
	select {
	case <-l.closing:
		return net.ErrClosed
	default:
	}
	if errors.Is(err, io.EOF) {
		return l.t.errorf(sdk.CodeUnavailable, "%s: the plugin ended the listener", l.verb)
	}
	return l.t.fromStatus(ctx, err, l.verb)
}

func (l *listener) take(ctx context.Context, a *pluginpb.Accepted) (net.Conn, error) {
	l.mu.Lock()
	ticket, ok := l.tickets[a.GetToken()]
	delete(l.tickets, a.GetToken())
	l.mu.Unlock()
	if !ok {
		return nil, l.t.badAnswer(l.verb, "accepted under a token that was not granted")
	}
	return l.t.receive(ctx, l.verb, ticket, a.GetPeer())
}

// release ends all that waits: tickets are given up, queued connections that
// nobody will accept are closed by Close.
func (l *listener) release() {
	l.mu.Lock()
	for _, t := range l.tickets {
		t.drop()
	}
	clear(l.tickets)
	l.mu.Unlock()
	close(l.done)
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closing:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-l.accepted:
		// An error shows when the stream is read.
		_ = l.grant()
		return conn, nil
	default:
	}
	select {
	case conn := <-l.accepted:
		_ = l.grant()
		return conn, nil
	case <-l.closing:
		return nil, net.ErrClosed
	case <-l.done:
		select {
		case conn := <-l.accepted: // it was accepted before the end
			return conn, nil
		default:
			return nil, l.err
		}
	}
}

// Close returns when the plugin has closed its listener, so that the address
// is free again. Connections nobody accepted are closed.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closing)
		l.mu.Lock()
		l.stream.CloseSend()
		l.mu.Unlock()
		timer := time.NewTimer(closeListenTimeout)
		defer timer.Stop()
		select {
		case <-l.done:
		case <-timer.C:
			l.cancel()
			<-l.done
		}
		for {
			select {
			case conn := <-l.accepted:
				conn.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr returns the host part that peers dial.
func (l *listener) Addr() net.Addr { return l.host }

// Hint returns what peers must know beside the address; nil for nothing.
func (l *listener) Hint() []byte { return l.hint }
