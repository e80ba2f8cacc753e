package plugin

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"google.golang.org/grpc"
)

// acceptPause is how long a listener rests that has no descriptors left.
const acceptPause = 50 * time.Millisecond

// maxGrants bounds the tokens a kernel may have granted and not yet seen used.
const maxGrants = 1024

// transportServer serves an author's transport.
type transportServer struct {
	pluginpb.UnimplementedTransportServer
	*server
}

// Dial opens a connection and sends its descriptor before it answers.
func (t *transportServer) Dial(ctx context.Context, req *pluginpb.DialRequest) (*pluginpb.DialReply, error) {
	tr, err := opened[sdk.Transport](t.server)
	if err != nil {
		return nil, err
	}
	addr, err := t.address(req.GetAddress())
	if err != nil {
		return nil, err
	}
	conn, err := tr.Dial(ctx, addr)
	if err != nil {
		return nil, asDialError(err)
	}
	peer, err := t.give(conn, req.GetToken())
	if err != nil {
		return nil, err
	}
	return &pluginpb.DialReply{Peer: peer}, nil
}

// asDialError gives plain errors the code that fits nearly all of them.
func asDialError(err error) error {
	e := sdk.AsError(err)
	if e.Code == sdk.CodeApplication {
		return sdk.Errorf(sdk.CodeUnavailable, "%v", err)
	}
	return e
}

// give hands a connection to the kernel.
func (t *transportServer) give(conn net.Conn, token uint64) (*pluginpb.Peer, error) {
	peer := &pluginpb.Peer{Local: addrText(conn.LocalAddr()), Remote: addrText(conn.RemoteAddr())}
	if b, ok := conn.(sdk.Binder); ok {
		binding := b.ChannelBinding()
		peer.Binding = binding[:]
	}
	f, err := t.handOver(conn)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "hand over connection: %v", err)
	}
	defer f.Close()
	if err := t.session.sendFile(token, f); err != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "hand over connection: %v", err)
	}
	return peer, nil
}

func addrText(a net.Addr) string {
	if a == nil {
		return ""
	}
	return clip(a.String(), maxHost)
}

// address spares every author to check the scheme, which is the plugin's name.
func (t *transportServer) address(a *pluginpb.Address) (sdk.Addr, error) {
	addr := sdk.Addr{Scheme: a.GetScheme(), Host: a.GetHost(), Hint: a.GetHint()}
	if err := addr.Validate(); err != nil {
		return addr, sdk.Errorf(sdk.CodeInvalid, "%v", err)
	}
	if addr.Scheme != t.plugin.name {
		return addr, sdk.Errorf(sdk.CodeInvalid, "address %q: want the scheme %s", addr, t.plugin.name)
	}
	return addr, nil
}

// listenStream is what Listen speaks over.
type listenStream = grpc.BidiStreamingServer[pluginpb.ListenRequest, pluginpb.ListenReply]

// Listen serves one listener for as long as the stream lives.
func (t *transportServer) Listen(stream listenStream) error {
	tr, err := opened[sdk.Transport](t.server)
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	addr, err := t.address(first.GetOpen())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	l, err := tr.Listen(ctx, addr)
	if err != nil {
		return err
	}
	opened := &pluginpb.Opened{Host: l.Addr().String()}
	if h, ok := l.(sdk.Hinter); ok {
		opened.Hint = h.Hint()
	}
	grants := make(chan uint64, maxGrants)
	go func() { // ends with the stream, at the latest when Listen returns
		defer cancel()
		readGrants(stream, grants)
	}()
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() { // wakes Accept
		l.Close()
		close(closed)
	})
	err = stream.Send(&pluginpb.ListenReply{Kind: &pluginpb.ListenReply_Opened{Opened: opened}})
	if err == nil {
		err = t.accept(ctx, l, stream, grants)
	}
	cancel()
	<-closed
	return err
}

// readGrants returns when the kernel has closed the listener or broke the
// limit of grants.
func readGrants(stream listenStream, grants chan<- uint64) {
	for {
		req, err := stream.Recv()
		if err != nil {
			return
		}
		for _, token := range req.GetGrant().GetTokens() {
			select {
			case grants <- token:
			default:
				return
			}
		}
	}
}

// accept takes connections only while it has tokens: the rest wait where the
// transport queues them.
func (t *transportServer) accept(ctx context.Context, l net.Listener, stream listenStream, grants <-chan uint64) error {
	for {
		var token uint64
		select {
		case token = <-grants:
		case <-ctx.Done():
			return nil
		}
		conn, err := acceptOne(ctx, l)
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		peer, err := t.give(conn, token)
		if err != nil {
			return err
		}
		reply := &pluginpb.Accepted{Token: token, Peer: peer}
		if err := stream.Send(&pluginpb.ListenReply{Kind: &pluginpb.ListenReply_Accepted{Accepted: reply}}); err != nil {
			return err
		}
	}
}

// acceptOne outlives moments without descriptors or memory and connections
// that ended before they were accepted.
func acceptOne(ctx context.Context, l net.Listener) (net.Conn, error) {
	for {
		conn, err := l.Accept()
		if err == nil || !passing(err) || errors.Is(err, io.EOF) {
			return conn, err
		}
		timer := time.NewTimer(acceptPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
