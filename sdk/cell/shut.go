package cell

import (
	"fmt"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
)

// after runs f later, unless the Membrane is closed before.
func (m *Membrane) after(d time.Duration, f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why != nil {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		m.mu.Lock()
		_, ok := m.timers[t]
		delete(m.timers, t)
		if ok {
			m.wg.Add(1)
		}
		m.mu.Unlock()
		if ok {
			defer m.wg.Done()
			f()
		}
	})
	m.timers[t] = struct{}{}
}

// shut closes the Membrane because of err. The first reason stays.
func (m *Membrane) shut(err error) {
	m.mu.Lock()
	if m.why != nil {
		m.mu.Unlock()
		return
	}
	m.why = &sdk.Error{Code: sdk.CodeUnavailable, Executed: sdk.ExecutedNo, Text: err.Error()}
	close(m.closed)
	m.die()
	for t := range m.timers {
		t.Stop()
	}
	m.timers = nil
	synapses := make([]*Synapse, 0, len(m.synapses))
	for _, s := range m.synapses {
		synapses = append(synapses, s)
	}
	m.mu.Unlock()
	m.ch.Close()
	for _, s := range synapses {
		s.close(err)
	}
	for _, l := range m.inLinks() {
		l.w.fail(errLinkClosed)
	}
}

// Close leaves the kernel: all links end, calls in flight fail, contexts of
// handlers are cancelled. It waits for them, at most five seconds; the error
// says that some handler does not return. Closing again returns the same.
func (m *Membrane) Close() error { return m.closeOnce() }

func (m *Membrane) close() error {
	m.shut(errCellGone)
	done := make(chan struct{})
	go func() {
		m.wg.Wait() // the readers among them: nobody starts a handler any more
		m.key.Wipe()
		m.account.close()
		close(m.workers.work)
		m.workers.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("close: handlers still run after %s", closeTimeout)
	}
}
