package cell

import (
	"context"
	"sync"
	"testing"
	"time"
)

func LinksOf(s *Synapse) int   { s.mu.Lock(); defer s.mu.Unlock(); return len(s.all) }
func LockSynapse(s *Synapse)   { s.mu.Lock() }
func UnlockSynapse(s *Synapse) { s.mu.Unlock() }
func DialingOf(s *Synapse) int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.dialing) }

// Held is what links hold in the Membrane's room.
func Held(m *Membrane) int { m.room.mu.Lock(); defer m.room.mu.Unlock(); return m.room.used }

// VisitIn does what the reaper will do after a while about what has come in
// part. The rest of a visit is for one goroutine only: the reaper's own.
func VisitIn(m *Membrane, after time.Duration) {
	for _, l := range m.inLinks() {
		l.expire(nanos() + int64(after))
	}
}

// Retire does what a go-away does.
func Retire(s *Synapse) {
	for _, l := range *s.links.Load() {
		l.closing.Store(true)
		s.lost(l)
		l.closeIfIdle()
	}
}

func TestALateReplyFreesItsSlotOnce(t *testing.T) {
	done := make(chan struct{})
	close(done)
	for i := range 300000 {
		l := &outLink{link: &link{w: &writer{err: errLinkClosed, done: done}, m: &Membrane{}}}
		l.slots = slotTable{link: l, freed: make(chan struct{}, 1)}
		l.turn.Store(turnKeeper)
		s := l.slots.get(4)
		s.state.Store(slotExpired)
		l.inflight.Add(1)
		s.small = append(s.small[:0], 1, 2, 3)
		var wg sync.WaitGroup
		wg.Go(func() { l.end(s, Vesicle{s.small, s}, nil) })
		s.done <- struct{}{}
		l.wait(context.Background(), s)
		wg.Wait()
		a, b := l.slots.get(4), l.slots.get(4)
		if a == b {
			t.Fatalf("round %d: slot %d is handed out twice", i, a.id)
		}
	}
}
