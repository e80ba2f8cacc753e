package plugintest

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// benchEnv opens an environment that ends with the benchmark.
func benchEnv(b *testing.B, t Target, o Options, kind plugin.Kind) *env {
	b.Helper()
	dir, err := os.MkdirTemp(o.RunDir, "pb")
	if err != nil {
		b.Fatal(err)
	}
	e := &env{ctx: b.Context(), target: t, o: o, info: plugin.Info{Kind: kind}, dir: dir}
	c, err := e.open()
	if err != nil {
		b.Fatal(err)
	}
	e.info = c.Info()
	b.Cleanup(func() {
		if err := e.close(); err != nil {
			b.Error(err)
		}
		os.RemoveAll(dir)
	})
	return e
}

// BenchmarkTransport measures opening a connection, one byte to and fro, and
// throughput in 64 KiB writes.
func BenchmarkTransport(b *testing.B, t Target, o Options) {
	e := benchEnv(b, t, o, plugin.KindTransport)
	// Connections may live as long as the benchmark.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e.ctx = ctx
	k, err := listen(e)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if err := k.cycle(1); err != nil {
				b.Fatal(err)
			}
			e.cleanup = e.cleanup[:1] // the listener's
		}
	})
	if k.near, k.far, err = k.connect(); err != nil {
		b.Fatal(err)
	}
	b.Run("echo-1B", func(b *testing.B) { benchEcho(b, k) })
	b.Run("write-64KiB", func(b *testing.B) { benchWrite(b, k) })
}

func benchEcho(b *testing.B, k *link) {
	buf, back := []byte{1}, make([]byte, 1)
	for b.Loop() {
		if _, err := k.near.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(k.far, back); err != nil {
			b.Fatal(err)
		}
		if _, err := k.far.Write(back); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(k.near, back); err != nil {
			b.Fatal(err)
		}
	}
}

func benchWrite(b *testing.B, k *link) {
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	written := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				written <- nil
				return
			default:
			}
			if _, err := k.near.Write(buf); err != nil {
				written <- err
				return
			}
		}
	}()
	back := make([]byte, len(buf))
	for b.Loop() {
		if _, err := io.ReadFull(k.far, back); err != nil {
			b.Fatal(err)
		}
	}
	close(stop)
	k.far.Close()
	<-written // an error only says that we closed the other end
}

// BenchmarkDiscovery measures one announcement.
func BenchmarkDiscovery(b *testing.B, t Target, o Options) {
	e := benchEnv(b, t, o, plugin.KindDiscovery)
	d, err := e.clients[0].Discovery()
	if err != nil {
		b.Fatal(err)
	}
	self := []sdk.Envelope{noise(600)}
	b.Run("announce", func(b *testing.B) {
		for b.Loop() {
			if err := d.Announce(e.ctx, self); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLedger measures durable appends, one by one and a hundred at a time.
func BenchmarkLedger(b *testing.B, t Target, o Options) {
	e := benchEnv(b, t, o, plugin.KindLedger)
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("append-%d", n), func(b *testing.B) {
			bk, err := openBook(e, "")
			if err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				batch := make([]sdk.Record, n)
				for j := range batch {
					batch[j] = record(i)
					i++
				}
				if err := bk.add(batch...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBilling measures reading one and a hundred processes.
func BenchmarkBilling(b *testing.B, t Target, o Options) {
	e := benchEnv(b, t, o, plugin.KindBilling)
	bill, err := e.clients[0].Billing()
	if err != nil {
		b.Fatal(err)
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 100} {
		live := make([]sdk.Running, n)
		for i := range live {
			live[i] = sdk.Running{ID: sdk.WorkloadID(fmt.Sprintf("cell/bench#%d@1", i)), PID: os.Getpid(), StartTime: start}
		}
		b.Run(fmt.Sprintf("usage-%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := bill.Usage(e.ctx, live); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
