package jsonledger_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk"
)

// small has a new segment and a new checkpoint every few appends.
func small() jsonledger.Config { return jsonledger.Config{Segment: 8 << 10, Checkpoint: 4 << 10} }

// many is how much of a long test is done: n, or what the environment says.
func many(t *testing.T, key string, n int) int {
	t.Helper()
	v := os.Getenv(key)
	if v == "" {
		return n / raced
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

func record(r *rand.Rand, n int) sdk.Record {
	rec := sdk.Record{Body: make([]byte, r.IntN(600))}
	binary.BigEndian.PutUint64(rec.ID[:], uint64(1_700_000_000_000+n)<<16)
	binary.BigEndian.PutUint64(rec.ID[8:], r.Uint64())
	for i := range rec.Body {
		rec.Body[i] = byte(r.Uint32())
	}
	v := sdk.ATP(r.IntN(1000))
	rec.Postings = []sdk.Posting{{Account: sdk.Account(fmt.Sprintf("peer/%d", r.IntN(5))), Amount: v}, {Account: "reserved/x", Amount: -v}}
	return rec
}

// A writer appends batches and knows what it was promised.
type writer struct {
	r         *rand.Rand
	submitted []sdk.Record // in order; what is behind acked is the last batch
	acked     int
	head      sdk.Head
}

// submit makes the next batch.
func (w *writer) submit() {
	w.submitted = w.submitted[:w.acked]
	for range 1 + w.r.IntN(4) {
		w.submitted = append(w.submitted, record(w.r, len(w.submitted)))
	}
}

func (w *writer) append(t *testing.T, l *jsonledger.Ledger) error {
	t.Helper()
	w.submit()
	head, err := l.Append(t.Context(), w.head, w.submitted[w.acked:])
	if err == nil {
		w.acked, w.head = len(w.submitted), head
	}
	return err
}

// settle opens a book behind a crash and checks: acknowledged is stored, stored
// was submitted, no batch is half there, and it goes on.
func (w *writer) settle(t *testing.T, d jsonledger.FileSystem) (*jsonledger.Ledger, error) {
	t.Helper()
	l := jsonledger.NewOn(small(), d)
	head, err := l.Open(t.Context())
	if err != nil {
		return nil, err
	}
	switch int(head.Seq) {
	case w.acked:
	case len(w.submitted):
		w.acked = len(w.submitted)
	default:
		return nil, fmt.Errorf("%d records: %d were acknowledged, %d submitted", head.Seq, w.acked, len(w.submitted))
	}
	w.head = head
	return l, w.check(t, l, d)
}

func (w *writer) check(t *testing.T, l *jsonledger.Ledger, d jsonledger.FileSystem) error {
	t.Helper()
	var got []sdk.Record
	err := l.Read(t.Context(), 1, func(r sdk.Record) bool { got = append(got, r); return true })
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	want, end := map[sdk.Account]sdk.ATP{}, sdk.Head{}
	if len(got) != w.acked {
		return fmt.Errorf("read %d records, want %d", len(got), w.acked)
	}
	for i := range got {
		end = end.Next(&w.submitted[i])
		if got[i].ID != w.submitted[i].ID || !slices.Equal(got[i].Postings, w.submitted[i].Postings) {
			return fmt.Errorf("record %d is another", i+1)
		}
		for _, p := range got[i].Postings {
			want[p.Account] += p.Amount
		}
	}
	head, sums, err := l.Balances(t.Context())
	if err != nil || head != end {
		return fmt.Errorf("the head is %v, want %v: %w", head, end, err)
	}
	for a, v := range want {
		if sums[a] != v {
			return fmt.Errorf("account %s: %v, want %v", a, sums[a], v)
		}
	}
	report, err := jsonledger.VerifyOn(t.Context(), d)
	if err == nil && report.Head != end {
		err = fmt.Errorf("verify ends at %v", report.Head)
	}
	return err
}

// The power fails before any operation, twice in a row, and the disk has any
// part of what was not synced. POWER_CUTS says how many times.
func TestPowerCuts(t *testing.T) {
	cut := 0
	for seed := range many(t, "POWER_CUTS", 500) {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		w := &writer{r: r}
		d := newDisk()
		for range 2 {
			if next := w.untilPowerFails(t, d, r); next != nil {
				d = next
				cut++
			}
		}
		l, err := w.settle(t, d)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 10 {
			if err := w.append(t, l); err != nil {
				t.Fatalf("seed %d: append behind the crash: %v", seed, err)
			}
		}
		if err := errors.Join(w.check(t, l, d), l.Close()); err != nil {
			t.Fatalf("seed %d: behind the crash: %v", seed, err)
		}
	}
	t.Logf("%d power cuts", cut)
}

// untilPowerFails writes, and returns what the disk has when the power is back.
func (w *writer) untilPowerFails(t *testing.T, d *disk, r *rand.Rand) *disk {
	t.Helper()
	left := r.IntN(120)
	percent := []int{0, 25, 50, 75, 100}[r.IntN(5)]
	var after *disk
	d.before = func(op, name string) (int, error) {
		if left--; left == 0 {
			after = d.crash(percent, r)
		}
		if left <= 0 {
			return 0, errors.New("no power")
		}
		return 0, nil
	}
	l, err := w.settle(t, d)
	for err == nil && w.acked < 100 {
		err = w.append(t, l)
	}
	if after == nil && left > 0 && err != nil {
		t.Fatalf("with power: %v", err)
	}
	if after == nil {
		after = d.crash(percent, r)
	}
	return after
}

// One operation fails, each in turn. Nothing that was acknowledged is lost,
// and nothing is acknowledged behind a sync that failed.
func TestOneOperationFails(t *testing.T) {
	for _, fail := range []error{syscall.EIO, syscall.ENOSPC} {
		for n := 1; ; n++ {
			w := &writer{r: rand.New(rand.NewPCG(uint64(n), 2))}
			if !w.withFailure(t, n, fail) {
				t.Logf("%v: %d operations", fail, n-1)
				break
			}
		}
	}
}

func (w *writer) withFailure(t *testing.T, n int, fail error) bool {
	t.Helper()
	d, count, failed := newDisk(), 0, ""
	d.before = func(op, name string) (int, error) {
		if count++; count == n {
			failed = op + " " + name
			return w.r.IntN(300), fail
		}
		return 0, nil
	}
	l := jsonledger.NewOn(small(), d)
	if _, err := l.Open(t.Context()); err != nil {
		l = jsonledger.NewOn(small(), d) // the kernel starts it again
		d.mem = d.crash(100, w.r).mem
		if _, err := l.Open(t.Context()); err != nil {
			t.Fatalf("%s failed: open again: %v", failed, err)
		}
	}
	poisoned := false
	for range 25 {
		err := w.append(t, l)
		var poison *jsonledger.PoisonError
		switch {
		case err == nil && poisoned:
			t.Fatalf("%s failed: an append behind it was acknowledged", failed)
		case errors.As(err, &poison):
			poisoned = true
		case err != nil && sdk.CodeOf(err) != sdk.CodeUnavailable:
			t.Fatalf("%s failed: code %v: %v", failed, sdk.CodeOf(err), err)
		}
		if poisoned {
			break
		}
	}
	d.before = nil
	if !poisoned {
		if err := w.check(t, l, d); err != nil {
			t.Fatalf("%s failed: %v", failed, err)
		}
	}
	if _, err := w.settle(t, d.crash(50, w.r)); err != nil {
		t.Fatalf("%s failed: a power cut later: %v", failed, err)
	}
	return failed != ""
}
