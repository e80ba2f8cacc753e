package settle

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cellkernel/cellkernel/kernel/books"
	"github.com/cellkernel/cellkernel/sdk"
)

const (
	queueSize  = 4096                   // ops that wait; more of them wait to wait
	stuckAfter = time.Second            // new work is not begun while a batch takes so long
	retryFirst = 20 * time.Millisecond  // after a ledger did not answer
	retryLast  = 500 * time.Millisecond // and at most
)

// errNoLedger is what money is without "golgi.ledger".
var errNoLedger = sdk.Errorf(sdk.CodeUnavailable, "no ledger: \"golgi.ledger\" is empty")

// A writer makes one batch of what waits, and tells who waits when it is
// durable. While a ledger does not answer the batch stays the same: stored
// already or not, it is stored once.
type writer struct {
	find   func() (sdk.Ledger, error)
	self   sdk.NodeID
	queue  chan request
	opened chan struct{} // closed when the book is loaded, or never will be
	closed chan struct{} // closed when nothing is booked any more
	down   func(error)   // told that the ledger does not answer, nil when it does again

	ahead *books.Book // what will be durable: run's own

	storing atomic.Int64 // since when, in Unix nanoseconds; 0 while it is not

	mu     sync.Mutex // guards what follows
	ledger sdk.Ledger // nil before the book is loaded
	book   *books.Book
	err    error // why there is none
}

type request struct {
	id   sdk.RecordID
	op   books.Op
	done chan outcome // capacity 1
}

type outcome struct {
	result books.Result
	err    error
}

func newWriter(find func() (sdk.Ledger, error), self sdk.NodeID, down func(error)) *writer {
	return &writer{
		find: find, self: self, down: down, queue: make(chan request, queueSize), opened: make(chan struct{}), closed: make(chan struct{}),
		err: sdk.Errorf(sdk.CodeUnavailable, "the book is not open yet"),
	}
}

// newID makes an id for an op of the kernel's own.
func newID() sdk.RecordID {
	var random [10]byte
	rand.Read(random[:]) // never fails: see package crypto/rand
	return books.NewID(time.Now(), random)
}

// do books op and returns when it is durable. An error without a result of
// ctx's end means that it may be booked yet.
func (w *writer) do(ctx context.Context, id sdk.RecordID, op books.Op) (books.Result, error) {
	r := request{id, op, make(chan outcome, 1)}
	select {
	case w.queue <- r:
	case <-w.closed:
		return books.Result{}, w.why()
	case <-ctx.Done():
		return books.Result{}, ctx.Err()
	}
	select {
	case o := <-r.done:
		return o.result, o.err
	case <-w.closed:
		select { // it may have been the last
		case o := <-r.done:
			return o.result, o.err
		default:
			return books.Result{}, w.why()
		}
	case <-ctx.Done():
		return books.Result{}, ctx.Err()
	}
}

// stuck reports that the ledger takes longer than any disk does.
func (w *writer) stuck() bool {
	since := w.storing.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(stuckAfter)
}

// view has f look at the book as far as it is durable. f must not keep it.
func (w *writer) view(f func(*books.Book)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.book == nil {
		return w.err
	}
	f(w.book)
	return nil
}

func (w *writer) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// run loads the book and writes until ctx is done, or something is wrong that
// will not pass. Then nothing is booked any more: it returns why.
func (w *writer) run(ctx context.Context) error {
	err := w.write(ctx)
	w.mu.Lock()
	w.err = sdk.Errorf(sdk.CodeUnavailable, "the book is closed: %v", err)
	if ctx.Err() == nil {
		w.book = nil // what it says may be wrong
	}
	w.mu.Unlock()
	close(w.closed)
	select {
	case <-w.opened:
	default:
		close(w.opened)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (w *writer) write(ctx context.Context) error {
	if err := w.persist(ctx, func() error { return w.load(ctx) }); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case first := <-w.queue:
			if err := w.batch(ctx, first); err != nil {
				return err
			}
		}
	}
}

func (w *writer) load(ctx context.Context) error {
	l, err := w.find()
	if err != nil {
		return err
	}
	if _, err := l.Open(ctx); err != nil {
		return err
	}
	b, err := books.Load(ctx, l, w.self)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.ledger, w.book, w.ahead = l, b, b.Clone()
	w.mu.Unlock()
	close(w.opened)
	return nil
}

// batch books first and all that waits behind it.
func (w *writer) batch(ctx context.Context, first request) error {
	var recs []sdk.Record
	var waiting []request
	var results []books.Result
	after := w.ahead.Head()
	for r, more := first, true; more; {
		rec, res, err := w.ahead.Make(time.Now(), r.id, r.op)
		var broken *books.Violation
		switch {
		case errors.As(err, &broken):
			r.done <- outcome{err: err}
			return err
		case err != nil:
			r.done <- outcome{err: err}
		default:
			waiting, results = append(waiting, r), append(results, res)
		}
		if rec != nil {
			recs = append(recs, *rec)
		}
		if len(recs) >= sdk.MaxBatch {
			break
		}
		select {
		case r = <-w.queue:
		default:
			more = false
		}
	}
	if err := w.store(ctx, after, recs); err != nil {
		for _, r := range waiting {
			r.done <- outcome{err: &sdk.Error{Code: sdk.CodeUnavailable, Text: "book a record: " + err.Error()}}
		}
		return err
	}
	for i, r := range waiting {
		r.done <- outcome{result: results[i]}
	}
	return w.snapshot(ctx)
}

// store makes records durable, then visible.
func (w *writer) store(ctx context.Context, after sdk.Head, recs []sdk.Record) error {
	if len(recs) == 0 {
		return nil
	}
	batch := make([]sdk.Record, len(recs))
	for i, r := range recs {
		batch[i] = r
		batch[i].Seq = 0 // the ledger numbers
	}
	w.storing.Store(time.Now().UnixNano())
	defer w.storing.Store(0)
	err := w.persist(ctx, func() error {
		_, err := w.ledger.Append(ctx, after, batch)
		return err
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range recs {
		if err := w.book.Apply(r); err != nil {
			return err
		}
	}
	return nil
}

// snapshot books what a later start begins with.
func (w *writer) snapshot(ctx context.Context) error {
	parts := w.ahead.Due()
	for len(parts) > 0 {
		var recs []sdk.Record
		after, n := w.ahead.Head(), min(len(parts), sdk.MaxBatch)
		for _, op := range parts[:n] {
			rec, _, err := w.ahead.Make(time.Now(), newID(), op)
			if err != nil {
				return err
			}
			recs = append(recs, *rec)
		}
		parts = parts[n:]
		if err := w.store(ctx, after, recs); err != nil {
			return err
		}
	}
	return nil
}

// persist tries until it works. A ledger that is damaged, or that somebody else
// has written to, will not get better.
func (w *writer) persist(ctx context.Context, try func() error) error {
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		err := try()
		var broken *books.Violation
		switch {
		case err == nil:
			if pause > retryFirst {
				w.down(nil)
			}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &broken):
			return err
		}
		switch sdk.CodeOf(err) {
		case sdk.CodeUnavailable, sdk.CodeDeadline, sdk.CodeOverloaded, sdk.CodeCancelled:
		default:
			return err
		}
		if pause == retryFirst {
			w.down(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}
