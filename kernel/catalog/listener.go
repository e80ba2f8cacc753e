package catalog

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// maxPause bounds the pause between tries to bind an address or to announce.
const maxPause = 5 * time.Second

// A Listener is what Listen of a catalog's transports returns.
type Listener interface {
	net.Listener
	// Addrs lists where peers reach it now, with hints, and returns a channel
	// that is closed when that has changed. It is one address, that of Addr,
	// except around a [Catalog.Replace]: from before its Commit until a grace
	// after its end there is a free port of the new process, and the
	// configured one is missing while the old process drains.
	Addrs() (addrs []sdk.Addr, changed <-chan struct{})
}

// A branch is a listener in one process.
type branch struct {
	net.Listener
	addr    sdk.Addr
	of      *generation
	ended   chan struct{} // closed when nothing is accepted from it any more
	leaving bool          // nobody shall come here any more; guarded by its listener
}

// A listener is one address across all generations. Its main branch is at
// that address and is made again when it ends; others are at free ports, for
// a while around a swap.
type listener struct {
	u        *unit
	scheme   string
	host     string // what peers dial; never changes
	accepted chan net.Conn
	ctx      context.Context // done when closed, or with the unit
	cancel   context.CancelFunc
	done     chan struct{} // closed when run has ended

	mu      sync.Mutex // guards the fields below and branch.leaving
	main    *branch
	beside  []*branch
	changed chan struct{} // closed and replaced at each change
	closed  bool          // no branch may be added
	// Dials of our own to the address are counted, because while the main
	// branch moves they must wait, and those before must have arrived.
	held     bool
	dialling int
	owed     int // dialled and not yet accepted; less than 0 when others dial, too
}

// newListener makes a listener of its first main branch. A port of 0 must not
// become another one after a restart.
func newListener(u *unit, b *branch) *listener {
	l := &listener{
		u: u, scheme: b.addr.Scheme, host: b.addr.Host, main: b,
		accepted: make(chan net.Conn), done: make(chan struct{}), changed: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(u.ctx)
	return l
}

// change tells everyone who waits. Call it with the lock.
func (l *listener) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// await waits until ok, which is called with the lock, or ctx is done.
func (l *listener) await(ctx context.Context, ok func() bool) error {
	for {
		l.mu.Lock()
		done, changed := ok(), l.changed
		l.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run owns the main branch: nobody else replaces it.
func (l *listener) run() {
	defer close(l.done)
	defer l.cancel()
	for b := l.main; b != nil; b = l.again(b) {
		l.serve(b)
	}
	l.mu.Lock()
	l.closed = true
	rest := slices.Clone(l.beside)
	l.mu.Unlock()
	for _, b := range rest {
		<-b.ended
	}
}

// serve passes connections on until the branch ends.
func (l *listener) serve(b *branch) {
	defer close(b.ended)
	defer b.Close()
	stop := context.AfterFunc(l.ctx, func() { b.Close() })
	defer stop()
	for {
		conn, err := b.Accept()
		if err != nil {
			return
		}
		l.arrived(b)
		select {
		case l.accepted <- conn:
		case <-l.ctx.Done():
			conn.Close()
			return
		}
	}
}

// again listens anew, however long it takes: a restart may be asked for hours
// later. It returns nil when the listener is closed.
func (l *listener) again(before *branch) *branch {
	if !l.u.holds(before.of) {
		// A process that is being ended holds its ports until it is gone.
		select {
		case <-before.of.Done():
		case <-l.ctx.Done():
		}
	}
	for delay := minBackoff; l.ctx.Err() == nil; delay = min(2*delay, maxPause) {
		l.u.mu.Lock()
		changed := l.u.changed
		l.u.mu.Unlock()
		b, err := l.u.bind(l.ctx, sdk.Addr{Scheme: l.scheme, Host: l.host})
		if err == nil {
			l.mu.Lock()
			l.main, l.owed = b, 0
			l.change()
			l.mu.Unlock()
			return b
		}
		l.u.log(slog.LevelWarn, "bind the listener again: "+err.Error())
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-changed:
		case <-l.ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// spread listens in g, too, at a free port of the address. An address without
// ports has no such thing, and nothing happens.
func (l *listener) spread(ctx context.Context, g *generation) error {
	host, port, err := net.SplitHostPort(l.host)
	if err != nil {
		return nil
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil
	}
	b, err := g.bind(ctx, sdk.Addr{Scheme: l.scheme, Host: net.JoinHostPort(host, "0")})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		b.Close()
		return nil
	}
	l.beside = append(l.beside, b)
	l.change()
	go func() {
		l.serve(b)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.beside = slices.DeleteFunc(l.beside, func(x *branch) bool { return x == b })
		l.change()
	}()
	return nil
}

// gather closes the free ports in g.
func (l *listener) gather(g *generation) {
	l.mu.Lock()
	var list []*branch
	for _, b := range l.beside {
		if b.of == g {
			list = append(list, b)
		}
	}
	l.mu.Unlock()
	for _, b := range list {
		b.Close()
	}
}

// forsake tells that peers shall not come to the branches in old any more.
func (l *listener) forsake(old *generation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range append([]*branch{l.main}, l.beside...) {
		b.leaving = b.leaving || b.of == old
	}
	l.change()
}

// hold makes our own dials to the address wait, and returns when those before
// have arrived, or ctx is done. Call release in the end.
func (l *listener) hold(ctx context.Context) {
	l.mu.Lock()
	l.held = true
	l.mu.Unlock()
	// Who does not arrive in time sees a link that ends before its first call.
	_ = l.await(ctx, func() bool { return l.dialling == 0 && l.owed <= 0 })
}

// bound waits until the main branch is one in g.
func (l *listener) bound(ctx context.Context, g *generation) error {
	return l.await(ctx, func() bool { return l.main.of == g || l.ctx.Err() != nil })
}

func (l *listener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	l.change()
}

// enter begins a dial of our own to the address.
func (l *listener) enter(ctx context.Context) error {
	return l.await(ctx, func() bool {
		if l.held {
			return false
		}
		l.dialling++
		return true
	})
}

// leave ends it.
func (l *listener) leave(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialling--
	if connected {
		l.owed++
	}
	if l.held {
		l.change()
	}
}

// arrived counts a connection of the main branch.
func (l *listener) arrived(b *branch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b == l.main {
		l.owed--
	}
	if l.held {
		l.change()
	}
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
func (l *listener) Addr() net.Addr { return address(l.host) }

// Hint returns that of the present process; a restart may change it.
func (l *listener) Hint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.main.addr.Hint
}

// Addrs is described at [Listener].
func (l *listener) Addrs() ([]sdk.Addr, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []sdk.Addr
	for _, b := range append([]*branch{l.main}, l.beside...) {
		if !b.leaving {
			list = append(list, b.addr)
		}
	}
	if list == nil { // a moment in which there is no better one
		list = append(list, l.main.addr)
	}
	return list, l.changed
}

type address string

func (a address) Network() string { return "plugin" }
func (a address) String() string  { return string(a) }
