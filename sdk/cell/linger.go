package cell

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// lingerTime is how long a handler may go on after its call has ended before
// the log says so.
const lingerTime = 5 * time.Second

// lingers watches for handlers that go on although nobody waits for them any
// more: their goroutines are lost, and only their author can help. It watches
// one at a time and says so once for each link, so that a thousand of them
// cost no more than one.
type lingers struct{ watching atomic.Bool }

// watch looks at the handler of a call that is ending, after a while.
func (g *lingers) watch(l *link, ctx *callContext) {
	if ctx.running() == nil || !g.watching.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(lingerTime, func() {
		m := ctx.running()
		if m == nil || l.m.err() != nil {
			g.watching.Store(false)
			return
		}
		slog.Warn("handler goes on although its call has ended", "method", m.name(), "cell", l.peer.Cell, "node", l.peer.Node.Short(), "for", lingerTime)
	})
}
