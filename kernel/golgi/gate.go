package golgi

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"
)

// maxFrom bounds the connections without a link header from one address.
const maxFrom = 64

// A gate counts connections that have not said what they want. On this
// machine all are of one user and wait for each other; of strangers, those
// that are too many are turned away, each address by itself, so that nobody
// can keep others out.
type gate struct {
	mu    sync.Mutex // guards all below
	from  map[string]int
	total int
	freed chan struct{} // closed and replaced by a leave that makes room
}

// here is where connections on this machine come from.
const here = "this machine"

func sourceOf(conn net.Conn, d Door) string {
	if d.Name == "" {
		return here
	}
	if host, _, err := net.SplitHostPort(conn.RemoteAddr().String()); err == nil {
		return host
	}
	return conn.RemoteAddr().String()
}

// enter counts a connection, or reports that it has to go.
func (g *gate) enter(ctx context.Context, from string) bool {
	for {
		g.mu.Lock()
		if g.from == nil {
			g.from, g.freed = make(map[string]int), make(chan struct{})
		}
		limit := maxFrom
		if from == here {
			limit = maxPending
		}
		if g.from[from] < limit && (from == here || g.total < 4*maxPending) {
			g.from[from]++
			g.total++
			g.mu.Unlock()
			return true
		}
		freed := g.freed
		g.mu.Unlock()
		if from != here {
			return false
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return false
		}
	}
}

func (g *gate) leave(from string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.from[from]--; g.from[from] == 0 {
		delete(g.from, from)
	}
	if from == here {
		close(g.freed)
		g.freed = make(chan struct{})
	}
}

// A limiter keeps strangers from filling the log: one line a second.
type limiter struct {
	mu     sync.Mutex // guards all below
	last   time.Time
	hidden int
}

func (l *limiter) warn(log *slog.Logger, text string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.hidden++
		l.mu.Unlock()
		return
	}
	if l.hidden > 0 {
		args = append(args, "others", l.hidden)
	}
	l.last, l.hidden = now, 0
	l.mu.Unlock()
	log.Warn(text, args...)
}
