package cell

import (
	"errors"
	"log/slog"
	"os"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/synapse"
)

// hearLink takes a link: the answer to a dial, or one to serve.
func (m *Membrane) hearLink(msg channel.Message, f *os.File) {
	if !msg.Link.Outgoing {
		m.accept(*msg.Link, f)
	} else if !m.answer(msg.ID, dialled{info: *msg.Link, file: f}) {
		f.Close() // nobody waits any more
		m.unused(*msg.Link)
	}
}

// unused tells the kernel that a link it dialled for this cell has no end
// here. Of local ones it hears from the other end.
func (m *Membrane) unused(info channel.Link) {
	if !info.Local {
		m.wg.Go(func() { m.say(channel.Message{Type: channel.TypeClosed, ID: info.ID}) })
	}
}

// accept serves a link, one that is not local once it is secured.
func (m *Membrane) accept(info channel.Link, f *os.File) {
	l, err := newIn(m, info, f)
	if err != nil {
		slog.Error("accept link", "from", info.Cell, "error", err)
		m.gone(info.ID)
		return
	}
	if info.Local {
		m.serve(l)
		return
	}
	m.mu.Lock()
	ok := m.why == nil && m.securing < maxSecuring && m.securingOf[info.Node] < maxSecuringNode
	if ok {
		m.securing++
		m.securingOf[info.Node]++
	}
	m.mu.Unlock()
	if !ok {
		l.abandon(errLinkClosed)
		m.gone(info.ID)
		return
	}
	m.wg.Go(func() { m.serveForeign(l) })
}

// secured is told when a handshake has ended, one way or the other.
func (m *Membrane) secured(node sdk.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.securing--
	if m.securingOf[node]--; m.securingOf[node] == 0 {
		delete(m.securingOf, node)
	}
}

// serveForeign secures a link and serves it.
func (m *Membrane) serveForeign(l *inLink) {
	err := m.watch(l.link)
	if err == nil {
		err = l.secure()
	}
	m.secured(l.info.Node)
	if err != nil {
		m.unwatch(l.link)
		l.abandon(err)
		m.gone(l.info.ID)
		level := slog.LevelWarn
		if errors.Is(err, synapse.ErrHandshake) {
			level = slog.LevelDebug // a caller that left meanwhile, as a rule
		}
		slog.Log(m.life, level, "link refused", "from", l.info.Cell, "node", l.info.Node.Short(), "error", err)
		return
	}
	m.serve(l)
}

// serve makes a link known, and begins to read it.
func (m *Membrane) serve(l *inLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why != nil || !m.ready {
		m.wg.Go(func() { m.unwatch(l.link); l.abandon(errCellGone) })
		m.gone(l.info.ID)
		return
	}
	if err := l.open(); err != nil {
		m.wg.Go(func() { m.unwatch(l.link) })
		m.gone(l.info.ID)
		slog.Error("accept link", "from", l.info.Cell, "error", err)
		return
	}
	m.in[l.info.ID] = l
	if m.draining.Load() {
		l.goAway()
	}
}

// gone tells the kernel that a link was never served.
func (m *Membrane) gone(id uint64) {
	m.wg.Go(func() {
		m.say(channel.Message{Type: channel.TypeClosed, ID: id, Stats: &channel.Stats{Links: []channel.LinkStats{{ID: id}}}})
	})
}

// ended is told when a link this cell served is over.
func (m *Membrane) ended(l *inLink) {
	m.mu.Lock()
	delete(m.in, l.info.ID)
	if m.welcome.Meter && l.active.Load() > 0 {
		m.outlived[l] = struct{}{}
	}
	m.mu.Unlock()
	m.unwatch(l.link)
	if m.draining.Load() {
		wakeUp(m.idle)
	}
	l.over.Store(overSilent)
	if l.active.Load() == 0 || !m.welcome.Meter {
		m.sayClosed(l)
	}
}

// What the kernel heard of a link's end.
const (
	overNot    = iota // it has not ended
	overSilent        // nothing yet: handlers of its calls still run, and somebody owes for them
	overSaid
)

// sayClosed tells the kernel the last counters of a link.
func (m *Membrane) sayClosed(l *inLink) {
	if !l.over.CompareAndSwap(overSilent, overSaid) {
		return
	}
	m.wg.Go(func() {
		m.say(channel.Message{Type: channel.TypeClosed, ID: l.info.ID, Stats: m.account.last(l)})
	})
}
