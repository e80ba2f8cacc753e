package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// A stopped process is found within 3 s: at most one interval until the next
// ping, and two pings.
const (
	pingInterval = time.Second
	pingTimeout  = 900 * time.Millisecond
	pingMisses   = 2 // of a process that does nothing
	busyMisses   = 6 // of one that computes
	// asleep is how much longer than its deadline a ping takes only if this
	// process was itself stopped or starved; then it proves nothing.
	asleep = 400 * time.Millisecond
)

// watch returns when the plugin has ended, after killing it if it hung. While
// it still runs: with errRestart on request, with a swap that is offered, or
// with nothing when ctx is done.
func (u *unit) watch(ctx context.Context, c *generation) (*swap, error) {
	timer := time.NewTimer(pingInterval)
	defer timer.Stop()
	pid := c.Info().PID
	var p patience
	for {
		select {
		case <-c.Done():
			return nil, c.Err()
		case <-u.requests:
			return nil, errRestart
		case s := <-u.offers:
			return s, nil
		case <-ctx.Done():
			return nil, nil
		case <-timer.C:
		}
		hung, before := false, cpuOf(pid)
		err, counts := ping(ctx, c)
		switch {
		case err == nil:
			p.answered()
			timer.Reset(pingInterval)
		case errors.Is(err, plugin.ErrGone), ctx.Err() != nil:
			hung = p.missed(false)   // it only closed its connection, unless
			timer.Reset(pingTimeout) // Done is about to be closed
		default:
			if counts {
				hung = p.missed(cpuOf(pid) > before)
			}
			timer.Reset(0)
		}
		if hung {
			c.Kill()
			return nil, fmt.Errorf("killed because it hung: %d pings were not answered: %w", p.misses, err)
		}
	}
}

// ping asks once. A failure counts only if this process was awake meanwhile.
func ping(ctx context.Context, c *generation) (err error, counts bool) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err = c.Ping(ctx)
	return err, time.Since(begin) < pingTimeout+asleep
}

// A budget decides when a plugin is started again.
type budget struct {
	limit    int
	window   time.Duration
	failures []time.Time // within the window, oldest first
}

// The pause before a start: within the budget a dead plugin must serve again
// within a second, its start included, however often it died before.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 600 * time.Millisecond
)

// fail notes a failure at now. It returns how long to wait before the next
// start, or false when there have been too many.
func (b *budget) fail(now time.Time) (time.Duration, bool) {
	for len(b.failures) > 0 && now.Sub(b.failures[0]) > b.window {
		b.failures = b.failures[1:]
	}
	n := len(b.failures)
	b.failures = append(b.failures, now)
	if n >= b.limit {
		return 0, false
	}
	delay := maxBackoff
	if n < 10 {
		delay = min(delay, minBackoff<<n)
	}
	// A fifth to either side keeps plugins that died together apart.
	return time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64())), true
}
