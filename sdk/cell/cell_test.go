package cell_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw is a message that is its own encoding.
type raw struct{ B []byte }

func (r *raw) AppendFlat(b []byte) []byte { return append(b, r.B...) }
func (r *raw) ParseFlat(b []byte) error   { r.B = append(r.B[:0], b...); return nil }

func newRaw() flat.Message { return new(raw) }

var echoDesc = cell.Desc{Name: "Echo", Methods: []cell.MethodDesc{
	{Name: "Echo", NewIn: newRaw, NewOut: newRaw},
	{Name: "Safe", Idempotent: true, NewIn: newRaw, NewOut: newRaw},
	{Name: "Count", Shape: cell.ServerStream, NewIn: newRaw, NewOut: newRaw},
	{Name: "Sum", Shape: cell.ClientStream, NewIn: newRaw, NewOut: newRaw},
	{Name: "Chat", Shape: cell.Bidi, NewIn: newRaw, NewOut: newRaw},
}}

const (
	mEcho = iota
	mSafe
	mCount
	mSum
	mChat
)

func echo(_ context.Context, c *cell.Call) error { return c.Reply(&raw{c.Request()}) }

// registerEcho serves echoDesc with unary as its first two methods.
func registerEcho(unary cell.Handler) func(*cell.Membrane) {
	return func(m *cell.Membrane) { m.Register(&echoDesc, unary, unary, count, sum, chat) }
}

// count sends as many messages as the request's first byte says.
func count(_ context.Context, c *cell.Call) error {
	for i := range c.Request()[0] {
		if err := c.Stream().Send(&raw{[]byte{i}}); err != nil {
			return err
		}
	}
	return nil
}

// sum replies with the number of bytes received.
func sum(_ context.Context, c *cell.Call) error {
	n := 0
	for {
		v, err := c.Stream().Recv()
		if err == io.EOF {
			return c.Reply(&raw{fmt.Append(nil, n)})
		}
		if err != nil {
			return err
		}
		n += len(v.Bytes())
		v.Release()
	}
}

func chat(_ context.Context, c *cell.Call) error {
	for {
		v, err := c.Stream().Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		err = c.Stream().Send(&raw{v.Bytes()})
		v.Release()
		if err != nil {
			return err
		}
	}
}

func call(t *testing.T, c *cell.Client, method int, body []byte) []byte {
	t.Helper()
	v, err := c.Call(t.Context(), method, &raw{body})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	return bytes.Clone(v.Bytes())
}

func TestEchoesOfAllSizes(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(echo))
	c := k.Synapse("echo").Client(&echoDesc)
	for _, n := range []int{0, 1, 7, 8, 64, 2048, 2049, 4096, 64 << 10, 64<<10 + 1, 300 << 10, 5 << 20} {
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		if got := call(t, c, mEcho, want); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back as %d other ones", n, len(got))
		}
	}
}

func TestTooLongMessagesAreRefusedByTheSender(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
		return c.Reply(&raw{make([]byte, 17<<20)})
	}))
	c := k.Synapse("echo").Client(&echoDesc)
	_, err := c.Call(t.Context(), mEcho, &raw{make([]byte, 17<<20)})
	if e := sdk.AsError(err); e == nil || e.Code != sdk.CodeTooLarge || e.Executed != sdk.ExecutedNo {
		t.Errorf("request: got %v", err)
	}
	_, err = c.Call(t.Context(), mEcho, &raw{nil})
	if e := sdk.AsError(err); e == nil || e.Code != sdk.CodeTooLarge || e.Executed != sdk.ExecutedYes {
		t.Errorf("reply: got %v", err)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	k := celltest.New(t)
	fails := make(chan error, 1)
	k.Serve("echo", registerEcho(func(context.Context, *cell.Call) error { return <-fails }))
	c := k.Synapse("echo").Client(&echoDesc)
	for _, test := range []struct {
		err  error
		code sdk.Code
		ex   sdk.Executed
	}{
		{errors.New("own words"), sdk.CodeApplication, sdk.ExecutedYes},
		{sdk.Errorf(sdk.CodeDenied, "not you"), sdk.CodeDenied, sdk.ExecutedNo},
		{&sdk.Error{Code: sdk.CodeNotFound, Executed: sdk.ExecutedYes, Text: "gone"}, sdk.CodeNotFound, sdk.ExecutedYes},
		{cell.Invalid(errors.New("bad")), sdk.CodeInvalid, sdk.ExecutedNo},
		{nil, sdk.CodeInternal, sdk.ExecutedYes}, // returned without a reply
	} {
		fails <- test.err
		_, err := c.Call(t.Context(), mEcho, &raw{nil})
		e := sdk.AsError(err)
		if e == nil || e.Code != test.code || e.Executed != test.ex {
			t.Errorf("%v arrived as %+v", test.err, e)
		}
		if test.err != nil && !strings.Contains(e.Text, test.err.Error()) {
			t.Errorf("%v arrived as %q", test.err, e.Text)
		}
	}
}

func TestPanicBecomesATypedError(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
		if string(c.Request()) == "panic" {
			panic("oh")
		}
		return echo(context.Background(), c)
	}))
	c := k.Synapse("echo").Client(&echoDesc)
	_, err := c.Call(t.Context(), mEcho, &raw{[]byte("panic")})
	if e := sdk.AsError(err); e == nil || e.Code != sdk.CodeInternal || e.Executed != sdk.ExecutedYes || !strings.Contains(e.Text, "oh") {
		t.Errorf("got %v", err)
	}
	if got := call(t, c, mEcho, []byte("x")); string(got) != "x" {
		t.Errorf("after the panic: got %q", got)
	}
}

func TestDeadlineTravelsAndCancels(t *testing.T) {
	k := celltest.New(t)
	ended := make(chan error, 1)
	k.Serve("echo", registerEcho(func(ctx context.Context, _ *cell.Call) error {
		d, ok := ctx.Deadline()
		if left := time.Until(d); !ok || left > 60*time.Millisecond {
			t.Errorf("handler has %s left, %v", left, ok)
		}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}))
	c := k.Synapse("echo").Client(&echoDesc)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, mEcho, &raw{nil})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the handler's context did not end")
	}
}

func TestDefaultDeadlineOfAnAxon(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(func(ctx context.Context, _ *cell.Call) error { <-ctx.Done(); return ctx.Err() }))
	m := k.Attach("caller", celltest.Axon("echo", channel.Axon{TimeoutMS: 30}))
	_, err := m.Synapse("echo").Client(&echoDesc).Call(context.Background(), mEcho, &raw{nil})
	if e := sdk.AsError(err); e == nil || e.Code != sdk.CodeDeadline {
		t.Errorf("got %v", err)
	}
}

func TestCancelReachesTheHandlerAndFreesTheSlot(t *testing.T) {
	k := celltest.New(t)
	running := make(chan struct{}, 1)
	k.Serve("echo", registerEcho(func(ctx context.Context, c *cell.Call) error {
		if len(c.Request()) > 0 {
			return echo(ctx, c)
		}
		running <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	c := k.Synapse("echo").Client(&echoDesc)
	for range 3000 { // more than there are slots
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-running; cancel() }()
		_, err := c.Call(ctx, mEcho, &raw{nil})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	if got := call(t, c, mEcho, []byte("y")); string(got) != "y" {
		t.Errorf("got %q", got)
	}
}

func TestCallWaitsForAnEndpoint(t *testing.T) {
	k := celltest.New(t)
	c := k.Synapse("echo").Client(&echoDesc)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, mEcho, &raw{nil})
	if e := sdk.AsError(err); e == nil || e.Code != sdk.CodeDeadline || e.Executed != sdk.ExecutedNo || !strings.Contains(e.Text, `resolve "echo"`) {
		t.Errorf("without any endpoint: got %v", err)
	}
	got := make(chan []byte)
	go func() {
		v, err := c.Call(context.Background(), mEcho, &raw{[]byte("late")})
		if err != nil {
			t.Error(err)
		}
		got <- bytes.Clone(v.Bytes())
		v.Release()
	}()
	k.Serve("echo", registerEcho(echo))
	if s := string(<-got); s != "late" {
		t.Errorf("got %q", s)
	}
}

func TestConcurrencyQueues(t *testing.T) {
	k := celltest.New(t)
	var now, most atomic.Int32
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		defer now.Add(-1)
		return echo(context.Background(), c)
	}), celltest.Concurrency(2))
	c := k.Synapse("echo").Client(&echoDesc)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			v, err := c.Call(t.Context(), mEcho, &raw{[]byte("z")})
			if err != nil {
				t.Error(err)
			}
			v.Release()
		})
	}
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("%d handlers ran at once: want at most 2", most.Load())
	}
}

func TestBalanceReachesAllReplicas(t *testing.T) {
	k := celltest.New(t)
	var counts [5]atomic.Int32
	for i := range counts {
		k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
			counts[i].Add(1)
			return echo(context.Background(), c)
		}))
	}
	c := k.Synapse("echo").Client(&echoDesc)
	for range 20 {
		call(t, c, mEcho, nil) // the first calls find few links
	}
	deadline := time.Now().Add(10 * time.Second)
	for missing(&counts) {
		if time.Now().After(deadline) {
			t.Fatal("some replica is never called")
		}
		call(t, c, mEcho, nil)
	}
}

func missing(counts *[5]atomic.Int32) bool {
	for i := range counts {
		if counts[i].Load() == 0 {
			return true
		}
	}
	return false
}

func TestDrainLosesNoCall(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(echo))
	k.Serve("other", func(*cell.Membrane) {})
	c := k.Synapse("echo").Client(&echoDesc)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var calls atomic.Int64
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := c.Call(t.Context(), mEcho, &raw{[]byte("a")})
				if err != nil {
					t.Error(err)
					return
				}
				v.Release()
				calls.Add(1)
			}
		})
	}
	for range 5 {
		before := calls.Load()
		for calls.Load() < before+100 {
			time.Sleep(time.Millisecond) // let calls happen; their number is the event
		}
		go k.Serve("echo", registerEcho(echo))
		k.Drain("echo")
	}
	close(stop)
	wg.Wait()
}

func TestMetadataAndTraceContext(t *testing.T) {
	k := celltest.New(t)
	k.Serve("inner", registerEcho(func(ctx context.Context, c *cell.Call) error {
		tp, _ := cell.Meta(ctx, "traceparent")
		_, own := cell.Meta(ctx, "own")
		return c.Reply(&raw{fmt.Appendf(nil, "%s %v %s", tp, own, cell.Caller(ctx).Cell)})
	}))
	var inner *cell.Client
	outer := k.Serve("outer", registerEcho(func(ctx context.Context, c *cell.Call) error {
		v, err := inner.Call(ctx, mEcho, &raw{nil})
		if err != nil {
			return err
		}
		defer v.Release()
		own, _ := cell.Meta(ctx, "own")
		return c.Reply(&raw{fmt.Appendf(nil, "%s, own %s", v.Bytes(), own)})
	}))
	inner = outer.Synapse("inner").Client(&echoDesc)
	ctx := cell.WithMeta(cell.WithMeta(t.Context(), "traceparent", "00-ab-cd-01"), "own", "x")
	v, err := k.Synapse("outer").Client(&echoDesc).Call(ctx, mEcho, &raw{nil})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Release()
	if got, want := string(v.Bytes()), "00-ab-cd-01 false outer, own x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestJSON(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
		return c.Reply(&raw{append([]byte("got "), c.Request()...)})
	}))
	s := k.Synapse("echo")
	out, err := s.CallJSON(t.Context(), "Echo.Safe", []byte(`{"b":"aGk="}`))
	if err != nil {
		t.Fatal(err)
	}
	var r raw
	if err := json.Unmarshal(out, &r); err != nil || string(r.B) != "got hi" {
		t.Errorf("got %s", out)
	}
	for body, code := range map[string]sdk.Code{`{`: sdk.CodeInvalid, `{"c":1}`: sdk.CodeInvalid, `{"b":5}`: sdk.CodeInvalid} {
		if _, err := s.CallJSON(t.Context(), "Echo", []byte(body)); sdk.CodeOf(err) != code {
			t.Errorf("%s: got %v", body, err)
		}
	}
	if _, err := s.CallJSON(t.Context(), "Nope", []byte(`{}`)); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestIncompatibleMethodFailsAlone(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(echo))
	other := cell.Desc{Name: "Echo", Methods: []cell.MethodDesc{
		{Name: "Echo", Shape: cell.Bidi, NewIn: newRaw, NewOut: newRaw},
		{Name: "Safe", NewIn: newRaw, NewOut: newRaw},
		{Name: "New", NewIn: newRaw, NewOut: newRaw},
	}}
	c := k.Synapse("echo").Client(&other)
	if got := call(t, c, 1, []byte("ok")); string(got) != "ok" {
		t.Errorf("got %q", got)
	}
	if _, err := c.Call(t.Context(), 0, &raw{nil}); sdk.CodeOf(err) != sdk.CodeIncompatible {
		t.Errorf("got %v", err)
	}
	if _, err := c.Call(t.Context(), 2, &raw{nil}); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestStreams(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(echo))
	c := k.Synapse("echo").Client(&echoDesc)

	st, err := c.Open(t.Context(), mCount, &raw{[]byte{200}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for m, err := range cell.NewIncoming[raw](st).All() {
		if err != nil || m.B[0] != byte(n) {
			t.Fatalf("message %d: %v, %v", n, m, err)
		}
		n++
	}
	if n != 200 {
		t.Errorf("%d messages: want 200", n)
	}

	st, err = c.Open(t.Context(), mSum, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := cell.NewOutgoing[raw, raw](st)
	for range 100 {
		if err := out.Send(&raw{make([]byte, 100<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := out.CloseAndRecv()
	if err != nil || string(r.B) != fmt.Sprint(100*100<<10) {
		t.Errorf("got %v, %v", r, err)
	}
}

// TestTwoWayLoad is the case that froze a prototype: both sides send more
// than the sockets and windows between them hold, at once, on streams and
// calls of random sizes.
func TestTwoWayLoad(t *testing.T) {
	k := celltest.New(t)
	a := k.Serve("a", registerEcho(echo))
	b := k.Serve("b", registerEcho(echo))
	var wg sync.WaitGroup
	for _, c := range []*cell.Client{a.Synapse("b").Client(&echoDesc), b.Synapse("a").Client(&echoDesc)} {
		for i := range 4 {
			wg.Go(func() { streamLoad(t, c, uint64(i)) })
			wg.Go(func() { callLoad(t, c, uint64(i)) })
		}
	}
	wg.Wait()
}

func randomBytes(r *rand.Rand) []byte {
	b := make([]byte, r.IntN(1<<r.IntN(19)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func callLoad(t *testing.T, c *cell.Client, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range 100 {
		want := randomBytes(r)
		v, err := c.Call(t.Context(), mEcho, &raw{want})
		if err != nil {
			t.Error(err)
			return
		}
		if !bytes.Equal(v.Bytes(), want) {
			t.Errorf("call of %d bytes came back different", len(want))
		}
		v.Release()
	}
}

func streamLoad(t *testing.T, c *cell.Client, seed uint64) {
	st, err := c.Open(t.Context(), mChat, nil)
	if err != nil {
		t.Error(err)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		r := rand.New(rand.NewPCG(seed, 2))
		for range 100 {
			if err := st.Send(&raw{randomBytes(r)}); err != nil {
				t.Error(err)
			}
		}
		if err := st.CloseSend(); err != nil {
			t.Error(err)
		}
	})
	r := rand.New(rand.NewPCG(seed, 2))
	for i := range 100 {
		v, err := st.Recv()
		if err != nil {
			t.Errorf("message %d: %v", i, err)
			break
		}
		if want := randomBytes(r); !bytes.Equal(v.Bytes(), want) {
			t.Errorf("message %d of %d bytes came back different", i, len(want))
		}
		v.Release()
	}
	if _, err := st.Recv(); err != io.EOF {
		t.Errorf("after the last message: %v", err)
	}
	wg.Wait()
}

func TestStreamEndsWithItsContext(t *testing.T) {
	k := celltest.New(t)
	running, ended := make(chan struct{}), make(chan error, 1)
	k.Serve("echo", func(m *cell.Membrane) {
		m.Register(&echoDesc, echo, echo, count, sum, func(ctx context.Context, c *cell.Call) error {
			close(running)
			_, err := c.Stream().Recv()
			ended <- err
			return err
		})
	})
	c := k.Synapse("echo").Client(&echoDesc)
	ctx, cancel := context.WithCancel(t.Context())
	st, err := c.Open(ctx, mChat, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-running
	cancel()
	if _, err := st.Recv(); !errors.Is(err, context.Canceled) {
		t.Errorf("client: got %v", err)
	}
	if err := <-ended; sdk.CodeOf(err) != sdk.CodeCancelled {
		t.Errorf("server: got %v", err)
	}
}

func BenchmarkEcho(b *testing.B) {
	for _, inflight := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprintf("inflight=%d", inflight), func(b *testing.B) { benchEcho(b, inflight, 64) })
	}
	for _, inflight := range []int{1, 256} {
		b.Run(fmt.Sprintf("metered/inflight=%d", inflight), func(b *testing.B) { benchEcho(b, inflight, 64, celltest.Metered()) })
	}
	b.Run("size=65536/inflight=8", func(b *testing.B) { benchEcho(b, 8, 64<<10) })
}

func benchEcho(b *testing.B, inflight, size int, opts ...celltest.Option) {
	k := celltest.New(b)
	pool := sync.Pool{New: func() any { return new(raw) }}
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
		r := pool.Get().(*raw)
		r.B = c.Request()
		err := c.Reply(r)
		pool.Put(r)
		return err
	}), opts...)
	c := k.Synapse("echo").Client(&echoDesc)
	ctx := context.Background()
	in := &raw{make([]byte, size)}
	v, err := c.Call(ctx, mEcho, in)
	if err != nil {
		b.Fatal(err)
	}
	v.Release()
	b.ReportAllocs()
	b.ResetTimer()
	begin := used(b) // on a machine that does other things, too, this says more than time
	defer func() { b.ReportMetric(float64(used(b)-begin)/float64(b.N), "cpu-ns/op") }()
	var n atomic.Int64
	n.Store(int64(b.N))
	var wg sync.WaitGroup
	for range inflight {
		wg.Go(func() {
			for n.Add(-1) >= 0 {
				v, err := c.Call(ctx, mEcho, in)
				if err != nil {
					b.Error(err)
					return
				}
				v.Release()
			}
		})
	}
	wg.Wait()
}
