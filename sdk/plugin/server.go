package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"google.golang.org/grpc"
)

// A server is the plugin's end: it opens the author's implementation and
// serves it. It checks what it gives to the implementation, so that an author
// can rely on the limits of package sdk.
type server struct {
	pluginpb.UnimplementedControlServer
	plugin  Plugin
	session *session
	host    *host
	log     *slog.Logger

	ctx    context.Context // done when the plugin is to end
	cancel context.CancelFunc
	tasks  sync.WaitGroup // pumps

	mu       sync.Mutex // guards the fields below
	opening  bool
	instance any
	closed   chan struct{} // nil until closing; closed when it has ended
}

// newServer takes ownership of conn.
func newServer(p Plugin, conn *channel.Conn, log *slog.Logger) (*server, error) {
	session, h, err := newSession(conn)
	if err != nil {
		return nil, err
	}
	state, err := os.OpenRoot(h.State)
	if err != nil {
		session.close()
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	s := &server{plugin: p, session: session, log: log}
	s.host = &host{log: log, state: state, hello: h, link: session}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// close releases everything; no call is served any more.
func (s *server) close() {
	s.closeInstance(closeTimeout)
	s.session.close()
	s.tasks.Wait()
	s.host.state.Close()
}

func (s *server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRPC),
		grpc.MaxSendMsgSize(maxRPC),
		grpc.UnaryInterceptor(s.guardUnary),
		grpc.StreamInterceptor(s.guardStream),
	}
}

func (s *server) register(r *grpc.Server) {
	pluginpb.RegisterControlServer(r, s)
	switch s.plugin.kind {
	case KindTransport:
		pluginpb.RegisterTransportServer(r, &transportServer{server: s})
	case KindDiscovery:
		pluginpb.RegisterDiscoveryServer(r, &discoveryServer{server: s})
	case KindLedger:
		pluginpb.RegisterLedgerServer(r, &ledgerServer{server: s})
	case KindBilling:
		pluginpb.RegisterBillingServer(r, &billingServer{server: s})
	}
}

// guardUnary turns errors into statuses and panics into errors.
func (s *server) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(info.FullMethod, v)
		}
		if isOwn(info.FullMethod) { // go-plugin's services have their own errors
			err = toStatus(err)
		}
	}()
	return handle(ctx, req)
}

func (s *server) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(info.FullMethod, v)
		}
		if isOwn(info.FullMethod) {
			err = toStatus(err)
		}
	}()
	return handle(srv, stream)
}

func isOwn(method string) bool {
	const own = "/cellkernel.plugin.v1."
	return len(method) > len(own) && method[:len(own)] == own
}

func (s *server) panicked(method string, v any) error {
	s.log.Error("the plugin panicked", "method", method, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return sdk.Errorf(sdk.CodeInternal, "panic: %v", v)
}

// Describe says what the plugin is.
func (s *server) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeReply, error) {
	return &pluginpb.DescribeReply{Kind: string(s.plugin.kind), Name: s.plugin.name, Version: s.plugin.Version(), Sdk: "go/1"}, nil
}

// Open decodes the configuration and opens the implementation, once.
func (s *server) Open(ctx context.Context, req *pluginpb.OpenRequest) (*pluginpb.OpenReply, error) {
	s.mu.Lock()
	again := s.opening
	s.opening = true
	s.mu.Unlock()
	if again {
		return nil, sdk.Errorf(sdk.CodeInvalid, "opened twice")
	}
	instance, err := s.plugin.open(ctx, []byte(req.GetConfig()), s.host)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	late := s.closed != nil
	if !late {
		s.instance = instance
	}
	s.mu.Unlock()
	if late {
		return nil, errors.Join(sdk.Errorf(sdk.CodeUnavailable, "the plugin is ending"), closeOf(instance))
	}
	leaveStartup()
	return &pluginpb.OpenReply{}, nil
}

// Drain closes the implementation. The process ends when the side channel does.
func (s *server) Drain(ctx context.Context, _ *pluginpb.DrainRequest) (*pluginpb.DrainReply, error) {
	if !s.closeInstance(drainTimeout - time.Second) {
		return nil, sdk.Errorf(sdk.CodeDeadline, "the plugin's Close did not return within %v", drainTimeout-time.Second)
	}
	return &pluginpb.DrainReply{}, nil
}

// closeInstance ends listeners and closes the implementation, once. It waits
// at most limit and reports whether that was enough.
func (s *server) closeInstance(limit time.Duration) bool {
	s.mu.Lock()
	if s.closed == nil {
		s.closed = make(chan struct{})
		s.cancel()
		go func(instance any, closed chan struct{}) {
			defer close(closed)
			if err := closeOf(instance); err != nil {
				s.log.Error("close plugin", "error", err)
			}
		}(s.instance, s.closed)
		s.instance = nil
	}
	closed := s.closed
	s.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-closed:
		return true
	case <-timer.C:
		return false
	}
}

func closeOf(instance any) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	if c, ok := instance.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// opened returns the implementation as T.
func opened[T any](s *server) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.instance.(T)
	if s.closed != nil {
		return t, sdk.Errorf(sdk.CodeUnavailable, "the plugin is ending")
	}
	if !ok {
		return t, sdk.Errorf(sdk.CodeInvalid, "the plugin is not open")
	}
	return t, nil
}
