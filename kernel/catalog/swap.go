package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// How long a swap waits for what usually takes no time, and never longer.
const (
	drainTimeout   = 10 * time.Second // for links to leave an old transport
	idleTimeout    = 5 * time.Second  // for calls on their way in an old process
	arriveTimeout  = time.Second      // for our own dials to a listener that moves
	bindTimeout    = 5 * time.Second  // for the configured port to be bound again
	repeatTimeout  = 5 * time.Second  // for the last announcement in a new process
	balanceTimeout = 10 * time.Second // for the last balances of an old ledger
)

// A Swap is what the caller of [Catalog.Replace] has to say about it.
type Swap struct {
	// Commit looks at the new process, before any call reaches it, and says
	// whether it may replace the old one; nil for yes. Its ctx is done early
	// if the new process ends. It may call what the plugin offers, but must
	// not end it.
	Commit func(ctx context.Context, c Candidate) error
	// Drain is called when new dials go to the new process of a transport. It
	// returns when no link needs the old one any more, and must when ctx is
	// done, after 10 s. Nil waits for that.
	Drain func(ctx context.Context)
}

// A Candidate is a process that may replace another.
type Candidate struct {
	*plugin.Client
	// Before is what the old process of a ledger knew in the end. It is nil
	// for other kinds, for a ledger that nobody has opened, and when there
	// was no old process: then nothing can be compared.
	Before *Book
}

// A Book is the state of a ledger.
type Book struct {
	Head     sdk.Head
	Balances map[sdk.Account]sdk.ATP
}

// A swap is offered to run, which makes the exchange.
type swap struct {
	spec Spec
	// exchange returns the process to go on with, or an error and what is
	// left of old.
	exchange func(ctx context.Context, old *generation) (*generation, error)
	old      *generation   // set before done is closed; nil for none
	err      error         // the same
	done     chan struct{} // closed when calls go to the new process, or never will
}

// Replace exchanges the process of a plugin for one of another version or
// configuration: spec has its kind and name. When it returns nil, calls have
// gone to the new process for some time and the old one is gone. When it
// returns an error the old one serves as before and nothing is left of the
// new one; the error is invalid if spec can never work, has the code of the
// error of Commit, or is unavailable. Once Commit has returned nil, ctx being
// done changes nothing any more.
//
// The new process starts beside the old one, whatever state that is in.
//
//   - Of a discovery, the last announcement is made in the new process, then
//     the old one is killed, because its goodbye would be taken for the
//     node's, and running watches go on in the new one.
//   - A transport listens at a free port for each listener that has a port
//     before Commit is called: see [Listener]. After Commit new dials go to
//     the new process, Drain is waited for, the old process ends, and the
//     configured addresses are bound by the new one. Replace returns then;
//     the free ports stay open for [Options].Grace.
//   - A billing ends when the calls in it have.
//   - Of a ledger there is never more than one process: calls wait, the old
//     process ends when those in it have, the new one starts, and Commit
//     compares it with [Candidate].Before. On an error the old one is started
//     again.
func (c *Catalog) Replace(ctx context.Context, spec Spec, s Swap) error {
	u, err := c.unit(spec.Kind, spec.Name)
	if err != nil {
		return err
	}
	if err := u.take(ctx); err != nil {
		return err
	}
	defer u.give()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(u.ctx, cancel)()
	if spec.Kind == plugin.KindLedger {
		err = u.replaceSerially(ctx, spec, s)
	} else {
		err = u.replaceBeside(ctx, spec, s)
	}
	if err == nil {
		return nil
	}
	if u.ctx.Err() != nil {
		return u.ending()
	}
	code := sdk.CodeOf(err)
	if code == sdk.CodeApplication { // it has none of its own
		code = sdk.CodeUnavailable
	}
	return replaceError{sdk.Errorf(code, "replace %s: %v", u.label(), err), err}
}

// A replaceError says why a process was not replaced, in its own words; what
// Commit refused with can be found in it.
type replaceError struct {
	said  *sdk.Error
	cause error
}

func (e replaceError) Error() string   { return e.said.Error() }
func (e replaceError) Unwrap() []error { return []error{e.said, e.cause} }

func (u *unit) replaceBeside(ctx context.Context, spec Spec, s Swap) error {
	g, err := u.start(ctx, spec)
	if err != nil {
		return err
	}
	for _, l := range u.open() {
		if err == nil {
			err = l.spread(ctx, g)
		}
	}
	if err == nil {
		err = ask(ctx, s.Commit, g, nil)
	}
	w := &swap{spec: spec, exchange: func(context.Context, *generation) (*generation, error) { return g, nil }}
	if err == nil {
		err = u.offer(ctx, w)
	}
	if err != nil {
		for _, l := range u.open() {
			l.gather(g)
		}
		u.stop(g)
		return err
	}
	u.retire(w.old, g, s.Drain)
	return nil
}

// ask calls commit and makes sure that what it said still holds.
func ask(ctx context.Context, commit func(context.Context, Candidate) error, g *generation, before *Book) error {
	cctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-g.Done():
			cancel()
		case <-cctx.Done():
		}
	}()
	var err error
	if commit != nil {
		err = commit(cctx, Candidate{g.Client, before})
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		pctx, pcancel := context.WithTimeout(ctx, pingTimeout)
		err = g.Ping(pctx)
		pcancel()
	}
	cancel()
	<-watched
	if g.gone() {
		return fmt.Errorf("the new process did not survive: %w", g.Err())
	}
	return err
}

// offer has run make the exchange and waits for its result.
func (u *unit) offer(ctx context.Context, w *swap) error {
	w.done = make(chan struct{})
	select {
	case u.offers <- w:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-w.done
	return w.err
}

// exchange makes a swap. Only run calls it. It returns the process to go on
// with, nil for none.
func (u *unit) exchange(ctx context.Context, w *swap, old *generation) *generation {
	g, err := w.exchange(ctx, old)
	w.old, w.err = old, err
	if err == nil {
		u.spec = w.spec
	}
	if g != nil {
		u.set(StateReady, g, nil)
	}
	close(w.done)
	return g
}

// retire ends an old process whose place g has taken.
func (u *unit) retire(old, g *generation, drain func(context.Context)) {
	switch u.key.kind {
	case plugin.KindDiscovery:
		ctx, cancel := context.WithTimeout(u.ctx, repeatTimeout)
		defer cancel()
		select {
		case <-g.revived:
		case <-ctx.Done():
		}
		if old != nil {
			old.Kill()
		}
	case plugin.KindTransport:
		u.retireTransport(old, g, drain)
	default:
		u.leave(old)
	}
}

// leave stops a process that no new call reaches when the last one is done.
func (u *unit) leave(old *generation) {
	if old == nil {
		return
	}
	ctx, cancel := context.WithTimeout(u.ctx, idleTimeout)
	old.idle(ctx)
	cancel()
	u.stop(old)
}

// retireTransport ends the old process when its links have left it, and waits
// until the configured addresses are bound in g.
func (u *unit) retireTransport(old, g *generation, drain func(context.Context)) {
	list := u.open()
	if old != nil {
		for _, l := range list {
			l.forsake(old)
		}
		drained(u.ctx, old, drain)
		hctx, cancel := context.WithTimeout(u.ctx, arriveTimeout)
		for _, l := range list {
			l.hold(hctx)
			defer l.release()
		}
		cancel()
		u.leave(old)
	}
	bctx, cancel := context.WithTimeout(u.ctx, bindTimeout)
	defer cancel()
	for _, l := range list {
		_ = l.bound(bctx, g) // it goes on trying, and says so in the log
	}
	u.tasks.Go(func() {
		timer := time.NewTimer(u.cat.o.Grace)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-g.Done():
		case <-u.ctx.Done():
		}
		for _, l := range list {
			l.gather(g)
		}
	})
}

// drained waits for drain, or for its time to pass, or for the process to end
// by itself.
func drained(ctx context.Context, old *generation, drain func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-old.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if drain != nil {
		drain(ctx)
	} else {
		<-ctx.Done()
	}
	cancel()
	<-ended
}

// replaceSerially exchanges a ledger. run does the work: nothing may start the
// old process meanwhile.
func (u *unit) replaceSerially(ctx context.Context, spec Spec, s Swap) error {
	// What can be known to be wrong is found before anything stops.
	cmd, err := u.cat.command(spec)
	if err != nil {
		return err
	}
	if spec.SHA256 != "" {
		cmd.Exe.Close()
	}
	w := &swap{spec: spec, exchange: func(_ context.Context, old *generation) (*generation, error) {
		return u.succeed(ctx, spec, s, old)
	}}
	err = u.offer(ctx, w)
	if err == nil || u.ctx.Err() != nil {
		return err
	}
	again := u.outcome(context.WithoutCancel(ctx), func() bool { return u.status.State.settled() })
	if again != nil {
		return fmt.Errorf("%w; and the old one does not come back: %v", err, again)
	}
	return err
}

// succeed ends a ledger's old process and makes the next one ready. On an
// error it returns the old one if it still runs.
func (u *unit) succeed(ctx context.Context, spec Spec, s Swap, old *generation) (*generation, error) {
	u.set(StateStarting, nil, nil) // calls wait from now on
	var before *Book
	if old != nil {
		var err error
		if before, err = u.ledger.last(ctx, old); err != nil {
			return old, err
		}
		u.stop(old)
	}
	g, err := u.start(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := ask(ctx, s.Commit, g, before); err != nil {
		u.stop(g)
		return nil, err
	}
	return g, nil
}
