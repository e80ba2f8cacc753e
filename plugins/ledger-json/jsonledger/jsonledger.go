// Package jsonledger keeps a book in files that people can read: a log of JSON
// lines, which is the book, and a checkpoint beside it. (The seed calls this
// the mitochondria.)
//
// # Files
//
// A segment is "<first>.jsonl", first being the sequence number of its first
// record in 20 digits. Segments are appended to and never deleted. The first
// line of each is
//
//	{"cellkernel-ledger":1,"first":1,"prev":"<hash>","crc":"<sum>"}
//
// and every other one a record:
//
//	{"seq":7,"batch":[7,9],"id":"<id>","postings":[["peer/a",5],["peer/b",-5]],"body":"<base64>","hash":"<hash>","crc":"<sum>"}
//
// where batch is the first and the last number of the append that brought it,
// hash that of [sdk.Head.Next] behind the record, and crc the CRC-32C of the
// line before it, in hexadecimal. There is one way to write a record, and
// nothing else is read.
//
// "mitochondria.json" says where the book was a while ago and what its accounts
// came to, and has a checksum over itself. "lock" is held by the process that writes.
//
// # How an append becomes durable
//
// All lines of a batch are written at once behind the last durable byte and
// synced; only then Append returns. If they can not be written, what there is
// of them is cut off again, and a later append can work: so a full disk ends
// nothing. If they can not be synced, nobody knows what the disk has, and the
// ledger takes nothing until it is started anew ([PoisonError]). Segments and
// checkpoints are written aside, synced, renamed, and their directory synced.
//
// # How a book is opened
//
// The checkpoint is believed if its checksum holds. What is behind it is
// checked line by line, written again and synced. At the very end the lines of
// one batch may be missing or broken: a crash kept it from being written, it
// was never acknowledged, and it is cut. Whatever else is wrong, a file that is
// missing, a broken line before a whole batch, a checkpoint that can not be
// read, is a [DamageError], and the book is left as it is.
package jsonledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Plugin returns the plugin "json".
func Plugin() plugin.Plugin { return plugin.Ledger("json", DefaultConfig(), New) }

// A Ledger is a book in a directory. It is safe for concurrent use.
type Ledger struct {
	config Config
	dir    fileSystem
	log    *slog.Logger
	turn   chan struct{} // whoever put something in may change the book

	mu     sync.Mutex // guards the fields below against readers
	book   *book      // nil until Open
	lock   io.Closer
	poison error // not nil: nothing is taken any more
}

// New returns a ledger in the plugin's state directory. Nothing is read
// before [Ledger.Open].
func New(_ context.Context, c Config, host plugin.Host) (*Ledger, error) {
	return newLedger(c, directory{host.State()}, host.Log()), nil
}

func newLedger(c Config, dir fileSystem, log *slog.Logger) *Ledger {
	return &Ledger{config: c, dir: dir, log: log, turn: make(chan struct{}, 1)}
}

// take waits for the turn. The caller receives from l.turn when done.
func (l *Ledger) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// opened returns the book, which must have been opened.
func (l *Ledger) opened() (*book, error) {
	if l.book == nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "the book is not open")
	}
	return l.book, nil
}

// Open takes the lock and recovers the book.
func (l *Ledger) Open(ctx context.Context) (sdk.Head, error) {
	if err := l.take(ctx); err != nil {
		return sdk.Head{}, err
	}
	defer func() { <-l.turn }()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poison != nil {
		return sdk.Head{}, l.poison
	}
	if l.book != nil {
		return l.book.head, nil
	}
	lock, err := l.dir.Lock("lock")
	if err != nil {
		return sdk.Head{}, sdk.Errorf(sdk.CodeUnavailable, "does another process have the book? %v", err)
	}
	b, err := recoverBook(ctx, l.dir, l.log)
	if err != nil {
		return sdk.Head{}, errors.Join(fmt.Errorf("recover the book: %w", err), lock.Close())
	}
	l.book, l.lock = b, lock
	return b.head, nil
}

// Append looks for the batch first, so that one that was stored is success
// whatever the fence says.
func (l *Ledger) Append(ctx context.Context, after sdk.Head, batch []sdk.Record) (sdk.Head, error) {
	if err := l.take(ctx); err != nil {
		return sdk.Head{}, err
	}
	defer func() { <-l.turn }()
	b, err := l.opened()
	if err == nil {
		err = l.poison
	}
	if err != nil {
		return sdk.Head{}, err
	}
	stored, err := b.stored(ctx, batch)
	switch {
	case err != nil:
		return sdk.Head{}, err
	case len(batch) > 0 && stored == len(batch):
		return b.head, nil
	case after != b.head:
		return sdk.Head{}, sdk.Errorf(sdk.CodeFenced, "the book ends at %d, not at %d, or with another hash", b.head.Seq, after.Seq)
	case stored > 0:
		return sdk.Head{}, sdk.Errorf(sdk.CodeInvalid, "%d of %d records are stored already", stored, len(batch))
	case len(batch) == 0:
		return b.head, nil
	}
	if err := l.store(b, batch); err != nil {
		return sdk.Head{}, l.failed(err)
	}
	l.saveIfDue(b)
	return b.head, nil
}

// store makes a batch durable and, only then, visible.
func (l *Ledger) store(b *book, batch []sdk.Record) error {
	if len(batch) > sdk.MaxBatch {
		return sdk.Errorf(sdk.CodeInvalid, "%d records: at most %d", len(batch), sdk.MaxBatch)
	}
	for i := range batch {
		if err := check(&batch[i]); err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "record %d: %v", i, err)
		}
	}
	sums, err := b.sums(batch)
	if err != nil {
		return err
	}
	if len(b.balances)+len(sums) > maxAccounts {
		return sdk.Errorf(sdk.CodeOverloaded, "a book has at most %d accounts", maxAccounts)
	}
	if err := l.turnSegment(b); err != nil {
		return err
	}
	entries, head, lines := b.entries(batch)
	if err := b.write(lines); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b.apply(entries, head, sums)
	return nil
}

func (l *Ledger) turnSegment(b *book) error {
	s, f, err := b.turn(l.config.Segment)
	if err != nil || s == nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return b.use(s, f)
}

// failed notes that the ledger is poisoned, if err says so.
func (l *Ledger) failed(err error) error {
	var poison *PoisonError
	if errors.As(err, &poison) {
		l.log.Error("the book takes nothing until the plugin is restarted", "cause", poison.Cause)
		l.mu.Lock()
		l.poison = err
		l.mu.Unlock()
	}
	return err
}

// saveIfDue writes a checkpoint. Without one the book is as good, and the next
// start reads more of it.
func (l *Ledger) saveIfDue(b *book) {
	if b.since < l.config.Checkpoint {
		return
	}
	if err := l.failed(b.save()); err != nil {
		l.log.Warn("no checkpoint was written", "cause", err)
	}
}

// Balances returns a copy.
func (l *Ledger) Balances(ctx context.Context) (sdk.Head, map[sdk.Account]sdk.ATP, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.opened()
	if err != nil {
		return sdk.Head{}, nil, err
	}
	return b.head, maps.Clone(b.balances), ctx.Err()
}

// Close writes a checkpoint and lets go of the book.
func (l *Ledger) Close() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.book
	if b == nil {
		return nil
	}
	l.book = nil
	var err error
	if l.poison == nil && b.since > 0 {
		err = b.save()
	}
	return errors.Join(err, b.active.Close(), l.lock.Close())
}

func same(a, b *sdk.Record) bool {
	return bytes.Equal(a.Body, b.Body) && slices.Equal(a.Postings, b.Postings)
}
