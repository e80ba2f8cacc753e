package cell

import (
	"sync"
	"sync/atomic"
	"time"
)

// A reaper looks after the deadlines of all links with one timer, which is
// cheaper than one for each call: links say when they want a visit, and while
// no call is in flight nobody wakes at all.
type reaper struct {
	mu    sync.Mutex // guards links
	links map[visited]struct{}
	due   []visited // scratch of visitAll

	wakeAt atomic.Int64 // nanos of the next visit
	kick   chan struct{}
}

// A visited is a link. visit returns when to come again; nextVisit holds it.
type visited interface {
	visit(now int64) int64
	nextVisit() *atomic.Int64
}

func (l *outLink) nextVisit() *atomic.Int64 { return &l.next }
func (l *inLink) nextVisit() *atomic.Int64  { return &l.next }

func newReaper() *reaper {
	r := &reaper{links: make(map[visited]struct{}), kick: make(chan struct{}, 1)}
	r.wakeAt.Store(noNext)
	return r
}

// lower moves a link's next visit forward to at.
func (r *reaper) lower(next *atomic.Int64, at int64) {
	lowerTo(next, at)
	if lowerTo(&r.wakeAt, at) {
		select {
		case r.kick <- struct{}{}:
		default:
		}
	}
}

func lowerTo(v *atomic.Int64, at int64) bool {
	for {
		old := v.Load()
		if old <= at {
			return false
		}
		if v.CompareAndSwap(old, at) {
			return true
		}
	}
}

func (r *reaper) add(l visited) {
	r.mu.Lock()
	r.links[l] = struct{}{}
	r.mu.Unlock()
	r.lower(l.nextVisit(), nanos()) // it may have asked for a visit before it was known
}

func (r *reaper) remove(l visited) {
	r.mu.Lock()
	delete(r.links, l)
	r.mu.Unlock()
}

// run visits until stop is closed.
func (r *reaper) run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		if at := r.wakeAt.Load(); at != noNext {
			wait = max(0, time.Duration(at-nanos()))
		}
		timer.Reset(wait)
		select {
		case <-stop:
			return
		case <-r.kick:
		case <-timer.C:
			r.visitAll()
		}
	}
}

// visitAll visits every link that is due and sets the next time. A link that
// lowers its time meanwhile lowers wakeAt, too, and is not forgotten.
func (r *reaper) visitAll() {
	r.wakeAt.Store(noNext)
	now := nanos()
	r.mu.Lock()
	r.due = r.due[:0]
	for l := range r.links {
		r.due = append(r.due, l)
	}
	r.mu.Unlock()
	for _, l := range r.due {
		next := l.nextVisit()
		at := next.Load()
		if at <= now {
			next.Store(noNext)
			at = l.visit(now)
			lowerTo(next, at)
		}
		if at != noNext {
			lowerTo(&r.wakeAt, at)
		}
	}
}
