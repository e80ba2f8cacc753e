package cell_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
	"github.com/cellkernel/cellkernel/sdk/channel"
)

// A node that pays begins calls, gives each up at once and begins the next, over
// two links; the handlers do not heed it. No more of them run than may, though
// nobody waits for any; the rest was not executed. Who pays nothing is not
// counted, and when they have ended there is room again.
func TestHandlersOfANodeThatPaysAreBounded(t *testing.T) {
	const most = 256 // docs/genome.md: kernel.node_calls
	k := celltest.New(t)
	var running, highest atomic.Int64
	release := make(chan struct{})
	k.Serve("work", registerEcho(func(ctx context.Context, c *cell.Call) error {
		if cell.Caller(ctx).Node == "far" {
			now := running.Add(1)
			defer running.Add(-1)
			for h := highest.Load(); now > h && !highest.CompareAndSwap(h, now); h = highest.Load() {
			}
			<-release
		}
		return echo(ctx, c)
	}), celltest.Metered())
	links := []*cell.Client{caller(k, "a", celltest.Node("far")), caller(k, "b", celltest.Node("far"))}
	k.Lease("work", channel.Lease{Node: "far", LimitNS: int64(time.Hour), ForMS: 600_000})
	refused := 0
	for i := 0; refused == 0 && i < 10*most; i++ {
		ctx, cancel := context.WithCancel(t.Context())
		before := running.Load()
		answer := make(chan error, 1)
		go func() { _, err := links[i%2].Call(ctx, mEcho, &raw{}); answer <- err }()
		for done := false; !done; {
			select {
			case err := <-answer:
				e := (*sdk.Error)(nil)
				if !errors.As(err, &e) || e.Code != sdk.CodeOverloaded || e.Executed != sdk.ExecutedNo {
					t.Fatalf("call %d: %v", i, err)
				}
				refused++
				done = true
			default:
				done = running.Load() > before
			}
		}
		cancel()
	}
	t.Logf("%d handlers run for a node that waits for none, the bound is %d; then %d was refused", highest.Load(), most, refused)
	if highest.Load() != most || refused != 1 {
		t.Errorf("%d run, want %d", highest.Load(), most)
	}
	call(t, caller(k, "c"), mEcho, nil) // of this node
	close(release)
	eventually(t, "there is room again", func() bool { _, err := links[0].Call(t.Context(), mEcho, &raw{}); return err == nil })
}
