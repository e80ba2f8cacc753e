package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/sdk/channel"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Pipe runs p in this process behind the same adapters and messages as a
// process of its own: gRPC over a socket pair, descriptors over a side
// channel. It is for tests. o.Launch, o.RunDir and o.Env mean nothing here.
func Pipe(ctx context.Context, p Plugin, o Options) (*Client, error) {
	config, err := marshalConfig(o.Config)
	if err != nil {
		return nil, fmt.Errorf("open %s-%s: %w", p.kind, p.name, err)
	}
	b := &bundle{c: newClient(o)}
	if err := b.serve(p, o); err != nil {
		b.release()
		return nil, fmt.Errorf("open %s-%s: %w", p.kind, p.name, err)
	}
	go b.watch()
	if err := b.c.setUp(ctx, o.Kind, config); err != nil {
		b.c.Kill()
		return nil, err
	}
	return b.c, nil
}

// A bundle is a plugin in this process: both ends.
type bundle struct {
	c      *Client
	srv    *server
	gs     *grpc.Server
	lis    *onceListener
	cc     *grpc.ClientConn
	dir    string
	killed chan struct{}
	served sync.WaitGroup
}

func (b *bundle) serve(p Plugin, o Options) error {
	var err error
	if b.dir, err = os.MkdirTemp("", "plugin"); err != nil {
		return err
	}
	ours, theirs, err := inProcessPair()
	if err != nil {
		return err
	}
	h, err := makeHello(o, b.dir)
	if err == nil {
		b.c.side, err = newSide(ours, h, hostCalls(b.c, o))
	}
	if err != nil {
		theirs.Close()
		return err
	}
	log := slog.New(slog.NewJSONHandler(&lineWriter{each: sink(o.Log).give}, nil))
	if b.srv, err = newServer(p, theirs, log); err != nil {
		return err
	}
	return b.connect()
}

func (b *bundle) connect() error {
	near, far, err := streamPair()
	if err != nil {
		return err
	}
	b.lis = &onceListener{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	b.lis.conn <- far
	b.gs = grpc.NewServer(b.srv.options()...)
	b.srv.register(b.gs)
	hs := health.NewServer()
	hs.SetServingStatus(dispensed, grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(b.gs, hs)
	b.served.Go(func() { b.gs.Serve(b.lis) })
	var used atomic.Bool
	b.cc, err = grpc.NewClient("passthrough:///pipe", append(dialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the pipe is closed")
			}
			return near, nil
		}))...)
	if err != nil {
		near.Close()
		return err
	}
	b.c.cc = b.cc
	b.killed = make(chan struct{})
	b.c.kill = sync.OnceFunc(func() { close(b.killed) })
	return nil
}

// watch plays the operating system: it ends the server when it is killed or
// lost its side channel, and the client's side after it.
func (b *bundle) watch() {
	select {
	case <-b.killed:
	case <-b.srv.session.gone:
	}
	b.release()
	b.c.err = b.c.exitError(errors.New("killed"))
	close(b.c.done)
}

func (b *bundle) release() {
	if b.gs != nil {
		b.gs.Stop()
		b.served.Wait()
	}
	if b.srv != nil {
		b.srv.close()
	}
	if b.c.side != nil {
		b.c.side.close()
	}
	if b.cc != nil {
		b.cc.Close()
	}
	if b.dir != "" {
		os.RemoveAll(filepath.Clean(b.dir))
	}
}

// inProcessPair is a side channel with both ends here.
func inProcessPair() (ours, theirs *channel.Conn, err error) {
	ours, f, err := channel.Pair()
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	return ours, channel.New(nc.(*net.UnixConn)), nil
}

func streamPair() (a, b net.Conn, err error) {
	near, f, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	far, err := net.FileConn(f)
	if err != nil {
		near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// A onceListener accepts one connection.
type onceListener struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *onceListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *onceListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *onceListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
