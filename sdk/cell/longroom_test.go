package cell_test

import (
	"context"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// modest is a cell that takes messages of 64 KiB: 4 MiB of them in all links
// together, of which one node may hold 2.
func modest(t *testing.T) *puppeteer {
	t.Helper()
	k := puppetOf(t, channel.Welcome{Cell: "puppet", Replica: 1, Incarnation: 1, Links: 1, MaxMessage: 64 << 10})
	hang := func(ctx context.Context, _ *cell.Call) error { <-ctx.Done(); return ctx.Err() }
	k.m.Register(&echoDesc, echo, echo, hang, hang, hang)
	k.serveRegistered()
	return k
}

// from opens a link of a cell of another node.
func (p *puppeteer) from(node sdk.NodeID) *peer {
	p.t.Helper()
	c := p.link(p.t, 0, channel.Link{Local: true, Node: node, Cell: "hostile"})
	c.hello()
	c.greeted()
	return c
}

// echoesLong makes a call in three parts, which must be answered.
func (p *peer) echoesLong() {
	p.t.Helper()
	p.say(wire.KindRequest, wire.FlagMore, 1000, make([]byte, 20<<10))
	p.say(wire.KindFragment, wire.FlagMore, 1000, make([]byte, 20<<10))
	p.say(wire.KindFragment, 0, 1000, make([]byte, 20<<10))
	if code, _ := p.final(1000); code != sdk.CodeOK {
		p.t.Fatalf("a request in parts ends with %s", code)
	}
}

// overloaded waits until the cell has handled all that was sent, and returns the
// calls that it has refused for want of room.
func (p *peer) overloaded(limit int) (refused map[uint32]bool) {
	p.t.Helper()
	p.say(wire.KindPing, 0, 0, nil)
	refused = make(map[uint32]bool)
	for {
		h, body := p.hear()
		switch {
		case h.Kind == wire.KindPong:
			if len(refused) > limit {
				p.t.Fatalf("%d calls are refused", len(refused))
			}
			return refused
		case h.Kind != wire.KindError || sdk.Code(h.Aux&0xff) != sdk.CodeOverloaded:
			p.t.Fatalf("got %+v %q", h, body)
		default:
			refused[h.Call] = true
		}
	}
}

// A member opens many links, and on each begins requests, or messages of
// streams, that it never ends.
func TestOneNodeDoesNotFillAServer(t *testing.T) {
	const links, calls = 20, 64 // of 60 KiB: 75 MiB
	for name, begin := range map[string]func(p *peer, id uint32){
		"unfinished requests": func(p *peer, id uint32) {
			p.say(wire.KindRequest, wire.FlagMore, id, make([]byte, 30<<10))
			p.say(wire.KindFragment, wire.FlagMore, id, make([]byte, 30<<10))
		},
		"unfinished messages": func(p *peer, id uint32) {
			p.request(id, mChat, nil)
			p.say(wire.KindMessage, wire.FlagMore, id, make([]byte, 30<<10))
			p.say(wire.KindFragment, wire.FlagMore, id, make([]byte, 30<<10))
		},
		"messages nobody takes": func(p *peer, id uint32) {
			p.request(id, mChat, nil)
			for range 60 {
				p.say(wire.KindMessage, 0, id, make([]byte, 1<<10))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := modest(t)
			friend, here := k.from("friend"), k.open()
			var peers []*peer
			before := heap()
			for range links {
				p := k.from("hostile")
				peers = append(peers, p)
				for id := range uint32(calls) {
					begin(p, id)
				}
				p.echoes() // all has come, and the link goes on
			}
			if n := cell.Held(k.m); n > 2<<20 || n < 1<<20 {
				t.Errorf("%d bytes are held", n)
			}
			grown(t, before, 16<<20) // the links among it
			friend.echoesLong()
			here.echoesLong()
			for _, p := range peers {
				p.conn.Close()
			}
			eventually(t, "bytes are held for links that have ended", func() bool { return cell.Held(k.m) == 0 })
			k.from("hostile").echoesLong()
		})
	}
}

func TestAllNodesTogetherDoNotFillAServer(t *testing.T) {
	k := modest(t)
	refused := 0
	for _, node := range []sdk.NodeID{"a", "b", "c", "d"} {
		p := k.from(node)
		for id := range uint32(30) {
			p.say(wire.KindRequest, wire.FlagMore, id, make([]byte, 60<<10))
		}
		refused += len(p.overloaded(30))
		p.echoes()
	}
	if n := cell.Held(k.m); n > 4<<20 || n < 3<<20 || refused == 0 {
		t.Errorf("%d bytes are held, %d requests refused", n, refused)
	}
}

func TestRequestsThatDoNotGoOnAreDropped(t *testing.T) {
	k := modest(t)
	p, other := k.open(), k.open()
	other.echoes() // it has greeted
	p.say(wire.KindRequest, wire.FlagMore, 1, make([]byte, 10<<10))
	_ = p.write(frame(wire.Header{Kind: wire.KindRequest, Flags: wire.FlagMore, Call: 2, Value: 100_000}, nil)) // 10 s
	p.overloaded(0)
	cell.VisitIn(k.m, 9*time.Second)
	p.overloaded(0)
	cell.VisitIn(k.m, 11*time.Second)
	if code, executed := p.final(2); code != sdk.CodeDeadline || executed != sdk.ExecutedNo {
		t.Errorf("the request whose time is over ends with %s, executed %d", code, executed)
	}
	cell.VisitIn(k.m, 29*time.Second)
	p.overloaded(0)
	cell.VisitIn(k.m, 31*time.Second)
	if code, executed := p.final(1); code != sdk.CodeDeadline || executed != sdk.ExecutedNo {
		t.Errorf("the request that does not go on ends with %s, executed %d", code, executed)
	}
	if n := cell.Held(k.m); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
	p.say(wire.KindFragment, 0, 1, make([]byte, 10<<10)) // crossed its end: dropped
	p.echoesLong()
	other.echoes()
}

// A stream whose other side says half a message, and then nothing, ends; one
// that waits for the next message does not.
func TestStreamsThatDoNotGoOnEnd(t *testing.T) {
	k := modest(t)
	p := k.open()
	p.request(1, mChat, nil)
	p.say(wire.KindMessage, wire.FlagMore, 1, make([]byte, 30<<10))
	p.request(2, mChat, nil)
	p.say(wire.KindMessage, wire.FlagMore, 2, make([]byte, 20<<10))
	p.say(wire.KindFragment, 0, 2, make([]byte, 20<<10))
	p.overloaded(0)
	whole := cell.Held(k.m)
	cell.VisitIn(k.m, 29*time.Second)
	p.say(wire.KindFragment, wire.FlagMore, 1, make([]byte, 20<<10)) // more comes: it has as long again
	p.overloaded(0)
	cell.VisitIn(k.m, 29*time.Second)
	p.overloaded(0)
	if n := cell.Held(k.m); n <= whole {
		t.Errorf("%d bytes are held of two streams, %d before the last part", n, whole)
	}
	cell.VisitIn(k.m, 31*time.Second)
	if code, executed := p.final(1); code != sdk.CodeCancelled && code != sdk.CodeDeadline || executed == sdk.ExecutedNo {
		t.Errorf("the stream that does not go on ends with %s, executed %d", code, executed)
	}
	eventually(t, "what has come of it is held", func() bool { return cell.Held(k.m) < whole })
	cell.VisitIn(k.m, time.Hour)
	p.say(wire.KindFragment, wire.FlagMore, 1, make([]byte, 10<<10)) // crossed its end: dropped
	p.overloaded(0)                                                  // call 2 goes on
	p.echoesLong()
}

func TestSettingsOfCallersFitAFrame(t *testing.T) {
	k := modest(t)
	p := k.openSilent()
	space := make([]byte, 60<<10)
	for i := range space {
		space[i] = ' '
	}
	p.say(wire.KindSettings, wire.FlagJSON|wire.FlagMore, 0, space)
	p.say(wire.KindFragment, wire.FlagMore, 0, space)
	p.ended()
	k.open().echoes()
}
