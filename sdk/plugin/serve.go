package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// closeTimeout is how long a plugin may take to close what it holds when the
// kernel vanished without draining it.
const closeTimeout = time.Second

// ErrNotStarted is returned by [Serve] in a process that no kernel started.
var ErrNotStarted = errors.New("not started by a kernel")

// Main serves p and ends the process. It is all that a plugin's main function
// does. Run by hand, the binary says how to use it.
func Main(p Plugin) {
	err := Serve(context.Background(), p)
	switch {
	case errors.Is(err, ErrNotStarted):
		fmt.Fprint(os.Stderr, byHand(p))
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s(%s): %v\n", p.kind, p.name, err)
		os.Exit(1)
	}
}

func byHand(p Plugin) string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return fmt.Sprintf(`This is the cellkernel plugin %s-%s %s. A kernel starts it when the genome says so:

    [plugins.%s-%s]
    use = %q

To check that it keeps the contract of a %s:

    cellkernel plugin test %s
`, p.kind, p.name, p.Version(), p.kind, p.name, self, p.kind, self)
}

// Serve serves p to the kernel that started this process and returns when the
// kernel drained the plugin or is gone, on SIGTERM, or when ctx is done. It
// takes over standard output and error: what is printed afterwards reaches
// the kernel as lines of the log. It can be called once in a process.
func Serve(ctx context.Context, p Plugin) error {
	h := handshake()
	if os.Getenv(h.MagicCookieKey) != h.MagicCookieValue {
		return fmt.Errorf("serve %s-%s: %w", p.kind, p.name, ErrNotStarted)
	}
	if p.setup != nil {
		p.setup()
	}
	stderr := os.Stderr // before go-plugin replaces it
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	// A kernel that died can not read our last lines; that must not end us
	// before sockets are removed. Ctrl-C in a terminal is the kernel's affair.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	conn, err := channel.FromFD(3)
	if err != nil {
		return err
	}
	check, err := isKernel(conn)
	if err != nil {
		return err
	}
	srv, err := newServer(p, conn, log)
	if err != nil {
		return err
	}
	defer srv.close()
	return srv.serveProcess(ctx, stderr, grpc.Creds(newPeerCreds(check)))
}

// serveProcess lets go-plugin say the handshake and listen, until the side
// channel or ctx ends.
func (s *server) serveProcess(ctx context.Context, stderr io.Writer, creds grpc.ServerOption) error {
	made := make(chan *grpc.Server, 1)
	served := make(chan struct{})
	go func() {
		defer close(served)
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig:  handshake(),
			VersionedPlugins: map[int]goplugin.PluginSet{protocolVersion: {dispensed: glue{s.register}}},
			Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: stderr, JSONFormat: true}),
			GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
				gs := grpc.NewServer(append(append(o, creds), s.options()...)...)
				made <- gs
				return gs
			},
		})
	}()
	select {
	case <-served:
		select {
		case <-made:
			return nil // the kernel asked go-plugin to shut down
		default:
			return errors.New("listen for the kernel: see the line above")
		}
	case <-s.session.gone:
	case <-ctx.Done():
	}
	s.closeInstance(closeTimeout)
	select {
	case gs := <-made:
		gs.Stop()
		<-served
	default: // not listening yet: the end of the process ends it
	}
	return nil
}
