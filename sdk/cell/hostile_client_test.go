package cell_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/cell/celltest"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// echoTable is what a server of echoDesc says it serves.
func echoTable() []wire.Service {
	s := wire.Service{Name: echoDesc.Name}
	for _, m := range echoDesc.Methods {
		s.Methods = append(s.Methods, wire.Method{Name: m.Name, Shape: uint8(m.Shape), Idempotent: m.Idempotent})
	}
	return []wire.Service{s}
}

// accept waits for the cell to open a link, and greets.
func (p *puppeteer) accept() *peer {
	p.t.Helper()
	c := p.acceptSilent()
	s := generous
	s.Services = echoTable()
	c.say(wire.KindSettings, wire.FlagJSON, 0, settingsOf(p.t, s))
	c.greeted()
	return c
}

func (p *puppeteer) acceptSilent() *peer {
	p.t.Helper()
	select {
	case c := <-p.dials:
		return c
	case <-time.After(patience):
		p.t.Fatal("the cell opens no link")
		return nil
	}
}

// asked waits for a request and returns its call id.
func (p *peer) asked() uint32 {
	p.t.Helper()
	for {
		if h, _ := p.hear(); h.Kind == wire.KindRequest {
			return h.Call
		}
	}
}

type outcome struct {
	body string
	err  error
}

// calling makes a call that is not retried, in the background.
func (p *puppeteer) calling(ctx context.Context) <-chan outcome {
	c := p.m.Synapse("victim").Client(&echoDesc)
	done := make(chan outcome, 1)
	go func() {
		v, err := c.Call(ctx, mEcho, &raw{[]byte("question")})
		if err != nil {
			done <- outcome{"", err}
			return
		}
		defer v.Release()
		done <- outcome{string(v.Bytes()), nil}
	}()
	return done
}

// works makes a call over a new link, which must be answered.
func (p *puppeteer) works() {
	p.t.Helper()
	done := p.calling(p.t.Context())
	c := p.accept()
	c.say(wire.KindReply, 0, c.asked(), []byte("answer"))
	if out := <-done; out.err != nil || out.body != "answer" {
		p.t.Errorf("afterwards: got %q, %v", out.body, out.err)
	}
}

func TestLinksOfBrokenServersEnd(t *testing.T) {
	long := make([]byte, 64<<10)
	for name, attack := range map[string]func(p *peer, id uint32){
		"4 GiB length": func(p *peer, _ uint32) {
			_ = p.write([]byte{0xff, 0xff, 0xff, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		},
		"reply for an unknown call": func(p *peer, id uint32) { p.say(wire.KindReply, 0, id+1, nil) },
		"reply far beyond":          func(p *peer, _ uint32) { p.say(wire.KindReply, 0, 1<<31, nil) },
		"error for an unknown call": func(p *peer, id uint32) { p.say(wire.KindError, 0, id+1, nil) },
		"error that is none":        func(p *peer, id uint32) { p.say(wire.KindError, 0, id, []byte("all is well")) },
		"error with a wrong executed": func(p *peer, id uint32) {
			_ = p.write(frame(wire.Header{Kind: wire.KindError, Call: id, Aux: 5 | 3<<8}, nil))
		},
		"request to a client":        func(p *peer, id uint32) { p.request(id, 0, nil) },
		"cancel to a client":         func(p *peer, id uint32) { p.say(wire.KindCancel, 0, id, nil) },
		"message of a unary call":    func(p *peer, id uint32) { p.say(wire.KindMessage, 0, id, nil) },
		"fragment without beginning": func(p *peer, id uint32) { p.say(wire.KindFragment, 0, id, nil) },
		"settings twice":             func(p *peer, _ uint32) { p.hello() },
		"endless reply": func(p *peer, id uint32) {
			p.say(wire.KindReply, wire.FlagMore, id, long)
			for range 17 << 20 / len(long) {
				p.say(wire.KindFragment, wire.FlagMore, id, long)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := puppet(t)
			done := k.calling(t.Context())
			p := k.accept()
			attack(p, p.asked())
			p.ended()
			out := <-done
			if e := sdk.AsError(out.err); e == nil || e.Code != sdk.CodeUnavailable || e.Executed != sdk.ExecutedMaybe {
				t.Errorf("the call ended with %q, %+v", out.body, e)
			}
			k.works()
		})
	}
}

func TestASecondReplyDoesNotChangeTheFirst(t *testing.T) {
	k := puppet(t)
	c := k.m.Synapse("victim").Client(&echoDesc)
	got := make(chan cell.Vesicle)
	go func() {
		v, err := c.Call(t.Context(), mEcho, &raw{nil})
		if err != nil {
			t.Error(err)
		}
		got <- v
	}()
	p := k.accept()
	id := p.asked()
	p.say(wire.KindReply, 0, id, []byte("first"))
	v := <-got
	p.say(wire.KindReply, 0, id, []byte("other"))
	p.ended()
	if string(v.Bytes()) != "first" {
		t.Errorf("the reply is now %q", v.Bytes())
	}
	v.Release()
	k.works()
}

func TestServersThatDoNotKeepTheirSettings(t *testing.T) {
	none := generous
	none.Calls, none.Services = 0, echoTable()
	for name, test := range map[string]struct {
		say  func(p *peer)
		ends bool
	}{
		"no settings at all": {func(*peer) {}, false},
		"no calls accepted":  {func(p *peer) { p.say(wire.KindSettings, 0, 0, settingsOf(t, none)) }, false},
		"another protocol":   {func(p *peer) { _ = p.write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, true},
		"too many methods":   {func(p *peer) { p.say(wire.KindSettings, 0, 0, manyServices) }, true},
		"ping first":         {func(p *peer) { p.say(wire.KindPing, 0, 0, nil) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			k := puppet(t)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			done := k.calling(ctx)
			p := k.acceptSilent()
			test.say(p)
			if test.ends {
				p.ended()
			}
			out := <-done
			if e := sdk.AsError(out.err); e == nil || e.Code != sdk.CodeDeadline || e.Executed != sdk.ExecutedNo {
				t.Errorf("the call ended with %+v", e)
			}
		})
	}
}

func TestAServerThatNeverAnswers(t *testing.T) {
	k := puppet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := k.calling(ctx)
	p := k.accept()
	id := p.asked()
	out := <-done
	if e := sdk.AsError(out.err); e == nil || e.Code != sdk.CodeDeadline || e.Executed != sdk.ExecutedMaybe {
		t.Errorf("the call ended with %+v", e)
	}
	if h, _ := p.hear(); h.Kind != wire.KindCancel || h.Call != id {
		t.Errorf("the server hears %+v", h)
	}
	// The id is not free before the server has ended the call.
	done = k.calling(t.Context())
	if other := p.asked(); other == id {
		t.Errorf("id %d is used again", id)
	} else {
		p.say(wire.KindError, 0, id, nil) // malformed, and late: ends the link
	}
	<-done
	p.ended()
}

func TestLateAnswersAreDropped(t *testing.T) {
	k := puppet(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := k.calling(ctx)
	p := k.accept()
	id := p.asked()
	cancel()
	if out := <-done; sdk.CodeOf(out.err) != sdk.CodeCancelled {
		t.Errorf("the call ended with %v", out.err)
	}
	p.say(wire.KindReply, 0, id, []byte("too late"))
	done = k.calling(t.Context())
	p.say(wire.KindReply, 0, p.asked(), []byte("in time"))
	if out := <-done; out.body != "in time" {
		t.Errorf("got %q, %v", out.body, out.err)
	}
}

func TestAServerThatStreamsBeyondTheWindow(t *testing.T) {
	k := puppet(t)
	c := k.m.Synapse("victim").Client(&echoDesc)
	opened := make(chan *cell.Stream)
	go func() {
		s, err := c.Open(t.Context(), mCount, &raw{[]byte{1}})
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	p := k.accept()
	id := p.asked()
	s := <-opened
	for range 256<<10/64 + 1 {
		p.say(wire.KindMessage, 0, id, nil)
	}
	p.ended()
	n := 0
	for {
		v, err := s.Recv()
		if err != nil {
			if e := sdk.AsError(err); e.Code != sdk.CodeUnavailable || !strings.Contains(e.Text, "beyond the window") {
				t.Errorf("the stream ended with %+v", e)
			}
			break
		}
		v.Release()
		n++
	}
	if n != 256<<10/64 {
		t.Errorf("%d messages were received", n)
	}
	k.works()
}

func TestRepliesMayComeByteByByte(t *testing.T) {
	k := puppet(t)
	done := k.calling(t.Context())
	p := k.accept()
	id := p.asked()
	stream := frame(wire.Header{Kind: wire.KindPing, Value: 42}, nil)
	stream = append(stream, frame(wire.Header{Kind: wire.KindReply, Flags: wire.FlagMore, Call: id}, []byte("drop "))...)
	stream = append(stream, frame(wire.Header{Kind: wire.KindFragment, Flags: wire.FlagMore, Call: id}, nil)...)
	stream = append(stream, frame(wire.Header{Kind: wire.KindFragment, Call: id}, []byte("by drop"))...)
	for i := range stream {
		if err := p.write(stream[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if h, _ := p.hear(); h.Kind != wire.KindPong || h.Value != 42 {
		t.Errorf("the ping is answered with %+v", h)
	}
	if out := <-done; out.body != "drop by drop" {
		t.Errorf("got %q, %v", out.body, out.err)
	}
}

// Streams that are given up while both sides are in the middle of long
// messages leave nothing behind that could meet the next call of their id.
func TestGivenUpStreamsLeaveTheLinkClean(t *testing.T) {
	k := celltest.New(t)
	k.Serve("echo", registerEcho(echo))
	m := k.Attach("caller", celltest.Links(1))
	c := m.Synapse("echo").Client(&echoDesc)
	long := &raw{make([]byte, 300<<10)}
	for round := range ids(160) {
		ctx, cancel := context.WithCancel(t.Context())
		var streams []*cell.Stream
		for range 4 {
			s, err := c.Open(ctx, mChat, nil)
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		done := make(chan struct{}, len(streams))
		for _, s := range streams {
			go func() {
				defer func() { done <- struct{}{} }()
				for s.Send(long) == nil {
				}
			}()
		}
		if v, err := streams[0].Recv(); err == nil {
			v.Release()
		}
		if round%2 == 0 {
			cancel()
		}
		for _, s := range streams {
			s.Close()
		}
		for range streams {
			<-done
		}
		cancel()
		want := fmt.Sprint("round ", round)
		if got := call(t, c, mEcho, []byte(want)); string(got) != want {
			t.Fatalf("got %q", got)
		}
	}
	if n := len(k.Stats("echo")); n > 1 {
		t.Errorf("it took %d links", n)
	}
}
