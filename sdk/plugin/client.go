package plugin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin/pluginpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Deadlines of calls to a plugin, where the caller's is not earlier.
const (
	startTimeout    = 5 * time.Second // from exec to the handshake
	describeTimeout = 5 * time.Second
	openTimeout     = 10 * time.Second
	drainTimeout    = 5 * time.Second
	killTimeout     = 2 * time.Second // after a drained plugin lost its side channel
)

// An Info says what a plugin is and where it runs.
type Info struct {
	Kind    Kind
	Name    string
	Version string
	PID     int // 0 for a plugin in this process
}

// A Client is the kernel's end of one running plugin. It is the trust border:
// its methods and those of what it gives out check what the plugin answers.
// Safe for any number of goroutines.
type Client struct {
	info  Info
	kind  atomic.Value // Kind, for host calls, which may come while info is made
	label string       // "transport(uds)", the prefix of every error
	cc    grpc.ClientConnInterface
	side  *side

	kill     func()        // ends the process or server at once; safe to call any time
	done     chan struct{} // closed once all is released
	err      error         // why; set before done is closed
	stopOnce sync.Once
	stopErr  error
	stopped  chan struct{} // closed when Stop was called
}

// Info returns what the plugin said it is. The kind was checked.
func (c *Client) Info() Info { return c.info }

// Done is closed when the plugin has ended and all it held was released.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the plugin ended, nil while it runs or after [Client.Stop].
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Ping asks the plugin whether it serves. Use a ctx with a deadline: a stopped
// process never answers.
func (c *Client) Ping(ctx context.Context) error {
	r, err := grpc_health_v1.NewHealthClient(c.cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: dispensed})
	if err != nil {
		return c.fromStatus(ctx, err, "ping")
	}
	if r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return c.errorf(sdk.CodeUnavailable, "ping: the plugin says %v", r.Status)
	}
	return nil
}

// Kill ends the plugin at once and waits until it is gone.
func (c *Client) Kill() {
	c.kill()
	<-c.done
}

// Stop lets the plugin close what it holds, then ends it: nicely if it is
// quick, else, or when ctx is done, with a kill, and then it returns an error
// that says so. When it returns nothing of the plugin is left.
func (c *Client) Stop(ctx context.Context) error {
	c.stopOnce.Do(func() {
		close(c.stopped)
		c.stopErr = c.stop(ctx)
	})
	<-c.done
	return c.stopErr
}

func (c *Client) stop(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	dctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	_, err := pluginpb.NewControlClient(c.cc).Drain(dctx, &pluginpb.DrainRequest{})
	if err != nil {
		c.kill()
		return c.fromStatus(dctx, err, "stop")
	}
	c.side.conn.Close()
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		err = c.errorf(sdk.CodeDeadline, "stop: the process did not end within %v of the end of descriptor 3: killed", killTimeout)
	case <-ctx.Done():
		err = c.errorf(sdk.CodeOf(ctx.Err()), "stop: %v: killed", ctx.Err())
	}
	c.kill()
	return err
}

// Abandon closes the side channel and nothing else, as the death of a kernel
// would. A plugin must end within a second then. It is for tests of plugins.
func (c *Client) Abandon() {
	c.side.conn.Close()
}

// setUp does what follows the connection: who are you, and here is your
// configuration.
func (c *Client) setUp(ctx context.Context, want Kind, config []byte) error {
	if err := c.describe(ctx, want); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	_, err := pluginpb.NewControlClient(c.cc).Open(ctx, &pluginpb.OpenRequest{Config: string(config)})
	return c.fromStatus(ctx, err, "open")
}

func (c *Client) describe(ctx context.Context, want Kind) error {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, err := pluginpb.NewControlClient(c.cc).Describe(ctx, &pluginpb.DescribeRequest{})
	if err != nil {
		return c.fromStatus(ctx, err, "describe")
	}
	kind := Kind(d.GetKind())
	if !kind.Valid() {
		return c.badAnswer("describe", "kind %q", clip(d.GetKind(), 40))
	}
	if want != "" && kind != want {
		return c.errorf(sdk.CodeInvalid, "it is a plugin of kind %s: use it in [plugins.%s-%s]", kind, kind, clip(d.GetName(), 63))
	}
	if _, err := sdk.ParseCellName(d.GetName()); err != nil {
		return c.badAnswer("describe", "%v", err)
	}
	if len(d.GetVersion()) > maxVersion {
		return c.badAnswer("describe", "version of %d bytes: at most %d", len(d.GetVersion()), maxVersion)
	}
	c.info.Kind, c.info.Name, c.info.Version = kind, d.GetName(), clip(d.GetVersion(), maxVersion)
	c.kind.Store(kind)
	if c.label == "" {
		c.label = fmt.Sprintf("%s(%s)", kind, d.GetName())
	}
	return nil
}

// want makes sure that the plugin is of a kind.
func (c *Client) want(kind Kind) error {
	if c.info.Kind != kind {
		return c.errorf(sdk.CodeInvalid, "it is no %s", kind)
	}
	return nil
}

// exitError says how a process ended that nobody stopped.
func (c *Client) exitError(err error) error {
	select {
	case <-c.stopped:
		return nil
	default:
	}
	if err == nil {
		err = errors.New("exited with code 0")
	}
	return fmt.Errorf("%s: the plugin ended by itself: %w", c.label, err)
}
