package cell_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
)

func TestCorkedReplyAfterHandOver(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error {
		time.Sleep(20 * time.Millisecond) // reading is handed over
		err := c.Reply(&raw{[]byte("x")})
		time.Sleep(2 * time.Second) // e.g. cleaning up
		return err
	}))
	c := k.Synapse("echo").Client(&echoDesc)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	at := time.Now()
	v, err := c.Call(ctx, mEcho, &raw{[]byte("a")})
	t.Log(time.Since(at), err)
	if err != nil {
		t.Fatal(err)
	}
	v.Release()
}

type bomb struct{ raw }

func (b *bomb) AppendFlat([]byte) []byte { panic("bomb") }

func TestPanicWhileEncodingReply(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(func(_ context.Context, c *cell.Call) error { return c.Reply(&bomb{}) }))
	c := k.Synapse("echo").Client(&echoDesc)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Call(ctx, mEcho, &raw{[]byte("a")})
	if sdk.CodeOf(err) != sdk.CodeInternal {
		t.Fatalf("code %v: %v", sdk.CodeOf(err), err)
	}
}

func TestNestedErrorsAreNotOnesOwn(t *testing.T) {
	k := celltest.New(t)
	var runs atomic.Int32
	k.Serve("down", registerEcho(func(context.Context, *cell.Call) error {
		return sdk.Errorf(sdk.CodeUnavailable, "backend is off")
	}))
	mid := k.Serve("mid", func(m *cell.Membrane) {
		registerEcho(func(ctx context.Context, c *cell.Call) error {
			runs.Add(1) // a side effect, say a debit
			v, err := m.Synapse("down").Client(&echoDesc).Call(ctx, mEcho, &raw{c.Request()})
			if err != nil {
				return err
			}
			defer v.Release()
			return c.Reply(&raw{v.Bytes()})
		})(m)
	})
	_ = mid
	_, err := k.Synapse("mid").Client(&echoDesc).Call(t.Context(), mEcho, &raw{[]byte("a")})
	e := sdk.AsError(err)
	if runs.Load() != 1 || e.Executed == sdk.ExecutedNo {
		t.Fatalf("not idempotent, executed %d times; error says executed %s: %v", runs.Load(), e.Executed, err)
	}
}

func TestRetiredLinkWithStreamCloses(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(echo))
	s := k.Synapse("echo")
	st, err := s.Client(&echoDesc).Open(t.Context(), mChat, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := cell.LinksOf(s)
	cell.Retire(s)
	if v, err := s.Client(&echoDesc).Call(t.Context(), mEcho, &raw{[]byte("a")}); err != nil { // over the new link
		t.Fatal(err)
	} else {
		v.Release()
	}
	st.CloseSend()
	if _, err := st.Recv(); err == nil {
		t.Fatal("want EOF")
	}
	for end := time.Now().Add(5 * time.Second); cell.LinksOf(s) > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d links, before %d: the retired one stays open for ever", cell.LinksOf(s), before)
		}
	}
}

func TestReaperForgetsALinkThatIsAddedLate(t *testing.T) {
	p := puppet(t)
	s := p.m.Synapse("victim")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.Client(&echoDesc).Call(plain{ctx, time.Now().Add(500 * time.Millisecond)}, mEcho, &raw{[]byte("q")})
		done <- err
	}()
	c := p.acceptSilent()
	cell.LockSynapse(s) // the dialler is late, or the machine busy
	st := generous
	st.Services = echoTable()
	c.say(1, 4, 0, settingsOf(t, st))
	c.greeted()
	time.Sleep(60 * time.Millisecond)
	cell.UnlockSynapse(s)
	c.asked()
	select {
	case err := <-done:
		t.Log(err)
	case <-time.After(3 * time.Second):
		t.Fatal("a deadline of 500 ms did not end the call in 3 s")
	}
}

// plain has a deadline and no Done channel, like Background with the axon's default deadline.
type plain struct {
	context.Context
	at time.Time
}

func (p plain) Deadline() (time.Time, bool) { return p.at, true }
func (plain) Done() <-chan struct{}         { return nil }
func (plain) Err() error                    { return nil }
