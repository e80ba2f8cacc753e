package memplugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/cellkernel/cellkernel/sdk"
)

// backlog is how many dialled connections wait for Accept; more dials wait.
const backlog = 16

// A network is where transports of one value meet.
type network struct {
	mu        sync.Mutex // guards the fields below
	listeners map[string]*listener
	last      int
}

type transport struct{ net *network }

// Listen takes any host; one that ends in ":0" gets a number of its own.
func (t *transport) Listen(ctx context.Context, addr sdk.Addr) (net.Listener, error) {
	if addr.Scheme != "mem" {
		return nil, sdk.Errorf(sdk.CodeInvalid, "scheme %q: want mem", addr.Scheme)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	host := addr.Host
	if base, ok := cutZero(host); ok {
		n.last++
		host = base + strconv.Itoa(n.last)
	}
	if n.listeners[host] != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "address %q is in use", host)
	}
	l := &listener{net: n, host: host, queue: make(chan net.Conn, backlog), closed: make(chan struct{})}
	n.listeners[host] = l
	return l, nil
}

func cutZero(host string) (string, bool) {
	if len(host) < 2 || host[len(host)-2:] != ":0" {
		return host, false
	}
	return host[:len(host)-1], true
}

// Dial makes a socket pair and queues its other end.
func (t *transport) Dial(ctx context.Context, addr sdk.Addr) (net.Conn, error) {
	t.net.mu.Lock()
	l := t.net.listeners[addr.Host]
	t.net.mu.Unlock()
	if l == nil || addr.Scheme != "mem" {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "nobody listens at %q", addr)
	}
	near, far, err := pair()
	if err != nil {
		return nil, err
	}
	select {
	case l.queue <- far:
		select {
		case <-l.closed: // at the same time: nobody may look into the queue again
			l.drain()
		default:
		}
		return near, nil
	case <-l.closed:
		err = sdk.Errorf(sdk.CodeUnavailable, "nobody listens at %q any more", addr)
	case <-ctx.Done():
		err = ctx.Err()
	}
	near.Close()
	far.Close()
	return nil, err
}

func pair() (a, b net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "mem")
		c, cerr := net.FileConn(f)
		f.Close()
		conns[i] = c
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return conns[0], conns[1], nil
}

type listener struct {
	net    *network
	host   string
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.host)
		l.net.mu.Unlock()
		close(l.closed)
		l.drain()
	})
	return nil
}

func (l *listener) drain() {
	for {
		select {
		case c := <-l.queue:
			c.Close()
		default:
			return
		}
	}
}

func (l *listener) Addr() net.Addr { return address(l.host) }

type address string

func (a address) Network() string { return "mem" }
func (a address) String() string  { return string(a) }
