package golgi

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of connections without a link header.
const (
	maxFrom      = 64             // from one address
	maxStrangers = 4 * maxPending // from all
)

// A gate counts connections that have not said what they want. On this
// machine all are of one user and wait for each other. Of strangers the newest
// may always say it: where there are too many, the oldest makes room, that of
// its own address or, when all places are taken, of the one that has most. So
// who says it at once is heard, unless somebody at his own address, or at as
// many others as there are places, opens them faster than that.
type gate struct {
	mu        sync.Mutex // guards all below
	from      map[string]int
	strangers list.List     // of *visitor, the oldest first
	freed     chan struct{} // closed and replaced by a leave that makes room
}

// A visitor is a connection at the gate.
type visitor struct {
	from string
	conn net.Conn
	at   *list.Element // nil of one from here, and of one that was counted out
}

// here is where connections on this machine come from.
const here = "this machine"

// sourceOf returns what a connection counts for: an IPv4 address, an IPv6
// network as one customer gets it, or what the transport calls it.
func sourceOf(conn net.Conn, d Door) string {
	if d.Name == "" {
		return here
	}
	text := conn.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return text
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 56).Masked().String()
}

// enter counts a connection, and returns who made room for it, to be closed.
// It returns no visitor when ctx is done.
func (g *gate) enter(ctx context.Context, from string, conn net.Conn) (v, out *visitor) {
	v = &visitor{from: from, conn: conn}
	for {
		g.mu.Lock()
		if g.from == nil {
			g.from, g.freed = make(map[string]int), make(chan struct{})
		}
		if from != here {
			out = g.room(from)
			v.at = g.strangers.PushBack(v)
		}
		if from != here || g.from[from] < maxPending {
			g.from[from]++
			g.mu.Unlock()
			return v, out
		}
		freed := g.freed
		g.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// room counts out who has to make room for one more stranger, if anybody has
// to. The caller holds mu.
func (g *gate) room(from string) (out *visitor) {
	full := g.from[from] >= maxFrom
	if !full && g.strangers.Len() < maxStrangers {
		return nil
	}
	for e := g.strangers.Front(); e != nil; e = e.Next() {
		v := e.Value.(*visitor)
		if full && v.from == from || !full && (out == nil || g.from[v.from] > g.from[out.from]) {
			if out = v; full {
				break
			}
		}
	}
	g.uncount(out)
	return out
}

// uncount takes a visitor out of what is counted. The caller holds mu.
func (g *gate) uncount(v *visitor) {
	if v.at != nil {
		g.strangers.Remove(v.at)
		v.at = nil
	} else if v.from != here {
		return // it made room
	}
	if g.from[v.from]--; g.from[v.from] == 0 {
		delete(g.from, v.from)
	}
}

func (g *gate) leave(v *visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.uncount(v)
	if v.from == here {
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
