package jsonledger_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime/metrics"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/plugins/ledger-json/jsonledger"
	"github.com/cellkernel/cellkernel/sdk"
)

// BenchmarkDurable has 64 callers who each wait for their record to be durable.
// "group" makes one append of what waits, as the kernel's writer does; "single"
// one of each record.
func BenchmarkDurable(b *testing.B) {
	for name, most := range map[string]int{"group": sdk.MaxBatch, "single": 1} {
		b.Run(name, func(b *testing.B) { benchDurable(b, most) })
	}
}

type waiting struct {
	rec  sdk.Record
	done chan error
}

// write makes batches of what waits in queue.
func write(ctx context.Context, l sdk.Ledger, queue chan waiting, most int) {
	head := sdk.Head{}
	for w := range queue {
		batch := []waiting{w}
		for len(batch) < most && len(queue) > 0 {
			batch = append(batch, <-queue)
		}
		recs := make([]sdk.Record, len(batch))
		for i := range batch {
			recs[i] = batch[i].rec
		}
		var err error
		head, err = l.Append(ctx, head, recs)
		for _, w := range batch {
			w.done <- err
		}
	}
}

func benchDurable(b *testing.B, most int) {
	l, _, err := openIn(b, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	queue := make(chan waiting, 1024)
	go write(b.Context(), l, queue, most)
	var mu sync.Mutex
	var times []time.Duration
	var id int
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(rand.Uint64(), 1))
		done := make(chan error, 1)
		for pb.Next() {
			mu.Lock()
			id++
			rec := record(r, id)
			mu.Unlock()
			begin := time.Now()
			queue <- waiting{rec, done}
			if err := <-done; err != nil {
				b.Error(err)
				return
			}
			mu.Lock()
			times = append(times, time.Since(begin))
			mu.Unlock()
		}
	})
	close(queue)
	slices.Sort(times)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(times[len(times)*99/100].Seconds()*1000, "p99-ms")
}

// BenchmarkMillion opens and verifies a book of 1 000 000 records.
func BenchmarkMillion(b *testing.B) {
	dir := b.TempDir()
	l, head, err := openIn(b, dir)
	if err != nil {
		b.Fatal(err)
	}
	batch := make([]sdk.Record, sdk.MaxBatch)
	for head.Seq < 1_000_000 {
		for i := range batch {
			batch[i] = sdk.Record{Body: make([]byte, 32), Postings: []sdk.Posting{{Account: "peer/a", Amount: 1}, {Account: "self", Amount: -1}}}
			binary.BigEndian.PutUint64(batch[i].ID[:], (1_700_000_000_000+head.Seq)<<16)
			binary.BigEndian.PutUint64(batch[i].ID[8:], uint64(i))
		}
		if head, err = l.Append(b.Context(), head, batch); err != nil {
			b.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if r, err := jsonledger.Verify(b.Context(), root); err != nil || r.Head != head {
				b.Fatal(r.Head.Seq, err)
			}
		}
		mem := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
		metrics.Read(mem)
		b.ReportMetric(float64(mem[0].Value.Uint64())/1e6, "MB")
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			// A copy without the lock: the first process has the book still, as
			// if it had been killed, so the tail is read.
			copied := b.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				b.Fatal(err)
			}
			begin := time.Now()
			if _, h, err := openIn(b, copied); err != nil || h != head {
				b.Fatal(h.Seq, err)
			}
			b.ReportMetric(time.Since(begin).Seconds()*1000, "open-ms")
		}
	})
}
