package cell_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/cell"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/wire"
	"golang.org/x/sys/unix"
)

// patience bounds every wait of these tests for something that must happen.
const patience = 20 * time.Second

// A puppeteer is the kernel of one cell under test. It hands that cell links
// whose other ends the test holds, and says on them whatever it likes.
type puppeteer struct {
	t     testing.TB
	ch    *channel.Conn
	m     *cell.Membrane
	links uint64
	ready chan struct{}
	dials chan *peer  // links the cell opened
	ends  chan uint64 // links the cell says are over
}

// puppet attaches a cell to a kernel that the test plays.
func puppet(t testing.TB) *puppeteer {
	t.Helper()
	return puppetOf(t, channel.Welcome{Cell: "puppet", Replica: 1, Incarnation: 1, Links: 1})
}

func puppetOf(t testing.TB, w channel.Welcome) *puppeteer {
	t.Helper()
	ours, theirs, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	ch, err := channel.FromFD(uintptr(fd))
	if err != nil {
		t.Fatal(err)
	}
	p := &puppeteer{t: t, ch: ours, ready: make(chan struct{}), dials: make(chan *peer, 64), ends: make(chan uint64, 64)}
	done := make(chan struct{})
	go func() { defer close(done); p.run(w) }()
	if p.m, err = cell.Attach(ch, channel.Hello{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.m.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return p
}

// run answers the cell until it leaves.
func (p *puppeteer) run(w channel.Welcome) {
	defer p.ch.Close()
	buf := make([]byte, channel.MaxMessage)
	for {
		m, _, err := p.ch.RecvMessage(buf)
		if err != nil {
			return
		}
		switch m.Type {
		case channel.TypeHello:
			err = p.ch.SendMessage(channel.Message{Type: channel.TypeWelcome, Welcome: &w})
		case channel.TypeReady:
			close(p.ready)
		case channel.TypeNeed:
			err = p.ch.SendMessage(channel.Message{Type: channel.TypeEndpoints, Name: m.Name, Endpoints: &channel.Endpoints{Local: []string{string(m.Name) + "#1@1"}}})
		case channel.TypeClosed:
			select {
			case p.ends <- m.ID:
			default: // the test does not look
			}
		case channel.TypeDial:
			p.dials <- p.link(p.t, m.ID, channel.Link{Local: true, Cell: m.Name, Outgoing: true, Endpoint: m.Endpoint})
		}
		if err != nil && !errors.Is(err, unix.EPIPE) {
			p.t.Error(err)
		}
	}
}

// link gives the cell one end of a link and returns the other one.
func (p *puppeteer) link(t testing.TB, id uint64, info channel.Link) *peer {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return nil
	}
	a, b := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer a.Close()
	defer b.Close()
	info.ID = atomic.AddUint64(&p.links, 1)
	if err := p.ch.SendMessage(channel.Message{Type: channel.TypeLink, ID: id, Link: &info}, b); err != nil {
		t.Error(err)
	}
	conn, err := net.FileConn(a)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	return &peer{t: t, conn: conn}
}

// serve makes the cell serve echoDesc.
func (p *puppeteer) serve(unary cell.Handler) {
	p.t.Helper()
	registerEcho(unary)(p.m)
	p.serveRegistered()
}

func (p *puppeteer) serveRegistered() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.m.Serve(ctx) }()
	p.t.Cleanup(func() { cancel(); <-done })
	<-p.ready
}

// open opens a link to the cell that serves; settings are exchanged.
func (p *puppeteer) open() *peer {
	p.t.Helper()
	return p.openFor(p.t)
}

func (p *puppeteer) openFor(t testing.TB) *peer {
	t.Helper()
	c := p.link(t, 0, channel.Link{Local: true, Cell: "hostile"})
	c.hello()
	c.greeted()
	return c
}

func (p *puppeteer) openSilent() *peer {
	return p.link(p.t, 0, channel.Link{Local: true, Cell: "hostile"})
}

// A peer is the other side of a link of the cell under test.
type peer struct {
	t    testing.TB
	conn net.Conn
	in   []byte
}

// generous are the settings of somebody who accepts everything.
var generous = wire.Settings{Major: wire.Major, Calls: 1024, Budget: 1 << 30, Message: 1 << 30, Window: 1 << 30}

func settingsOf(t testing.TB, s wire.Settings) []byte {
	t.Helper()
	b, err := wire.AppendSettings(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func frame(h wire.Header, body []byte) []byte { return wire.AppendFrame(nil, h, body) }

func (p *peer) hello() {
	p.t.Helper()
	p.say(wire.KindSettings, wire.FlagJSON, 0, settingsOf(p.t, generous))
}

func (p *peer) greeted() {
	p.t.Helper()
	if h, _ := p.hear(); h.Kind != wire.KindSettings {
		p.t.Fatalf("first frame is a %s", h.Kind)
	}
}

// write sends bytes. The other side may end the link meanwhile.
func (p *peer) write(b []byte) error {
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := p.conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("other side does not read")
	}
	return err
}

func (p *peer) say(k wire.Kind, f wire.Flags, call uint32, body []byte) {
	_ = p.write(frame(wire.Header{Kind: k, Flags: f, Call: call}, body)) // tests look at what comes back
}

func (p *peer) request(call uint32, method uint16, body []byte) {
	_ = p.write(frame(wire.Header{Kind: wire.KindRequest, Call: call, Aux: method}, body))
}

// next returns the next frame, or why there is none.
func (p *peer) next() (wire.Header, []byte, error) {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		h, body, n, err := wire.ParseFrame(p.in)
		if err == nil {
			body = bytes.Clone(body)
			p.in = p.in[n:]
			return h, body, nil
		}
		if err != wire.ErrShort {
			p.t.Fatalf("the cell sends nonsense: %v", err)
		}
		b := make([]byte, 64<<10)
		k, err := p.conn.Read(b)
		if p.in = append(p.in, b[:k]...); k == 0 {
			return wire.Header{}, nil, err
		}
	}
}

func (p *peer) hear() (wire.Header, []byte) {
	p.t.Helper()
	h, body, err := p.next()
	if err != nil {
		p.t.Fatalf("listen: %v", err)
	}
	return h, body
}

// ended waits for the end of the link, and drops what comes before it.
func (p *peer) ended() {
	p.t.Helper()
	for {
		if _, _, err := p.next(); errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Fatal("the link goes on")
		} else if err != nil {
			return
		}
	}
}

// echoes makes a call that must be answered.
func (p *peer) echoes() {
	p.t.Helper()
	p.request(1023, mEcho, []byte("still here"))
	for {
		h, body := p.hear()
		if h.Kind == wire.KindReply && h.Call == 1023 && string(body) == "still here" {
			return
		}
		if h.Kind == wire.KindReply || h.Call == 1023 {
			p.t.Fatalf("answer is %+v %q", h, body)
		}
	}
}

// final waits for the frame that ends a call and returns its code.
func (p *peer) final(call uint32) (sdk.Code, sdk.Executed) {
	p.t.Helper()
	for {
		h, _ := p.hear()
		switch {
		case h.Call != call:
		case h.Kind == wire.KindReply && h.Flags&wire.FlagMore == 0:
			return sdk.CodeOK, sdk.ExecutedYes
		case h.Kind == wire.KindError:
			return sdk.Code(h.Aux & 0xff), sdk.Executed(h.Aux >> 8)
		}
	}
}

// heap is the memory in use.
func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// grown fails the test if more memory than that is in use than before.
func grown(t testing.TB, before uint64, limit uint64) {
	t.Helper()
	if now := heap(); now > before+limit {
		t.Errorf("%d MiB more are in use", (now-before)>>20)
	}
}

// ids are the call ids that an attack which moves much data uses.
func ids(n int) int {
	if underRace {
		return n / 8
	}
	return n
}

// hold is a handler that does not return before the test lets it, whatever
// happens to its call.
type hold struct {
	free    chan struct{}
	running atomic.Int32
	most    atomic.Int32
}

func newHold(t testing.TB) *hold {
	h := &hold{free: make(chan struct{})}
	t.Cleanup(func() { h.release() })
	return h
}

func (h *hold) release() {
	select {
	case <-h.free:
	default:
		close(h.free)
	}
}

func (h *hold) handle(_ context.Context, c *cell.Call) error {
	if string(c.Request()) == "still here" {
		return echo(context.Background(), c)
	}
	n := h.running.Add(1)
	defer h.running.Add(-1)
	for old := h.most.Load(); n > old && !h.most.CompareAndSwap(old, n); old = h.most.Load() {
	}
	<-h.free
	return echo(context.Background(), c)
}

func TestBrokenLinksEndAlone(t *testing.T) {
	meta := []byte{200, 0, 0, 0, 1}
	for name, attack := range map[string]func(p *peer){
		"4 GiB length":     func(p *peer) { _ = p.write([]byte{0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) },
		"unknown kind":     func(p *peer) { p.say(200, 0, 0, nil) },
		"kind 0":           func(p *peer) { p.say(0, 0, 0, nil) },
		"unknown flag":     func(p *peer) { p.say(wire.KindPing, 1<<7, 0, nil) },
		"ping with a body": func(p *peer) { p.say(wire.KindPing, 0, 0, []byte("x")) },
		"dirty padding": func(p *peer) {
			b := frame(wire.Header{Kind: wire.KindRequest}, []byte("x"))
			b[len(b)-1] = 1
			_ = p.write(b)
		},
		"settings twice":        func(p *peer) { p.hello() },
		"reply to a server":     func(p *peer) { p.say(wire.KindReply, 0, 0, nil) },
		"error to a server":     func(p *peer) { p.say(wire.KindError, 0, 0, nil) },
		"go-away to a server":   func(p *peer) { p.say(wire.KindGoAway, 0, 0, nil) },
		"id beyond the limit":   func(p *peer) { p.request(1024, mEcho, nil) },
		"cancel beyond":         func(p *peer) { p.say(wire.KindCancel, 0, 1<<31, nil) },
		"id in use":             func(p *peer) { p.request(7, mEcho, nil); p.request(7, mEcho, nil) },
		"id in use by a stream": func(p *peer) { p.request(7, mChat, nil); p.request(7, mEcho, nil) },
		"id of a begun request": func(p *peer) { p.say(wire.KindRequest, wire.FlagMore, 7, nil); p.request(7, mEcho, nil) },
		"message in a request":  func(p *peer) { p.say(wire.KindRequest, wire.FlagMore, 7, nil); p.say(wire.KindMessage, 0, 7, nil) },
		"message to unary":      func(p *peer) { p.request(7, mEcho, nil); p.say(wire.KindMessage, 0, 7, nil) },
		"fragment to unary":     func(p *peer) { p.request(7, mEcho, nil); p.say(wire.KindFragment, 0, 7, nil) },
		"fragment of nothing":   func(p *peer) { p.request(7, mChat, nil); p.say(wire.KindFragment, 0, 7, nil) },
		"message in a message": func(p *peer) {
			p.request(7, mChat, nil)
			p.say(wire.KindMessage, wire.FlagMore, 7, nil)
			p.say(wire.KindMessage, 0, 7, nil)
		},
		"message after the end": func(p *peer) {
			p.request(7, mChat, nil)
			p.say(wire.KindMessage, wire.FlagEnd, 7, nil)
			p.say(wire.KindMessage, 0, 7, nil)
		},
		"messages not expected": func(p *peer) { p.request(7, mCount, []byte{0xff}); p.say(wire.KindMessage, 0, 7, nil) },
		"end that goes on":      func(p *peer) { p.request(7, mChat, nil); p.say(wire.KindMessage, wire.FlagEnd|wire.FlagMore, 7, nil) },
		"metadata too short":    func(p *peer) { p.say(wire.KindRequest, wire.FlagMeta, 7, meta) },
		"metadata malformed":    func(p *peer) { p.say(wire.KindRequest, wire.FlagMeta, 7, []byte{4, 0, 0, 0, 9, 9, 9, 9}) },
		"no message, but some": func(p *peer) {
			p.say(wire.KindRequest, wire.FlagMeta|wire.FlagNone, 7, []byte{0, 0, 0, 0, 0, 0, 0, 0, 1})
		},
		"half a frame, then end": func(p *peer) {
			_ = p.write(frame(wire.Header{Kind: wire.KindRequest}, make([]byte, 99))[:50])
			p.conn.(*net.UnixConn).CloseWrite()
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := puppet(t)
			h := newHold(t)
			hang := func(ctx context.Context, _ *cell.Call) error { <-ctx.Done(); return ctx.Err() }
			k.m.Register(&echoDesc, h.handle, h.handle, hang, hang, hang)
			k.serveRegistered()
			bystander := k.open()
			p := k.open()
			attack(p)
			p.ended()
			bystander.echoes()
			k.open().echoes()
			h.release()
		})
	}
}

func TestSettingsComeFirstAndWhole(t *testing.T) {
	good := settingsOf(t, generous)
	other := generous
	other.Major++
	big := bytes.Repeat([]byte(" "), 60<<10)
	for name, attack := range map[string]func(p *peer){
		"request before":     func(p *peer) { p.request(0, mEcho, nil) },
		"ping before":        func(p *peer) { p.say(wire.KindPing, 0, 0, nil) },
		"fragment before":    func(p *peer) { p.say(wire.KindFragment, 0, 0, good) },
		"request in between": func(p *peer) { p.say(wire.KindSettings, wire.FlagMore, 0, good[:9]); p.request(0, mEcho, nil) },
		"fragment of a call": func(p *peer) {
			p.say(wire.KindSettings, wire.FlagMore, 0, good[:9])
			p.say(wire.KindFragment, 0, 1, good[9:])
		},
		"another major":      func(p *peer) { p.say(wire.KindSettings, 0, 0, settingsOf(t, other)) },
		"not JSON":           func(p *peer) { p.say(wire.KindSettings, 0, 0, []byte("hello")) },
		"empty":              func(p *peer) { p.say(wire.KindSettings, 0, 0, nil) },
		"JSON and more":      func(p *peer) { p.say(wire.KindSettings, 0, 0, append(bytes.Clone(good), '{')) },
		"negative":           func(p *peer) { p.say(wire.KindSettings, 0, 0, []byte(`{"major":1,"window":-1}`)) },
		"a million services": func(p *peer) { p.say(wire.KindSettings, 0, 0, manyServices) },
		"longer than a MiB": func(p *peer) {
			p.say(wire.KindSettings, wire.FlagMore, 0, big)
			for range 20 {
				p.say(wire.KindFragment, wire.FlagMore, 0, big)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := puppet(t)
			k.serve(echo)
			p := k.openSilent()
			attack(p)
			p.ended()
			k.open().echoes()
		})
	}
	t.Run("in fragments", func(t *testing.T) {
		k := puppet(t)
		k.serve(echo)
		p := k.openSilent()
		p.say(wire.KindSettings, wire.FlagMore, 0, nil)
		p.say(wire.KindFragment, wire.FlagMore, 0, good[:5])
		p.say(wire.KindFragment, 0, 0, good[5:])
		p.greeted()
		p.echoes()
	})
}

var manyServices = []byte(`{"major":1,"services":[` + strings.Repeat("{},", 20000) + "{}]}")

func TestBytesMayComeOneByOne(t *testing.T) {
	k := puppet(t)
	k.serve(echo)
	p := k.openSilent()
	stream := frame(wire.Header{Kind: wire.KindSettings, Flags: wire.FlagJSON}, settingsOf(t, generous))
	stream = append(stream, frame(wire.Header{Kind: wire.KindRequest, Call: 5, Aux: mEcho}, []byte("drop by drop"))...)
	for i := range stream {
		if err := p.write(stream[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	p.greeted()
	if h, body := p.hear(); h.Kind != wire.KindReply || h.Call != 5 || string(body) != "drop by drop" {
		t.Errorf("got %+v %q", h, body)
	}
}

func TestFramesForEndedCallsAreDropped(t *testing.T) {
	k := puppet(t)
	k.serve(echo)
	p := k.open()
	p.request(3, mEcho, nil)
	if code, _ := p.final(3); code != sdk.CodeOK {
		t.Errorf("ended with %s", code)
	}
	for _, kind := range []wire.Kind{wire.KindFragment, wire.KindMessage, wire.KindCredit, wire.KindCancel} {
		p.say(kind, 0, 3, nil)
		p.say(kind, 0, 900, nil) // never used
	}
	p.say(wire.KindPong, 0, 0, nil)
	p.echoes()
}

func TestRefusalsNobodyReads(t *testing.T) {
	k := puppet(t)
	k.serve(echo)
	bystander := k.open()
	p := k.open()
	const calls = 10_000
	var b []byte
	for i := range calls {
		b = wire.AppendFrame(b, wire.Header{Kind: wire.KindRequest, Call: uint32(i % 1000), Aux: 999}, nil)
	}
	if err := p.write(b); err != nil {
		t.Fatal(err)
	}
	bystander.echoes()
	got := map[uint32]int{}
	for range calls {
		h, _ := p.hear()
		if h.Kind != wire.KindError || sdk.Code(h.Aux&0xff) != sdk.CodeNotFound || sdk.Executed(h.Aux>>8) != sdk.ExecutedNo {
			t.Fatalf("got %+v", h)
		}
		got[h.Call]++
	}
	for id, n := range got {
		if n != calls/1000 {
			t.Errorf("call %d was ended %d times", id, n)
		}
	}
	p.echoes()
}

func TestAnswersNobodyReadsEndTheLink(t *testing.T) {
	k := puppet(t)
	k.serve(echo)
	bystander := k.open()
	p := k.open()
	before := heap()
	pings := bytes.Repeat(frame(wire.Header{Kind: wire.KindPing}, nil), 4096)
	sent := 0
	for p.write(pings) == nil {
		if sent += len(pings); sent > 256<<20 {
			t.Fatal("the cell answers without bound")
		}
	}
	grown(t, before, 16<<20)
	bystander.echoes()
	k.open().echoes()
}

func TestRepliesNobodyReadsAreBounded(t *testing.T) {
	k := puppet(t)
	h := newHold(t)
	h.release()
	k.serve(h.handle)
	bystander := k.open()
	p := k.open()
	before := heap()
	body := make([]byte, 16<<10)
	for i := range ids(20_000) { // 320 MB
		if p.write(frame(wire.Header{Kind: wire.KindRequest, Call: uint32(i % 1024), Aux: mEcho}, body)) != nil {
			break
		}
	}
	grown(t, before, 64<<20)
	if n := h.most.Load(); n > 2048 {
		t.Errorf("%d handlers ran for one link", n)
	}
	bystander.echoes()
	p.conn.Close()
	k.open().echoes()
}

func TestCancelStormOfCallsThatDoNotStop(t *testing.T) {
	k := puppet(t)
	h := newHold(t)
	k.serve(h.handle)
	bystander := k.open()
	p := k.open()
	const calls = 20_000
	done := make(chan struct{})
	ends := map[uint32]int{}
	refused := 0
	go func() {
		defer close(done)
		for range calls {
			f, _, err := p.next()
			if err != nil || f.Kind != wire.KindError {
				t.Errorf("got %+v, %v", f, err)
				return
			}
			ends[f.Call]++
			if sdk.Code(f.Aux&0xff) == sdk.CodeOverloaded {
				refused++
			}
		}
	}()
	for round := range calls / 1000 {
		var requests, cancels []byte
		for id := range uint32(1000) {
			requests = wire.AppendFrame(requests, wire.Header{Kind: wire.KindRequest, Call: id, Aux: mEcho}, nil)
			cancels = wire.AppendFrame(cancels, wire.Header{Kind: wire.KindCancel, Call: id}, nil)
		}
		if err := p.write(requests); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return int(h.running.Load()) == min(1000*(round+1), 2048) })
		if err := p.write(append(cancels, cancels...)); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	for id, n := range ends {
		if n != calls/1000 {
			t.Errorf("call %d was ended %d times", id, n)
		}
	}
	if n := h.most.Load(); n != 2048 || refused != calls-2048 {
		t.Errorf("%d handlers ran for one link, %d calls were refused", n, refused)
	}
	bystander.echoes()
	h.release()
	waitFor(t, func() bool { return h.running.Load() == 0 })
	p.echoes()
}

func TestCancelStormOfStreams(t *testing.T) {
	k := puppet(t)
	k.serve(echo)
	p := k.open()
	for round := range 20 {
		var b []byte
		for id := range uint32(1000) {
			b = wire.AppendFrame(b, wire.Header{Kind: wire.KindRequest, Flags: wire.FlagNone, Call: id, Aux: mChat}, nil)
			b = wire.AppendFrame(b, wire.Header{Kind: wire.KindMessage, Call: id}, []byte("x"))
			b = wire.AppendFrame(b, wire.Header{Kind: wire.KindCancel, Call: id}, nil)
			b = wire.AppendFrame(b, wire.Header{Kind: wire.KindMessage, Call: id}, []byte("y"))
		}
		if err := p.write(b); err != nil {
			t.Fatal(err)
		}
		ended := map[uint32]bool{}
		for len(ended) < 1000 {
			f, _ := p.hear()
			if ended[f.Call] {
				t.Fatalf("round %d: %s for call %d after its end", round, f.Kind, f.Call)
			}
			ended[f.Call] = f.Kind != wire.KindMessage && f.Kind != wire.KindCredit
			if !ended[f.Call] {
				delete(ended, f.Call)
			}
		}
	}
	p.echoes()
}

func TestStreamsBeyondTheWindowEndTheLink(t *testing.T) {
	for name, test := range map[string]struct {
		size, fit int
	}{
		"empty messages": {0, 256 << 10 / 64},
		"large messages": {32 << 10, 8},
	} {
		t.Run(name, func(t *testing.T) {
			k := puppet(t)
			stopped := make(chan struct{})
			k.m.Register(&echoDesc, echo, echo, count, sum, func(ctx context.Context, _ *cell.Call) error {
				<-ctx.Done() // and never receives
				close(stopped)
				return nil
			})
			k.serveRegistered()
			p := k.open()
			p.say(wire.KindRequest, wire.FlagNone, 9, nil)
			p.final(9)
			p.request(7, mChat, nil)
			for range test.fit {
				p.say(wire.KindMessage, 0, 7, make([]byte, test.size))
			}
			p.echoes()
			p.say(wire.KindMessage, 0, 7, nil)
			p.ended()
			<-stopped
			k.open().echoes()
		})
	}
}

// Memory that one link can hold is bounded, whatever the other side leaves open.
func TestWhatALinkHoldsIsBounded(t *testing.T) {
	part := make([]byte, 64<<10)
	for name, attack := range map[string]func(p *peer) (limit uint64){
		"requests that are never complete": func(p *peer) uint64 {
			for id := range uint32(ids(1000)) {
				p.say(wire.KindRequest, wire.FlagMore, id, part)
				for range 4 {
					p.say(wire.KindFragment, wire.FlagMore, id, part)
				}
			}
			return 64 << 20 // of which 32 MiB are messages
		},
		"requests in handlers that hang": func(p *peer) uint64 {
			for range 4 {
				for id := range uint32(ids(1000)) {
					p.request(id, mEcho, part)
					p.say(wire.KindCancel, 0, id, nil)
				}
			}
			return 64 << 20 // of which 32 MiB are messages
		},
		"streamed messages that are never complete": func(p *peer) uint64 {
			for id := range uint32(ids(300)) {
				p.say(wire.KindRequest, wire.FlagNone, id, nil)
				_ = p.write(frame(wire.Header{Kind: wire.KindRequest, Call: 300 + id, Aux: mChat, Flags: wire.FlagNone}, nil))
				p.say(wire.KindMessage, wire.FlagMore, 300+id, nil)
				for range 10 {
					p.say(wire.KindFragment, wire.FlagMore, 300+id, part)
				}
			}
			return 160 << 20 // their windows, and the bytes beyond
		},
		"small requests that keep large buffers": func(p *peer) uint64 {
			pings := bytes.Repeat(frame(wire.Header{Kind: wire.KindPong}, nil), 256<<10/16)
			for id := range uint32(ids(600)) {
				p.request(id, mEcho, part[:2049])
				_ = p.write(pings)
			}
			return 48 << 20
		},
		"long metadata": func(p *peer) uint64 {
			meta, err := wire.AppendMeta(nil, []wire.Meta{{Key: "a", Value: string(part[:2<<10])}, {Key: "b", Value: string(part[:1<<10])}})
			if err != nil {
				p.t.Error(err)
			}
			for range 10 {
				for id := range uint32(1000) {
					p.say(wire.KindRequest, wire.FlagMeta, id, meta)
					p.say(wire.KindCancel, 0, id, nil)
				}
			}
			return 32 << 20
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := puppet(t)
			h := newHold(t)
			k.serve(h.handle)
			bystander := k.open()
			p := k.open()
			go func() { // refusals are read, so that only what is held counts
				_, _ = io.Copy(io.Discard, p.conn)
			}()
			before := heap()
			limit := attack(p)
			_ = p.write(frame(wire.Header{Kind: wire.KindPing}, nil))
			bystander.echoes()
			grown(t, before, limit)
			p.conn.Close()
			h.release()
			k.open().echoes()
		})
	}
}

func TestACallerThatGoesAwayStopsItsHandlers(t *testing.T) {
	k := puppet(t)
	started, stopped := make(chan struct{}, 100), make(chan error, 100)
	k.serve(func(ctx context.Context, c *cell.Call) error {
		if len(c.Request()) > 0 {
			return echo(ctx, c)
		}
		started <- struct{}{}
		<-ctx.Done()
		stopped <- ctx.Err()
		return ctx.Err()
	})
	bystander := k.open()
	p := k.open()
	for id := range uint32(100) {
		p.request(id, mEcho, nil)
	}
	for range 100 {
		<-started
	}
	_ = p.write(frame(wire.Header{Kind: wire.KindRequest, Call: 500}, make([]byte, 100))[:40]) // and dies in the middle of a frame
	p.conn.Close()
	for range 100 {
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			t.Errorf("a handler ended with %v", err)
		}
	}
	bystander.echoes()
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}
