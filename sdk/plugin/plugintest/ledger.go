package plugintest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

func ledgerClauses() []clause {
	return []clause{
		{"ledger/empty", "opens a new book at the zero head", onBook(checkEmpty), false},
		{"ledger/append-read", "reads back what was appended, numbered from 1", onBook(checkAppendRead), false},
		{"ledger/chain", "chains as sdk.Head.Next says", onBook(checkChain), false},
		{"ledger/fence", "refuses a stale head as fenced and stores nothing", onBook(checkFence), false},
		{"ledger/idempotent", "takes a stored batch again as success and changes nothing", onBook(checkIdempotent), false},
		{"ledger/conflict", "refuses a stored id with other bytes", onBook(checkConflict), false},
		{"ledger/atomic", "stores all records of a batch or none", onBook(checkAtomic), false},
		{"ledger/twice", "refuses an id that is in a batch twice", onBook(checkTwice), false},
		{"ledger/partial", "refuses a batch that is stored in part", onBook(checkPartial), false},
		{"ledger/overflow", "refuses what takes an account beyond its range", onBook(checkOverflow), false},
		{"ledger/balances", "sums the postings of every account", onBook(checkBalances), false},
		{"ledger/read-from", "reads from a number on, and stops when told to", onBook(checkReadFrom), false},
		{"ledger/largest", "stores the largest batch of the largest records", onBook(checkLargestBatch), false},
		{"ledger/race", "lets one of two appends behind the same head win", onBook(checkRace), false},
		{"ledger/snapshot", "shows whole batches, and sums that are those of their head", onBook(checkSnapshot), false},
		{"ledger/open-again", "returns the head when it is opened again", onBook(checkOpenAgain), false},
		{"ledger/reopen", "has the same book after stop and start", checkReopen, false},
		{"ledger/durable", "has every acknowledged record after kill -9", checkDurable, true},
		{"ledger/torn", "has what was acknowledged and no half of a batch after kill -9 within an append", checkTorn, true},
		{"ledger/damage", "refuses a book of which a file was changed or cut", checkDamage, false},
	}
}

// A book is an open ledger.
type book struct {
	sdk.Ledger
	e    *env
	c    *plugin.Client
	head sdk.Head
}

func openBook(e *env, state string) (*book, error) {
	c, err := e.openWith(e.o.Config, state)
	if err != nil {
		return nil, err
	}
	l, err := c.Ledger()
	if err != nil {
		return nil, err
	}
	b := &book{Ledger: l, e: e, c: c}
	b.head, err = l.Open(e.ctx)
	return b, err
}

func onBook(check func(*book) error) func(*env) error {
	return func(e *env) error {
		b, err := openBook(e, e.dir)
		if err != nil {
			return err
		}
		return check(b)
	}
}

// add appends behind the known head.
func (b *book) add(batch ...sdk.Record) error {
	head, err := b.Append(b.e.ctx, b.head, batch)
	if err != nil {
		return err
	}
	if want := b.head.Seq + uint64(len(batch)); head.Seq != want {
		return fmt.Errorf("the head is at %d after an append, want %d", head.Seq, want)
	}
	b.head = head
	return nil
}

func (b *book) all(from uint64) ([]sdk.Record, error) {
	var got []sdk.Record
	err := b.Read(b.e.ctx, from, func(r sdk.Record) bool {
		got = append(got, r)
		return true
	})
	return got, err
}

// record makes the n'th record of a test, with an id as the kernel makes them.
func record(n int) sdk.Record {
	r := sdk.Record{
		Postings: []sdk.Posting{{Account: "peer/a", Amount: sdk.ATP(n + 1)}, {Account: "peer/b", Amount: -sdk.ATP(n + 1)}},
		Body:     fmt.Appendf(nil, "record %d", n),
	}
	binary.BigEndian.PutUint64(r.ID[:], uint64(time.Now().UnixMilli())<<16)
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	return r
}

func records(n int) []sdk.Record {
	rs := make([]sdk.Record, n)
	for i := range rs {
		rs[i] = record(i)
	}
	return rs
}

func compare(got, want []sdk.Record) error {
	if len(got) != len(want) {
		return fmt.Errorf("read %d records, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.ID != w.ID || !bytes.Equal(g.Body, w.Body) || !slices.Equal(g.Postings, w.Postings) {
			return fmt.Errorf("record %d is %v, want %v", g.Seq, g, w)
		}
	}
	return nil
}

func checkEmpty(b *book) error {
	if b.head != (sdk.Head{}) {
		return fmt.Errorf("a new book opens at %v", b.head)
	}
	got, err := b.all(0)
	if err == nil {
		err = compare(got, nil)
	}
	return err
}

func checkAppendRead(b *book) error {
	rs := records(700) // more than one message of the wire
	if err := errors.Join(b.add(rs[0]), b.add(rs[1:]...)); err != nil {
		return err
	}
	got, err := b.all(1)
	if err != nil {
		return err
	}
	for i, r := range got {
		if r.Seq != uint64(i)+1 {
			return fmt.Errorf("record %d has the number %d", i+1, r.Seq)
		}
	}
	return compare(got, rs)
}

func checkChain(b *book) error {
	want := sdk.Head{}
	rs := records(5)
	rs[1].Body, rs[2].Postings, rs[3].Body = nil, nil, noise(sdk.MaxRecord)
	for i, batch := range [][]sdk.Record{rs[:1], rs[1:]} {
		if err := b.add(batch...); err != nil {
			return err
		}
		for j := range batch {
			want = want.Next(&batch[j])
		}
		if b.head != want {
			return fmt.Errorf("the head behind batch %d is %v, want %v", i, b.head, want)
		}
	}
	return nil
}

func wantCode(err error, code sdk.Code, what string) error {
	if err == nil {
		return fmt.Errorf("%s was accepted", what)
	}
	if got := sdk.CodeOf(err); got != code {
		return fmt.Errorf("%s: got code %v (%v), want %v", what, got, err, code)
	}
	return nil
}

// unchanged checks that nothing was stored beyond the known head.
func (b *book) unchanged() error {
	got, err := b.all(0)
	if err == nil && uint64(len(got)) != b.head.Seq {
		err = fmt.Errorf("%d records, want %d: something was stored", len(got), b.head.Seq)
	}
	return err
}

func checkFence(b *book) error {
	stale := b.head
	if err := b.add(record(1)); err != nil {
		return err
	}
	_, err := b.Append(b.e.ctx, stale, []sdk.Record{record(2)})
	if err := wantCode(err, sdk.CodeFenced, "an append behind a stale head"); err != nil {
		return err
	}
	other := b.head
	other.Hash[0] ^= 1
	_, err = b.Append(b.e.ctx, other, []sdk.Record{record(3)})
	if err := wantCode(err, sdk.CodeFenced, "an append behind a head with another hash"); err != nil {
		return err
	}
	ahead := record(4)
	_, err = b.Append(b.e.ctx, b.head.Next(&ahead), []sdk.Record{record(5)})
	if err := wantCode(err, sdk.CodeFenced, "an append behind a head that is not there yet"); err != nil {
		return err
	}
	return b.unchanged()
}

func checkIdempotent(b *book) error {
	stale, rs := b.head, records(3)
	if err := errors.Join(b.add(rs...), b.add(record(9))); err != nil {
		return err
	}
	for _, after := range []sdk.Head{b.head, stale} {
		head, err := b.Append(b.e.ctx, after, rs)
		if err != nil {
			return fmt.Errorf("the same batch again behind %d: %w", after.Seq, err)
		}
		if head != b.head {
			return fmt.Errorf("the same batch again moved the head from %d to %d", b.head.Seq, head.Seq)
		}
	}
	return b.unchanged()
}

func checkConflict(b *book) error {
	r := record(1)
	if err := b.add(r); err != nil {
		return err
	}
	r.Body = []byte("forged")
	_, err := b.Append(b.e.ctx, b.head, []sdk.Record{r})
	if err := wantCode(err, sdk.CodeInvalid, "a stored id with other bytes"); err != nil {
		return err
	}
	return b.unchanged()
}

func checkAtomic(b *book) error {
	r := record(1)
	if err := b.add(r); err != nil {
		return err
	}
	r.Body = []byte("forged")
	_, err := b.Append(b.e.ctx, b.head, []sdk.Record{record(2), record(3), r})
	if err := wantCode(err, sdk.CodeInvalid, "a batch whose last record is in conflict"); err != nil {
		return err
	}
	return b.unchanged()
}

func checkBalances(b *book) error {
	want := map[sdk.Account]sdk.ATP{}
	rs := records(50)
	for i := range rs {
		a := sdk.Account(fmt.Sprintf("peer/%d", i%7))
		rs[i].Postings = []sdk.Posting{{Account: a, Amount: 5}, {Account: "sink", Amount: -5}}
		want[a] += 5
		want["sink"] -= 5
	}
	if err := b.add(rs...); err != nil {
		return err
	}
	head, got, err := b.Balances(b.e.ctx)
	if err != nil {
		return err
	}
	if head != b.head {
		return fmt.Errorf("balances at %d, want %d", head.Seq, b.head.Seq)
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("balances %v, want %v", got, want)
	}
	return nil
}

func checkReadFrom(b *book) error {
	rs := records(20)
	if err := b.add(rs...); err != nil {
		return err
	}
	got, err := b.all(15)
	if err == nil {
		err = compare(got, rs[14:])
	}
	if err != nil {
		return err
	}
	if got, err = b.all(21); err != nil || len(got) != 0 {
		return fmt.Errorf("read behind the end: %d records, %w", len(got), err)
	}
	n := 0
	err = b.Read(b.e.ctx, 1, func(sdk.Record) bool { n++; return n < 3 })
	if err != nil || n != 3 {
		return fmt.Errorf("read until told to stop: %d records, want 3; %w", n, err)
	}
	return nil
}

func checkLargestBatch(b *book) error {
	rs := records(sdk.MaxBatch)
	for i := range rs {
		rs[i].Body = noise(sdk.MaxRecord)
	}
	if err := b.add(rs...); err != nil {
		return err
	}
	got, err := b.all(1)
	if err != nil {
		return err
	}
	return compare(got, rs)
}

func checkRace(b *book) error {
	for round := range 10 {
		var wg sync.WaitGroup
		heads, errs := make([]sdk.Head, 2), make([]error, 2)
		for i := range 2 {
			r := record(2*round + i)
			wg.Go(func() { heads[i], errs[i] = b.Append(b.e.ctx, b.head, []sdk.Record{r}) })
		}
		wg.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil {
			return fmt.Errorf("both lost: %w", errors.Join(errs...))
		}
		if err := wantCode(errs[1-winner], sdk.CodeFenced, "the second of two appends behind one head"); err != nil {
			return err
		}
		b.head = heads[winner]
	}
	return b.unchanged()
}

func checkReopen(e *env) error {
	return reopened(e, func(c *plugin.Client) error { return c.Stop(context.WithoutCancel(e.ctx)) })
}

func checkDurable(e *env) error {
	return reopened(e, func(c *plugin.Client) error { c.Kill(); return nil })
}

func reopened(e *env, end func(*plugin.Client) error) error {
	if e.o.Volatile {
		return skipError("it keeps nothing")
	}
	b, err := openBook(e, e.dir)
	if err != nil {
		return err
	}
	rs := records(30)
	for i := range rs {
		if err := b.add(rs[i]); err != nil {
			return err
		}
	}
	e.drop(b.c)
	if err := end(b.c); err != nil {
		return err
	}
	again, err := openBook(e, e.dir)
	if err != nil {
		return err
	}
	if again.head != b.head {
		return fmt.Errorf("the head is %v, was %v", again.head, b.head)
	}
	if err := again.holds(rs); err != nil {
		return err
	}
	return again.remembers(rs)
}
