package plugintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

func discoveryClauses() []clause {
	return []clause{
		{"discovery/synced", "says synced, once, also when nobody is there", checkSynced, false},
		{"discovery/watch-ends", "ends a watch with nil when its ctx is done", checkWatchEnds, false},
		{"discovery/seen", "shows an announcement to who watches already", onPair(checkSeen), false},
		{"discovery/late", "shows an announcement to who watches later", onPair(checkLate), false},
		{"discovery/replace", "shows what replaces an announcement", onPair(checkReplace), false},
		{"discovery/goodbye", "shows that an empty announcement is a goodbye", onPair(checkGoodbye), false},
		{"discovery/largest", "carries envelopes of the largest size, byte-exact", onPair(checkLargest), false},
		{"discovery/two-watches", "serves two watches at once", onPair(checkTwoWatches), false},
		{"discovery/again", "accepts announcing the same again", checkAnnounceAgain, false},
	}
}

// A watch collects what one Watch saw.
type watch struct {
	cancel context.CancelFunc
	ended  chan error // what Watch returned

	mu     sync.Mutex // guards the fields below
	events []sdk.Event
	change chan struct{} // closed and replaced at each event
}

// startWatch watches until the clause ends.
func startWatch(e *env, d sdk.Discovery) *watch {
	ctx, cancel := context.WithCancel(e.ctx)
	w := &watch{cancel: cancel, ended: make(chan error, 1), change: make(chan struct{})}
	go func() {
		w.ended <- d.Watch(ctx, func(ev sdk.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, ev)
			close(w.change)
			w.change = make(chan struct{})
		})
	}()
	e.later(cancel)
	return w
}

// until waits for an event that ok accepts.
func (w *watch) until(ctx context.Context, what string, ok func(sdk.Event) bool) error {
	for next := 0; ; {
		w.mu.Lock()
		for ; next < len(w.events); next++ {
			if ok(w.events[next]) {
				w.mu.Unlock()
				return nil
			}
		}
		change := w.change
		w.mu.Unlock()
		select {
		case <-change:
		case err := <-w.ended:
			return fmt.Errorf("the watch ended before it saw %s: %v", what, err)
		case <-ctx.Done():
			return fmt.Errorf("the watch did not see %s", what)
		}
	}
}

func (w *watch) seen(ctx context.Context, env sdk.Envelope) error {
	return w.until(ctx, fmt.Sprintf("an envelope of %d bytes", len(env)), func(ev sdk.Event) bool {
		return ev.Kind == sdk.EventSeen && bytes.Equal(ev.Envelope, env)
	})
}

func (w *watch) synced(ctx context.Context) error {
	return w.until(ctx, "synced", func(ev sdk.Event) bool { return ev.Kind == sdk.EventSynced })
}

// nodes are two instances that can meet.
type nodes struct {
	e    *env
	a, b sdk.Discovery
}

func onPair(check func(*nodes) error) func(*env) error {
	return func(e *env) error {
		if e.o.Alone {
			return skipError("its instances can not meet here")
		}
		a, err := openDiscovery(e, e.o.Config)
		if err != nil {
			return err
		}
		second := e.o.Second
		if second == nil {
			second = e.o.Config
		}
		b, err := openDiscovery(e, second)
		if err != nil {
			return err
		}
		return check(&nodes{e, a, b})
	}
}

func openDiscovery(e *env, config map[string]any) (sdk.Discovery, error) {
	c, err := e.openWith(config, "")
	if err != nil {
		return nil, err
	}
	return c.Discovery()
}

func checkSynced(e *env) error {
	d, err := openDiscovery(e, e.o.Config)
	if err != nil {
		return err
	}
	return startWatch(e, d).synced(e.ctx)
}

func checkWatchEnds(e *env) error {
	d, err := openDiscovery(e, e.o.Config)
	if err != nil {
		return err
	}
	w := startWatch(e, d)
	if err := w.synced(e.ctx); err != nil {
		return err
	}
	w.cancel()
	select {
	case err := <-w.ended:
		return err
	case <-e.ctx.Done():
		return errors.New("it still watches")
	}
}

func checkSeen(n *nodes) error {
	w := startWatch(n.e, n.b)
	if err := w.synced(n.e.ctx); err != nil {
		return err
	}
	env := noise(300)
	if err := n.a.Announce(n.e.ctx, []sdk.Envelope{env}); err != nil {
		return err
	}
	return w.seen(n.e.ctx, env)
}

func checkLate(n *nodes) error {
	env := noise(300)
	if err := n.a.Announce(n.e.ctx, []sdk.Envelope{env}); err != nil {
		return err
	}
	return startWatch(n.e, n.b).seen(n.e.ctx, env)
}

func checkReplace(n *nodes) error {
	w := startWatch(n.e, n.b)
	for i := range 3 {
		env := append([]byte{byte(i)}, noise(100)...)
		if err := n.a.Announce(n.e.ctx, []sdk.Envelope{env}); err != nil {
			return err
		}
		if err := w.seen(n.e.ctx, env); err != nil {
			return fmt.Errorf("announcement %d: %w", i+1, err)
		}
	}
	return nil
}

func checkGoodbye(n *nodes) error {
	w := startWatch(n.e, n.b)
	env := noise(100)
	if err := n.a.Announce(n.e.ctx, []sdk.Envelope{env}); err != nil {
		return err
	}
	if err := w.seen(n.e.ctx, env); err != nil {
		return err
	}
	if err := n.a.Announce(n.e.ctx, nil); err != nil {
		return err
	}
	return w.until(n.e.ctx, "a goodbye", func(ev sdk.Event) bool {
		return ev.Kind == sdk.EventGone && (len(ev.Envelope) == 0 || bytes.Equal(ev.Envelope, env))
	})
}

func checkLargest(n *nodes) error {
	w := startWatch(n.e, n.b)
	self := make([]sdk.Envelope, 4)
	for i := range self {
		self[i] = noise(sdk.MaxEnvelope)
	}
	if err := n.a.Announce(n.e.ctx, self); err != nil {
		return err
	}
	for _, env := range self {
		if err := w.seen(n.e.ctx, env); err != nil {
			return err
		}
	}
	return nil
}

func checkTwoWatches(n *nodes) error {
	v, w := startWatch(n.e, n.b), startWatch(n.e, n.b)
	if err := errors.Join(v.synced(n.e.ctx), w.synced(n.e.ctx)); err != nil {
		return err
	}
	env := noise(50)
	if err := n.a.Announce(n.e.ctx, []sdk.Envelope{env}); err != nil {
		return err
	}
	return errors.Join(v.seen(n.e.ctx, env), w.seen(n.e.ctx, env))
}

func checkAnnounceAgain(e *env) error {
	d, err := openDiscovery(e, e.o.Config)
	if err != nil {
		return err
	}
	env := noise(50)
	for range 3 {
		ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
		err := d.Announce(ctx, []sdk.Envelope{env})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}
