package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Discovery returns the discovery called name. After a restart or an exchange
// the last announcement is made again, and a Watch goes on: it reports a new
// snapshot and another synced. An error of the plugin itself ends a Watch.
func (c *Catalog) Discovery(name string) (sdk.Discovery, error) {
	u, err := c.unit(plugin.KindDiscovery, name)
	if err != nil {
		return nil, err
	}
	return u.discovery, nil
}

type discovery struct {
	u      *unit
	turn   chan struct{}  // of capacity 1, held while announcing; guards the fields below
	wanted []sdk.Envelope // the last that was asked for
	any    bool           // anything was
}

// Announce remembers self before it tries: what is wanted survives failures.
func (d *discovery) Announce(ctx context.Context, self []sdk.Envelope) error {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d.wanted, d.any = slices.Clone(self), true
	_, err := retry(ctx, d.u, func(c *generation) (struct{}, error) {
		return struct{}{}, announce(ctx, c, self)
	})
	return err
}

func announce(ctx context.Context, c *generation, self []sdk.Envelope) error {
	inner, err := c.Discovery()
	if err != nil {
		return err
	}
	return inner.Announce(ctx, self)
}

// revive announces in a new process, until it is accepted or the process ends.
func (d *discovery) revive(ctx context.Context, c *generation) {
	for delay := minBackoff; ctx.Err() == nil; delay = min(2*delay, maxPause) {
		err := d.announceAgain(ctx, c)
		if err == nil || errors.Is(err, plugin.ErrGone) {
			return
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// announceAgain waits for an Announce that is under way: its word is newer.
func (d *discovery) announceAgain(ctx context.Context, c *generation) error {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !d.any {
		return nil
	}
	return announce(ctx, c, d.wanted)
}

// Watch watches process after process.
func (d *discovery) Watch(ctx context.Context, saw func(sdk.Event)) error {
	for ctx.Err() == nil {
		_, err := retry(ctx, d.u, func(c *generation) (struct{}, error) {
			inner, err := c.Discovery()
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, inner.Watch(ctx, saw)
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// Ledger returns the ledger called name. A new process has opened its book
// before the first call reaches it.
func (c *Catalog) Ledger(name string) (sdk.Ledger, error) {
	u, err := c.unit(plugin.KindLedger, name)
	if err != nil {
		return nil, err
	}
	return u.ledger, nil
}

type ledger struct {
	u      *unit
	mu     sync.Mutex // guards opened
	opened bool
}

func (l *ledger) prime(ctx context.Context, c *generation) error {
	l.mu.Lock()
	opened := l.opened
	l.mu.Unlock()
	if !opened {
		return nil
	}
	inner, err := c.Ledger()
	if err != nil {
		return err
	}
	_, err = inner.Open(ctx)
	return err
}

// last waits for the calls in an old process and returns what it knows then,
// or nil if nobody has opened it.
func (l *ledger) last(ctx context.Context, old *generation) (*Book, error) {
	ctx, cancel := context.WithTimeout(ctx, balanceTimeout)
	defer cancel()
	if !old.idle(ctx) {
		return nil, errors.Join(errors.New("the old process did not finish its calls"), ctx.Err())
	}
	l.mu.Lock()
	opened := l.opened
	l.mu.Unlock()
	if !opened {
		return nil, nil
	}
	inner, err := old.Ledger()
	if err != nil {
		return nil, err
	}
	var b Book
	if b.Head, b.Balances, err = inner.Balances(ctx); err != nil {
		return nil, fmt.Errorf("read the last balances of the old process: %w", err)
	}
	return &b, nil
}

// onLedger retries f: a stored batch that is appended again is success.
func onLedger[T any](ctx context.Context, l *ledger, f func(sdk.Ledger) (T, error)) (T, error) {
	return retry(ctx, l.u, func(c *generation) (T, error) {
		inner, err := c.Ledger()
		if err != nil {
			var zero T
			return zero, err
		}
		return f(inner)
	})
}

func (l *ledger) Open(ctx context.Context) (sdk.Head, error) {
	h, err := onLedger(ctx, l, func(inner sdk.Ledger) (sdk.Head, error) { return inner.Open(ctx) })
	if err == nil {
		l.mu.Lock()
		l.opened = true
		l.mu.Unlock()
	}
	return h, err
}

func (l *ledger) Append(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	return onLedger(ctx, l, func(inner sdk.Ledger) (sdk.Head, error) { return inner.Append(ctx, after, batch) })
}

// Read goes on behind the last record it yielded.
func (l *ledger) Read(ctx context.Context, from uint64, yield func(sdk.Record) bool) error {
	_, err := onLedger(ctx, l, func(inner sdk.Ledger) (struct{}, error) {
		return struct{}{}, inner.Read(ctx, from, func(r sdk.Record) bool {
			from = r.Seq + 1
			return yield(r)
		})
	})
	return err
}

func (l *ledger) Balances(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	type snapshot struct {
		head     sdk.Head
		balances map[sdk.Account]sdk.ATP
	}
	s, err := onLedger(ctx, l, func(inner sdk.Ledger) (s snapshot, err error) {
		s.head, s.balances, err = inner.Balances(ctx)
		return s, err
	})
	return s.head, s.balances, err
}

// Billing returns the billing called name.
func (c *Catalog) Billing(name string) (sdk.Billing, error) {
	u, err := c.unit(plugin.KindBilling, name)
	if err != nil {
		return nil, err
	}
	return &billing{u}, nil
}

type billing struct{ u *unit }

func onBilling[T any](ctx context.Context, b *billing, f func(sdk.Billing) (T, error)) (T, error) {
	return retry(ctx, b.u, func(c *generation) (T, error) {
		inner, err := c.Billing()
		if err != nil {
			var zero T
			return zero, err
		}
		return f(inner)
	})
}

func (b *billing) Place(ctx context.Context, w sdk.Workload) (sdk.Placement, error) {
	return onBilling(ctx, b, func(inner sdk.Billing) (sdk.Placement, error) { return inner.Place(ctx, w) })
}

func (b *billing) Usage(ctx context.Context, live []sdk.Running) ([]sdk.Usage, error) {
	return onBilling(ctx, b, func(inner sdk.Billing) ([]sdk.Usage, error) { return inner.Usage(ctx, live) })
}

func (b *billing) Close(ctx context.Context, r sdk.Running, exit sdk.Exit) (sdk.Usage, error) {
	return onBilling(ctx, b, func(inner sdk.Billing) (sdk.Usage, error) { return inner.Close(ctx, r, exit) })
}
