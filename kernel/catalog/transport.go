package catalog

import (
	"context"
	"net"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Transport returns the transport called name. It can be had at any time
// after [Catalog.Start] was called with it.
//
// Connections are sockets of this process that plugins do not hold, and
// plugin.Filers. Listeners are [Listener]s and survive their plugin: they
// listen again at the same address, and Accept waits meanwhile.
func (c *Catalog) Transport(name string) (sdk.Transport, error) {
	u, err := c.unit(plugin.KindTransport, name)
	if err != nil {
		return nil, err
	}
	return &transport{u}, nil
}

type transport struct{ u *unit }

// Dial waits for the plugin if it must. While one of our own listeners moves
// to another process, dials to it wait.
func (t *transport) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	l := t.u.listenerAt(addr.Host)
	if l == nil {
		return t.dial(ctx, addr)
	}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	conn, err := t.dial(ctx, addr)
	l.leave(err == nil)
	return conn, err
}

func (t *transport) dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	return retry(ctx, t.u, func(g *generation) (net.Conn, error) {
		tr, err := g.Transport()
		if err != nil {
			return nil, err
		}
		return tr.Dial(ctx, addr)
	})
}

// Listen returns once the address is bound for the first time.
func (t *transport) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	b, err := t.u.bind(ctx, addr)
	if err != nil {
		return nil, err
	}
	l := newListener(t.u, b)
	if !t.u.adopt(l) {
		b.Close()
		return nil, t.u.ending()
	}
	return l, nil
}

// bind opens a listener in the present process, which may change meanwhile.
func (u *unit) bind(ctx context.Context, addr sdk.Addr) (*branch, error) {
	return retry(ctx, u, func(g *generation) (*branch, error) { return g.bind(ctx, addr) })
}

func (g *generation) bind(ctx context.Context, addr sdk.Addr) (*branch, error) {
	tr, err := g.Transport()
	if err != nil {
		return nil, err
	}
	inner, err := tr.Listen(ctx, sdk.Addr{Scheme: addr.Scheme, Host: addr.Host})
	if err != nil {
		return nil, err
	}
	b := &branch{Listener: inner, of: g, ended: make(chan struct{})}
	b.addr = sdk.Addr{Scheme: addr.Scheme, Host: inner.Addr().String()}
	if h, ok := inner.(sdk.Hinter); ok {
		b.addr.Hint = h.Hint()
	}
	return b, nil
}

// adopt starts a listener, unless the unit is ending.
func (u *unit) adopt(l *listener) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.listeners[l] = true
	u.tasks.Go(func() {
		l.run()
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.listeners, l)
	})
	return true
}

// open lists the listeners.
func (u *unit) open() []*listener {
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []*listener
	for l := range u.listeners {
		list = append(list, l)
	}
	return list
}

// listenerAt returns our own listener at host, nil for none.
func (u *unit) listenerAt(host string) *listener {
	u.mu.Lock()
	defer u.mu.Unlock()
	for l := range u.listeners {
		if l.host == host {
			return l
		}
	}
	return nil
}
