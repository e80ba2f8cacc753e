package cell_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// sized replies with as many bytes as the request is long, times 1024.
func sized(ctx context.Context, c *cell.Call) error {
	if string(c.Request()) == "still here" {
		return echo(ctx, c)
	}
	return c.Reply(&raw{make([]byte, len(c.Request())<<10)})
}

// openWith opens a link to the cell that serves, for somebody who accepts so much.
func (p *puppeteer) openWith(s wire.Settings) *peer {
	p.t.Helper()
	c := p.link(p.t, 0, channel.Link{Local: true, Cell: "hostile"})
	c.say(wire.KindSettings, wire.FlagJSON, 0, settingsOf(p.t, s))
	c.greeted()
	return c
}

// Of what the caller has said it takes, a reply more than its share may be
// under way; what is short passes those that wait.
func TestLongRepliesKeepToTheCallersBudget(t *testing.T) {
	const calls, size, budget, rounds = 40, 300 << 10, 512 << 10, 400
	k := puppet(t)
	k.serve(sized)
	s := generous
	s.Budget = budget
	p := k.openWith(s)
	for id := range uint32(calls) {
		p.request(id, mEcho, make([]byte, size>>10))
	}
	begun, whole, most, short := map[uint32]int{}, 0, 0, false
	for asked := calls; whole < asked; {
		h, body := p.hear()
		if h.Call == calls {
			short = h.Kind == wire.KindReply
			continue
		}
		if len(begun) == 0 && whole == 0 {
			p.request(calls, mEcho, []byte{1})
		}
		if _, ok := begun[h.Call]; ok != (h.Kind == wire.KindFragment) || h.Kind != wire.KindFragment && h.Kind != wire.KindReply {
			t.Fatalf("unexpected %+v", h)
		}
		begun[h.Call] += len(body)
		under := 0
		for _, n := range begun {
			under += n
		}
		most = max(most, under)
		if h.Flags&wire.FlagMore == 0 {
			if begun[h.Call] != size {
				t.Errorf("reply %d has %d bytes", h.Call, begun[h.Call])
			}
			delete(begun, h.Call)
			whole++
			if !short && asked < rounds { // there are always some that wait
				p.request(h.Call, mEcho, make([]byte, size>>10))
				asked++
			}
		}
	}
	if most > budget+size {
		t.Errorf("%d bytes of replies were under way, want at most %d", most, budget+size)
	}
	if !short {
		t.Errorf("a short reply waited for %d long ones", whole)
	}
	p.echoes()
}

// A reply that waits for room ends with its deadline, and one whose caller says
// nothing of a budget goes alone.
func TestALongReplyWaitsNoLongerThanItsCall(t *testing.T) {
	k := puppet(t)
	k.serve(sized)
	s := generous
	s.Budget = 0
	p := k.openWith(s)
	p.request(0, mEcho, make([]byte, 4<<10)) // 4 MiB, which nobody reads
	if h, _ := p.hear(); h.Call != 0 || h.Flags&wire.FlagMore == 0 {
		t.Fatalf("the first frame is %+v", h)
	}
	_ = p.write(frame(wire.Header{Kind: wire.KindRequest, Call: 1, Aux: mEcho, Value: wire.PutTime(50 * time.Millisecond)}, make([]byte, 100)))
	<-time.After(200 * time.Millisecond) // its deadline passes while nobody reads
	for ended := 0; ended < 2; {
		h, _ := p.hear()
		switch {
		case h.Kind == wire.KindError && h.Call == 1:
			if code := sdk.Code(h.Aux & 0xff); code != sdk.CodeDeadline || sdk.Executed(h.Aux>>8) != sdk.ExecutedYes {
				t.Errorf("the one that waited ended with %s, %d", code, h.Aux>>8)
			}
		case h.Call == 1:
			t.Fatalf("a second reply began: %+v", h)
		case h.Flags&wire.FlagMore != 0:
			continue
		}
		ended++
	}
	p.echoes()
}

// Both sides are the sdk: what waits for room gets it, and nothing stays behind.
func TestManyLongRepliesOnOneLink(t *testing.T) {
	const size = 1 << 20
	calls := ids(64) // twice the budget
	k, reply := celltest.New(t), &raw{make([]byte, size)}
	var all sync.WaitGroup
	all.Add(calls)
	k.Serve("echo", registerEcho(func(ctx context.Context, c *cell.Call) error {
		if len(c.Request()) == 0 {
			return echo(ctx, c)
		}
		all.Done()
		all.Wait() // so that they reply at once
		return c.Reply(reply)
	}))
	c := k.Synapse("echo").Client(&echoDesc)
	call(t, c, mEcho, nil)
	before := heap()
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			v, err := c.Call(t.Context(), mEcho, &raw{[]byte{1}})
			if err != nil {
				t.Error(err)
				return
			}
			if len(v.Bytes()) != size {
				t.Errorf("got %d bytes", len(v.Bytes()))
			}
			v.Release()
		})
	}
	wg.Wait()
	grown(t, before, 8<<20)
}

func TestAServerThatIgnoresTheBudgetIsCut(t *testing.T) {
	const calls = 16
	k := puppet(t)
	first := k.calling(t.Context())
	p := k.accept()
	outcomes, asked := []<-chan outcome{first}, []uint32{p.asked()}
	for len(asked) < calls {
		outcomes = append(outcomes, k.calling(t.Context()))
		asked = append(asked, p.asked())
	}
	before := heap()
	long := make([]byte, 64<<10)
	for _, id := range asked {
		p.say(wire.KindReply, wire.FlagMore, id, long)
	}
	sent := calls * len(long)
	for cut := error(nil); cut == nil && sent < 200<<20; {
		for _, id := range asked {
			cut = p.write(frame(wire.Header{Kind: wire.KindFragment, Flags: wire.FlagMore, Call: id}, long))
			sent += len(long)
		}
	}
	p.ended()
	if sent >= 200<<20 {
		t.Errorf("%d MiB of replies were taken in part", sent>>20)
	}
	for _, done := range outcomes {
		out := <-done
		e := sdk.AsError(out.err)
		if e == nil || e.Code != sdk.CodeUnavailable || e.Executed != sdk.ExecutedMaybe || !strings.Contains(e.Text, "have come in part") {
			t.Errorf("a call ended with %q, %+v", out.body, e)
		}
	}
	grown(t, before, 8<<20)
	k.works()
}
