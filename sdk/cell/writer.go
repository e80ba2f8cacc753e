package cell

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/rawio"
	"golang.org/x/sys/unix"
)

const (
	highWater = 512 << 10        // bytes waiting to be written before senders wait
	hardWater = 8 << 20          // bytes of answers nobody reads before the link is ended
	keepWater = 1 << 20          // larger buffers are not kept
	burst     = 4 << 10          // bytes that are written without waiting for more
	maxTurns  = 64               // writes that somebody makes for others before a goroutine takes over
	farBurst  = 16 << 10         // the same on a link that is not local: a write wakes more processes and fills packets
	stallSize = 256 << 10        // bytes of one blocking write
	stallTime = 30 * time.Second // in which the socket must take some of them
)

// errLinkClosed is the reason of a link that this side ended.
var errLinkClosed = errors.New("link closed")

// A writer collects frames and writes them in as few system calls as it can:
// everybody appends under the lock, the first of them writes for all. It makes
// one attempt that does not block; what the socket does not take is left to a
// goroutine of the writer. So nobody who appends ever waits for the other
// side, the link's reader above all: two sides whose readers wait for each
// other would never move again.
type writer struct {
	mu    sync.Mutex // guards all below; no other lock is taken under it
	buf   []byte     // frames not yet offered to the socket
	spare []byte     // the other buffer, while it is not being written
	busy  bool       // somebody is writing and will write what is appended
	// yielding is set while that somebody lets a crowd append first.
	yielding bool
	err      error // why nothing can be written any more
	room     chan struct{}

	// seal encrypts what is about to be written; nil on a local link. Only the
	// one who is busy uses it and sealed, and nobody before it is set.
	seal   func(dst, plain []byte) []byte
	sealed []byte
	burst  int // what a crowd appends before it is written; set like seal

	conn    net.Conn
	raw     syscall.RawConn
	attempt attempt
	wg      sync.WaitGroup // the goroutine that writes what the socket refused
	done    chan struct{}  // closed with err
	bytes   atomic.Uint64
}

func newWriter(conn net.Conn) (*writer, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.New("open link: connection has no descriptor")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	w := &writer{conn: conn, raw: raw, burst: burst, done: make(chan struct{})}
	w.attempt.init()
	return w, nil
}

// drain writes rest, the part of b that did not fit into the socket, and then
// what came after it. It is the only one that blocks in a write; busy is its mark.
func (w *writer) drain(b, rest []byte) {
	for {
		w.wrote(b, w.push(rest))
		var ok bool
		if b, ok = w.next(); !ok {
			return
		}
		rest = w.wrap(b)
	}
}

// wrap returns what goes to the socket for b: on a link that is not local,
// sealed, in a buffer that is used again for the next.
func (w *writer) wrap(b []byte) []byte {
	if w.seal == nil {
		return b
	}
	if cap(w.sealed) > keepWater {
		w.sealed = nil
	}
	w.sealed = w.seal(w.sealed[:0], b)
	return w.sealed
}

// push writes b, and gives up when the other side takes none of it for long:
// those who wait for room may hold what others need.
func (w *writer) push(b []byte) error {
	defer w.conn.SetWriteDeadline(time.Time{})
	for len(b) > 0 {
		w.conn.SetWriteDeadline(time.Now().Add(stallTime))
		n, err := w.conn.Write(b[:min(len(b), stallSize)])
		b = b[n:]
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("other side does not read: nothing taken for %s", stallTime)
		case err != nil:
			return err
		}
	}
	return nil
}

// next takes the frames to write next, or gives up being the one who writes if
// there are none.
func (w *writer) next() (b []byte, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b = w.take()
	if len(b) == 0 || w.err != nil {
		w.spare = b[:0]
		w.busy = false
		return nil, false
	}
	return b, true
}

// take returns the frames to write next. The caller holds mu.
func (w *writer) take() []byte {
	b := w.buf
	w.buf, w.spare = w.spare[:0], nil
	if len(b) >= highWater && w.room != nil {
		close(w.room)
		w.room = nil
	}
	return b
}

// wrote gives the buffer back to which b belongs.
func (w *writer) wrote(b []byte, err error) {
	w.bytes.Add(uint64(len(b)))
	w.mu.Lock()
	defer w.mu.Unlock()
	if cap(b) <= keepWater {
		w.spare = b[:0]
	}
	if err != nil {
		w.failLocked(err)
	}
}

// lock prepares for an append: it returns with mu held, or with the reason
// why the link can not be written to.
func (w *writer) lock() error {
	w.mu.Lock()
	if w.err != nil {
		err := w.err
		w.mu.Unlock()
		return err
	}
	return nil
}

// A company says who else is about to append, and so when to write.
type company uint8

const (
	alone  company = iota // nobody: write at once
	crowd                 // others: let them append first, then write for all
	corked                // this goroutine itself: it calls uncork between its appends
)

// unlock ends an append. The caller becomes the one who writes if nobody is;
// whoever fills a burst writes in the place of one who waits for the crowd, so
// that the other side can begin.
func (w *writer) unlock(how company) {
	if len(w.buf) > hardWater {
		w.failLocked(errors.New("other side does not read: 8 MiB are waiting"))
	}
	full := len(w.buf) >= w.burst
	if w.err != nil || w.busy && !(w.yielding && full) || how == corked {
		w.mu.Unlock()
		return
	}
	if how == crowd && !full {
		w.busy, w.yielding = true, true
		w.mu.Unlock()
		runtime.Gosched()
		w.mu.Lock()
		if !w.yielding {
			w.mu.Unlock() // somebody filled the burst and writes
			return
		}
	}
	w.busy, w.yielding = true, false
	w.mu.Unlock()
	w.flush()
}

// uncork writes what was appended corked, if it is more than that many bytes,
// and reports whether it was.
func (w *writer) uncork(least int) bool {
	w.mu.Lock()
	if len(w.buf) <= least {
		w.mu.Unlock()
		return false
	}
	w.unlock(alone)
	return true
}

// flush writes until nothing is left or the socket is full. It has something
// else to do than to write for others without end: when they append as fast as
// it writes, a goroutine goes on in its place.
func (w *writer) flush() {
	for turn := 1; ; turn++ {
		b, ok := w.next()
		if !ok {
			return
		}
		out := w.wrap(b)
		if turn > maxTurns {
			w.wg.Go(func() { w.drain(b, out) })
			return
		}
		n, err := w.try(out)
		if err == nil && n < len(out) {
			w.wg.Go(func() { w.drain(b, out[n:]) })
			return
		}
		w.wrote(b, err)
	}
}

// try makes one write that does not block. Only the one who is busy calls it.
func (w *writer) try(b []byte) (int, error) {
	w.attempt.b = b
	err := w.raw.Write(w.attempt.do)
	w.attempt.b = nil
	switch {
	case err != nil:
		return 0, err
	case w.attempt.err == unix.EAGAIN || w.attempt.err == unix.EINTR:
		return 0, nil
	}
	return max(w.attempt.n, 0), w.attempt.err
}

// An attempt is the argument and result of one system call, kept in the
// writer because a closure would be allocated for each.
type attempt struct {
	b   []byte
	n   int
	err error
	do  func(fd uintptr) bool
}

func (a *attempt) init() {
	a.do = func(fd uintptr) bool {
		a.n, a.err = rawio.Write(fd, a.b)
		return true
	}
}

// lockRoom is lock for callers and handlers: it waits until the buffer is
// below its high water mark. The reader never waits here.
func (w *writer) lockRoom(b bound) error {
	for {
		if err := w.lock(); err != nil {
			return err
		}
		if len(w.buf) < highWater {
			return nil
		}
		if w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.mu.Unlock()
		h := b.who.wait()
		err := await(room, b.stop, w.done, timeAt(b.until))
		h.resume()
		if err != nil {
			return err
		}
	}
}

// await waits for ready, at most until the given time (zero: no bound), and
// not longer than stop or done are open.
func await(ready, stop, done <-chan struct{}, until time.Time) error {
	var timeout <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ready:
		return nil
	case <-done:
		return nil // the caller looks at the error
	case <-stop:
		if !until.IsZero() && !time.Now().Before(until) {
			return &sdk.Error{Code: sdk.CodeDeadline, Text: "deadline passed while waiting"}
		}
		return &sdk.Error{Code: sdk.CodeCancelled, Text: "cancelled while waiting"}
	case <-timeout:
		return &sdk.Error{Code: sdk.CodeDeadline, Text: "deadline passed while waiting"}
	}
}

// ended reports whether nothing can be written any more.
func (w *writer) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// reason returns why nothing can be written any more, nil while it can.
func (w *writer) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// fail ends the link for writing, and by closing the socket for reading, too.
func (w *writer) fail(err error) {
	w.mu.Lock()
	w.failLocked(err)
	w.mu.Unlock()
}

func (w *writer) failLocked(err error) {
	if w.err != nil {
		return
	}
	w.err = err
	w.buf = nil
	if w.room != nil {
		close(w.room)
		w.room = nil
	}
	close(w.done)
	w.conn.Close()
}
