// The cell echo answers, after a pause if "-pause" asks for one, and says where
// it runs: "-by NAME".
package main

import (
	"context"
	"flag"
	"os"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/examples/acceptance/netprobe"
	"github.com/cellkernel/cellkernel/sdk/cell"
)

type echo struct {
	by    string
	pause time.Duration

	mu   sync.Mutex // guards seen
	seen map[uint64]int
}

// Read implements netprobe.Echo.
func (e *echo) Read(ctx context.Context, b *netprobe.Ball) (*netprobe.Ball, error) {
	b.By = e.by
	if e.pause > 0 {
		select {
		case <-time.After(e.pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return b, nil
}

// Write implements netprobe.Echo.
func (e *echo) Write(_ context.Context, b *netprobe.Ball) (*netprobe.Ball, error) {
	e.mu.Lock()
	e.seen[b.ID]++
	e.mu.Unlock()
	b.By = e.by
	return b, nil
}

// Seen implements netprobe.Echo.
func (e *echo) Seen(context.Context, *netprobe.None) (*netprobe.Seen, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &netprobe.Seen{IDs: uint64(len(e.seen))}
	for _, n := range e.seen {
		if n > 1 {
			s.Twice++
		}
	}
	clear(e.seen)
	return s, nil
}

func main() {
	e := &echo{seen: map[uint64]int{}}
	flag.StringVar(&e.by, "by", "", "the name to answer by")
	flag.DurationVar(&e.pause, "pause", 0, "how long a read takes")
	flag.CommandLine.SetOutput(os.Stderr)
	flag.Parse()
	cell.Main(func(ctx context.Context, m *cell.Membrane) error {
		netprobe.RegisterEcho(m, e)
		return m.Serve(ctx)
	})
}
