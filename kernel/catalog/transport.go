package catalog

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// goneGrace is how long a connection to a plugin may look broken before the
// death of its process shows.
const goneGrace = 5 * time.Second

// retry calls f on the plugin, again whenever the process ends, or is being
// replaced, under the call. Only calls that may be repeated come here.
func retry[T any](ctx context.Context, u *unit, f func(*plugin.Client) (T, error)) (T, error) {
	for {
		var v T
		c, err := u.get(ctx)
		if err != nil {
			return v, err
		}
		v, err = f(c)
		if err != nil && ctx.Err() == nil && !u.holds(c) {
			continue
		}
		if !errors.Is(err, plugin.ErrGone) {
			return v, err
		}
		timer := time.NewTimer(goneGrace)
		select {
		case <-c.Done():
			timer.Stop()
		case <-timer.C:
			return v, err
		case <-ctx.Done():
			timer.Stop()
			return v, err
		}
	}
}

// Transport returns the transport called name. It can be had at any time
// after [Catalog.Start] was called with it.
//
// Connections are sockets of this process that plugins do not hold, and
// plugin.Filers. Listeners survive their plugin: they listen again at the same
// address, and Accept waits meanwhile.
func (c *Catalog) Transport(name string) (sdk.Transport, error) {
	u, err := c.unit(plugin.KindTransport, name)
	if err != nil {
		return nil, err
	}
	return &transport{u}, nil
}

type transport struct{ u *unit }

// Dial waits for the plugin if it must.
func (t *transport) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	return retry(ctx, t.u, func(c *plugin.Client) (net.Conn, error) {
		tr, err := c.Transport()
		if err != nil {
			return nil, err
		}
		return tr.Dial(ctx, addr)
	})
}

// Listen returns once the address is bound for the first time.
func (t *transport) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	inner, err := t.listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	l := &listener{t: t, addr: addr, inner: inner, accepted: make(chan net.Conn), done: make(chan struct{})}
	// A port of 0 must not become another one after a restart.
	l.addr.Host = inner.Addr().String()
	l.ctx, l.cancel = context.WithCancel(t.u.cat.ctx)
	t.u.cat.tasks.Go(l.run)
	return l, nil
}

func (t *transport) listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	return retry(ctx, t.u, func(c *plugin.Client) (net.Listener, error) {
		tr, err := c.Transport()
		if err != nil {
			return nil, err
		}
		return tr.Listen(ctx, addr)
	})
}

// A listener is a plugin's listener that is made again when it ends.
type listener struct {
	t        *transport
	addr     sdk.Addr
	accepted chan net.Conn
	ctx      context.Context // done when closed, or with the catalog
	cancel   context.CancelFunc
	done     chan struct{} // closed when run has ended

	mu    sync.Mutex // guards inner
	inner net.Listener
}

// run owns the inner listener: nobody else replaces it.
func (l *listener) run() {
	defer close(l.done)
	defer l.cancel()
	for {
		inner := l.current()
		stop := context.AfterFunc(l.ctx, func() { inner.Close() })
		l.accept(inner)
		stop()
		inner.Close()
		if !l.again() {
			return
		}
	}
}

// accept passes connections on until inner ends.
func (l *listener) accept(inner net.Listener) {
	for {
		conn, err := inner.Accept()
		if err != nil {
			return
		}
		select {
		case l.accepted <- conn:
		case <-l.ctx.Done():
			conn.Close()
			return
		}
	}
}

// again listens anew, however long it takes: a restart may be asked for hours
// later. It returns false when the listener is closed.
func (l *listener) again() bool {
	for delay := minBackoff; l.ctx.Err() == nil; delay = min(2*delay, maxBackoff) {
		inner, err := l.t.listen(l.ctx, sdk.Addr{Scheme: l.addr.Scheme, Host: l.addr.Host})
		if err == nil {
			l.mu.Lock()
			l.inner = inner
			l.mu.Unlock()
			return true
		}
		l.t.u.log(slog.LevelWarn, "bind the listener again: "+err.Error())
		l.t.u.mu.Lock()
		changed := l.t.u.changed
		l.t.u.mu.Unlock()
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-changed:
		case <-l.ctx.Done():
		}
		timer.Stop()
	}
	return false
}

func (l *listener) current() net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inner
}

// Accept waits for a connection, across restarts of the plugin.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close returns when the address is free again.
func (l *listener) Close() error {
	l.cancel()
	<-l.done
	return nil
}

// Addr returns the host part that peers dial. It never changes.
func (l *listener) Addr() net.Addr { return address(l.addr.Host) }

// Hint returns that of the present process; a restart may change it.
func (l *listener) Hint() []byte {
	if h, ok := l.current().(sdk.Hinter); ok {
		return h.Hint()
	}
	return nil
}

type address string

func (a address) Network() string { return "plugin" }
func (a address) String() string  { return string(a) }
