package cell_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"golang.org/x/sys/unix"
)

// burn uses a core until ctx is done.
func burn(ctx context.Context) {
	for ctx.Err() == nil {
		for range 100_000 {
		}
	}
}

// used is the CPU time of this process.
func used(t testing.TB) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// eventually waits until ok, which is asked again and again.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// weights sums the weights of what was served up, by method.
func weights(k *celltest.Kernel, name sdk.CellName) map[string]time.Duration {
	sum := make(map[string]time.Duration)
	for _, l := range k.Stats(name) {
		for _, m := range l.Methods {
			sum[m.Method] += time.Duration(m.WeightNS)
		}
	}
	return sum
}

// caller returns a client of "work" that belongs to a cell of its own.
func caller(k *celltest.Kernel, name sdk.CellName, opts ...celltest.Option) *cell.Client {
	return k.Attach(name, append(opts, celltest.Links(1))...).Synapse("work").Client(&echoDesc)
}

// Time counts while it passes: who waits until a handler ends learns too late.
func TestAHandlerIsCountedWhileItRuns(t *testing.T) {
	k := celltest.New(t)
	k.Serve("work", registerEcho(func(ctx context.Context, c *cell.Call) error {
		burn(ctx)
		return ctx.Err()
	}), celltest.Metered())
	c := caller(k, "a")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Call(ctx, mEcho, &raw{}) })
	defer wg.Wait()
	defer cancel()
	eventually(t, "half a second of work is counted", func() bool { return weights(k, "work")["Echo.Echo"] > 500*time.Millisecond })
	for _, l := range k.Stats("work") {
		if l.Calls != 0 {
			t.Errorf("%d calls have ended", l.Calls)
		}
	}
}

// What a handler waits for inside the sdk is not its caller's: a stream that
// is open, and calls of its own.
func TestWaitingInsideTheSDKIsNotCounted(t *testing.T) {
	k := celltest.New(t)
	release := make(chan struct{})
	k.Serve("slow", registerEcho(func(_ context.Context, c *cell.Call) error {
		<-release
		return c.Reply(&raw{})
	}))
	var slow *cell.Client
	m := k.Serve("work", registerEcho(func(ctx context.Context, c *cell.Call) error {
		v, err := slow.Call(ctx, mEcho, &raw{})
		if err != nil {
			return err
		}
		v.Release()
		return c.Reply(&raw{})
	}), celltest.Metered())
	slow = m.Synapse("slow").Client(&echoDesc)
	c := caller(k, "a")
	st, err := c.Open(t.Context(), mChat, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&raw{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { call(t, c, mEcho, nil) })
	time.Sleep(500 * time.Millisecond)
	close(release)
	wg.Wait()
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	eventually(t, "both calls are counted", func() bool {
		calls := uint64(0)
		for _, l := range k.Stats("work") {
			calls += l.Calls
		}
		return calls == 2
	})
	for method, w := range weights(k, "work") {
		if w > 200*time.Millisecond {
			t.Errorf("%s: %v counted of a handler that waits", method, w)
		}
	}
}

// A caller that goes away leaves handlers behind that work for it: it is
// charged until they have ended.
func TestWhoHasLeftIsChargedUntilHandlersEnd(t *testing.T) {
	k := celltest.New(t)
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	running := make(chan struct{})
	k.Serve("work", registerEcho(func(_ context.Context, c *cell.Call) error {
		close(running)
		burn(stop) // and not until the call's context ends
		return nil
	}), celltest.Metered())
	m := k.Attach("a", celltest.Links(1))
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = m.Synapse("work").Client(&echoDesc).Call(context.Background(), mEcho, &raw{}) })
	<-running
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	before := weights(k, "work")["Echo.Echo"]
	eventually(t, "half a second more is counted", func() bool { return weights(k, "work")["Echo.Echo"] > before+500*time.Millisecond })
}

// Time can not tell who sleeps from who works. Samples can.
func TestASleeperDoesNotPayForOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	k := celltest.New(t)
	k.Serve("work", func(m *cell.Membrane) {
		sleep := func(ctx context.Context, c *cell.Call) error {
			<-ctx.Done()
			return ctx.Err()
		}
		work := func(ctx context.Context, c *cell.Call) error {
			burn(ctx)
			return ctx.Err()
		}
		m.Register(&echoDesc, sleep, work, count, sum, chat)
	}, celltest.Metered())
	idle, stop := context.WithTimeout(t.Context(), time.Second)
	burn(idle) // before anybody calls: nobody's but the node's
	stop()
	before := used(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for name, method := range map[sdk.CellName]int{"lazy": mEcho, "busy": mSafe} {
		c := caller(k, name)
		wg.Go(func() { _, _ = c.Call(ctx, method, &raw{}) })
	}
	wg.Wait()
	var w map[string]time.Duration
	eventually(t, "both calls have ended", func() bool {
		w = weights(k, "work")
		return len(w) == 2
	})
	share := float64(w["Echo.Echo"]) / float64(w["Echo.Echo"]+w["Echo.Safe"])
	t.Logf("the sleeper: %v, the other: %v, %.2f %%", w["Echo.Echo"], w["Echo.Safe"], 100*share)
	if sum, most := w["Echo.Echo"]+w["Echo.Safe"], used(t)-before; sum > most+50*time.Millisecond {
		t.Errorf("charged %v while %v were used", sum, most)
	}
	if share > 0.1 {
		t.Errorf("the sleeper is charged for %.1f %%", 100*share)
	}
}

func TestALeaseRefusesWhatIsBeyondIt(t *testing.T) {
	k := celltest.New(t)
	k.Serve("work", registerEcho(echo), celltest.Metered())
	c, free := caller(k, "a", celltest.Node("far")), caller(k, "b")
	call(t, c, mEcho, nil) // without a lease nothing is charged
	refused := func() bool {
		_, err := c.Call(t.Context(), mEcho, &raw{})
		e := (*sdk.Error)(nil)
		return errors.As(err, &e) && e.Code == sdk.CodeNoATP && e.Executed == sdk.ExecutedNo
	}
	k.Lease("work", channel.Lease{Node: "far", LimitNS: 0, ForMS: 60_000})
	eventually(t, "refused because all is used up", refused)
	call(t, free, mEcho, nil) // another node's lease
	k.Lease("work", channel.Lease{Node: "far", LimitNS: int64(time.Hour), ForMS: 60_000})
	eventually(t, "taken because there is more", func() bool { return !refused() })
	k.Lease("work", channel.Lease{Node: "far", LimitNS: int64(time.Hour), ForMS: 0})
	eventually(t, "refused because it is over", refused)
	k.Lease("work", channel.Lease{Node: "far", Free: true})
	eventually(t, "taken because it is free", func() bool { return !refused() })
}

// A call waits for its node's kernel to agree to more, if that may be soon. It
// is no error that signatures are late.
func TestCallsWaitForMore(t *testing.T) {
	k := celltest.New(t)
	k.Serve("work", registerEcho(echo), celltest.Metered())
	c := caller(k, "a", celltest.Node("far"))
	call(t, c, mEcho, nil)
	dry := channel.Lease{Node: "far", LimitNS: 0, ForMS: 60_000, More: true, Why: "a receipt is late"}
	dries := func() {
		k.Lease("work", dry)
		eventually(t, "calls wait", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := c.Call(ctx, mEcho, &raw{})
			return sdk.CodeOf(err) == sdk.CodeDeadline
		})
	}
	dries()
	ask := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := c.Call(ctx, mEcho, &raw{})
			ended <- err
		}()
		return ended
	}
	parked := []chan error{ask(t.Context()), ask(t.Context())}
	for _, waits := range parked {
		select {
		case err := <-waits:
			t.Fatalf("a call did not wait: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	k.Lease("work", channel.Lease{Node: "far", LimitNS: int64(time.Hour), ForMS: 60_000, More: true})
	for _, waits := range parked {
		if err := <-waits; err != nil {
			t.Errorf("after more was granted: %v", err)
		}
	}
	dries()
	begun := time.Now()
	if err := <-ask(t.Context()); sdk.CodeOf(err) != sdk.CodeNoATP || sdk.AsError(err).Executed != sdk.ExecutedNo ||
		!strings.Contains(err.Error(), "a receipt is late") || time.Since(begun) < time.Second {
		t.Errorf("without more, after %v: %v", time.Since(begun), err)
	}
	waits := ask(t.Context())
	select {
	case err := <-waits:
		t.Fatalf("a call did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	k.Lease("work", channel.Lease{Node: "far", LimitNS: 0, ForMS: 60_000, Why: "it owes too much"})
	if err := <-waits; sdk.CodeOf(err) != sdk.CodeNoATP || !strings.Contains(err.Error(), "it owes too much") {
		t.Errorf("when there will be no more: %v", err)
	}
}

func TestALeaseThatIsUsedUpEndsWhatRuns(t *testing.T) {
	k := celltest.New(t)
	ended := make(chan error, 2)
	k.Serve("work", func(m *cell.Membrane) {
		work := func(ctx context.Context, c *cell.Call) error {
			burn(ctx)
			ended <- ctx.Err()
			return ctx.Err()
		}
		listen := func(ctx context.Context, c *cell.Call) error {
			_, err := c.Stream().Recv()
			ended <- ctx.Err()
			return err
		}
		m.Register(&echoDesc, work, work, count, sum, listen)
	}, celltest.Metered())
	c := caller(k, "a", celltest.Node("far"))
	st, err := c.Open(t.Context(), mChat, nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Lease("work", channel.Lease{Node: "far", LimitNS: int64(200 * time.Millisecond), ForMS: 60_000})
	_, err = c.Call(t.Context(), mEcho, &raw{})
	if sdk.CodeOf(err) != sdk.CodeNoATP || sdk.AsError(err).Executed != sdk.ExecutedYes {
		t.Errorf("call: %v", err)
	}
	if _, err := st.Recv(); sdk.CodeOf(err) != sdk.CodeNoATP {
		t.Errorf("stream: %v", err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("handler: %v", err)
		}
	}
}

// Links say how many calls there were of each method, up to a limit.
func TestMethodsBeyondTheLimitAreCountedTogether(t *testing.T) {
	d := cell.Desc{Name: "Many"}
	var handlers []cell.Handler
	for i := range channel.MaxMethods + 4 {
		d.Methods = append(d.Methods, cell.MethodDesc{Name: "M" + string(rune('a'+i)), NewIn: newRaw, NewOut: newRaw})
		handlers = append(handlers, echo)
	}
	k := celltest.New(t)
	k.Serve("work", func(m *cell.Membrane) { m.Register(&d, handlers...) }, celltest.Metered())
	c := k.Attach("a", celltest.Links(1)).Synapse("work").Client(&d)
	for i := range d.Methods {
		call(t, c, i, nil)
	}
	eventually(t, "all are counted", func() bool {
		calls, others, methods := uint64(0), uint64(0), 0
		for _, l := range k.Stats("work") {
			for _, m := range l.Methods {
				calls, methods = calls+m.Calls, methods+1
				if m.Method == channel.OtherMethods {
					others = m.Calls
				}
			}
		}
		return calls == uint64(len(d.Methods)) && others == 4 && methods == channel.MaxMethods+1
	})
}

// A lease is of CPU time: forty calls that only wait for a second use next to
// nothing of one that forty seconds would exceed by far.
func TestWaitingUsesUpNoLease(t *testing.T) {
	k := celltest.New(t)
	k.Serve("work", registerEcho(func(ctx context.Context, c *cell.Call) error {
		select {
		case <-time.After(time.Second):
			return echo(ctx, c)
		case <-ctx.Done():
			return ctx.Err()
		}
	}), celltest.Metered())
	c := caller(k, "a", celltest.Node("far"))
	k.Lease("work", channel.Lease{Node: "far", LimitNS: int64(5 * time.Second), ForMS: 60_000})
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			v, err := c.Call(t.Context(), mEcho, &raw{})
			if err != nil {
				t.Error(err)
				return
			}
			v.Release()
		})
	}
	all.Wait()
}
