package golgi

import (
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/sdk/channel"
)

// pingAll looks after processes and links. It asks all processes for a sign of life, which the sdk gives without
// user code. If the kernel itself was stopped, the time of that is nobody
// else's fault and the count begins anew.
func (g *Golgi) pingAll() {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-g.ctx.Done():
			return
		case now := <-tick.C:
			awake := now.Sub(last) < 2*pingEvery
			last = now
			g.mu.Lock()
			for s := range g.seats {
				g.ping(s, awake)
			}
			g.mu.Unlock()
			g.renew(now)
		}
	}
}

func (g *Golgi) ping(s *seat, awake bool) {
	if !awake {
		s.pings = 0
	}
	if s.pings >= pingLimit {
		s.pings = 0
		if g.opt.Hung != nil {
			g.opt.Hung(s.id, fmt.Sprintf("no answer for %s", pingLimit*pingEvery))
		}
		return
	}
	s.pings++
	s.put(channel.Message{Type: channel.TypePing}, nil)
}
