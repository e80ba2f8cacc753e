package cell

import (
	"fmt"
	"sync/atomic"
	"time"
)

// As long as handlers are quick, a link's reader runs them itself, one after
// the other, and writes all their replies at once: handing a call to another
// goroutine takes longer than such a handler. While it runs one nobody reads
// the link; if the handler is still running after inlineLimit, the reaper lets
// another goroutine read on, and the next calls go to workers.
const (
	inlineLimit = time.Millisecond
	inlineQuick = 50 * time.Microsecond // a handler that took longer sends the next calls to workers
	minShun     = 8                     // so many of them, doubled each time in a row
	maxShun     = 4096
	genShift    = 16 // of [inline].word; there are at most wire.MaxMethods methods
)

// An inline is the right to read an incoming link: the generation of its
// reader, and whether that runs a handler, and which. All are in one word, so
// that the reaper and the reader can not both win:
//
//	generation << 16 | method << 1 | running
type inline struct {
	word  atomic.Uint64
	since atomic.Int64 // nanos: when the handler began
	shun  int          // calls to leave to workers; of the reader
	next  int          // how many the next time; of the reader
}

// mayInline reports whether the reader should run a call that it just read.
func (l *inLink) mayInline(c *Call) bool {
	if l.inline.shun > 0 {
		if l.inline.shun--; l.inline.shun == 0 {
			l.r.now = nanos() // the next call begins now, not when its bytes came
		}
		return false
	}
	return c.ctx.stream == nil && l.m.workers.limit == 0
}

// runInline runs the call that start left to the reader. It reports whether
// the reader may go on; if not, another goroutine reads since.
func (l *inLink) runInline() bool {
	c := l.own
	l.own = nil
	gen := l.inline.word.Load() >> genShift
	begun := l.r.now
	t, word := l.tallyOf(c.method), gen<<genShift|uint64(c.method.index)<<1|1
	l.inline.since.Store(begun)
	l.inline.word.Store(word)
	l.m.reaper.lower(&l.next, begun+int64(inlineLimit))
	c.inline = word
	took := c.run(begun)
	defer l.away()
	if !l.inline.word.CompareAndSwap(word, gen<<genShift) {
		t.leave(begun + took) // relieve has entered it
		l.w.uncork(0)         // a reply that came too late to go with others
		return false
	}
	t.quick.Add(took)
	l.r.now += took
	if l.w.uncork(l.w.burst) {
		l.r.now = nanos() // the time that writing takes is no handler's
	}
	if took > int64(inlineQuick) {
		l.leaveToWorkers()
	} else {
		l.inline.next = 0
	}
	return true
}

// leaveToWorkers sends the next calls to workers: more of them each time.
func (l *inLink) leaveToWorkers() {
	l.inline.next = min(max(2*l.inline.next, minShun), maxShun)
	l.inline.shun = l.inline.next
}

// visit is the reaper's: it ends a link whose other side does not say who it
// is, drops requests that do not go on, and replaces a reader whose handler
// takes long.
func (l *inLink) visit(now int64) int64 {
	return min(l.awaitGreeting(now), l.expire(now), l.relieve(now))
}

// awaitGreeting returns until when settings may come, or ends the link.
func (l *inLink) awaitGreeting(now int64) int64 {
	switch {
	case l.greetBy == 0:
	case l.greeted():
		l.greetBy = 0
	case l.greetBy <= now:
		l.greetBy = 0
		l.w.fail(fmt.Errorf("no settings within %s", greetTimeout))
	default:
		return l.greetBy
	}
	return noNext
}

// relieve replaces a reader whose handler takes long.
func (l *inLink) relieve(now int64) int64 {
	word := l.inline.word.Load()
	if word&1 == 0 {
		if n := l.r.bytes.Load(); n != l.visited {
			l.visited = n // calls go on: look again, rather than be told by each
			return now + int64(inlineLimit)
		}
		return noNext
	}
	since := l.inline.since.Load()
	if due := since + int64(inlineLimit); due > now {
		return due
	}
	l.handOver(word, since)
	return noNext
}

// handOver lets another goroutine read on than the one that has run a handler
// since then, if word still is what that does.
func (l *inLink) handOver(word uint64, since int64) {
	if l.inline.word.CompareAndSwap(word, (word>>genShift+1)<<genShift) {
		l.tallies[word&(1<<genShift-1)>>1].enter(since)
		l.leaveToWorkers() // the next reader's; it does not run yet
		l.m.wg.Go(l.read)  // which uncorks
	}
}
