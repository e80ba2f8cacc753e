package cell

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/cellkernel/cellkernel/sdk/channel"
	"github.com/cellkernel/cellkernel/sdk/flat"
	"github.com/cellkernel/cellkernel/sdk/wire"
)

// What this side accepts on one link.
const (
	maxCalls   = 1024      // calls in flight
	maxRunning = 2048      // handlers at once, those that have lost or ended their call counted
	maxBudget  = 32 << 20  // bytes of requests in flight, and of streams beyond their windows; of replies that come in fragments
	maxMessage = 16 << 20  // bytes of one message, unless the genome says otherwise
	window     = 256 << 10 // cost of stream messages not yet received by user code
	overhead   = 64        // bytes that a stream message costs besides its own
	maxPinned  = 128       // receive buffers that leases may keep from being used again
	sendBuffer = 512 << 10 // bytes the socket takes before writes wait: several long frames
	smallBody  = 2 << 10   // longer bodies are leased where they lie, shorter ones copied
)

// A link is what both ends of a link have in common: a socket, a reader, a
// writer, and what the other side said it accepts.
type link struct {
	m      *Membrane
	info   channel.Link
	peer   Peer
	w      *writer
	r      *reader
	theirs wire.Settings // set before ready is closed
	ready  chan struct{} // closed when theirs has arrived
	greet  []byte        // settings that come in fragments
	wg     sync.WaitGroup
	// release has new calls take other links; guarded by the Membrane's mu.
	release func()
	usage   *usage // of an outgoing link that is not local; set before it is watched
}

// newLink takes ownership of f, the socket of a link.
func newLink(m *Membrane, info channel.Link, f *os.File) (*link, error) {
	defer f.Close()
	if err := channel.IsStream(f); err != nil {
		return nil, fmt.Errorf("open link to %q: %w", info.Cell, err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open link to %q: %w", info.Cell, err)
	}
	if c, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = c.SetWriteBuffer(sendBuffer) // a smaller one is slower, not wrong
	}
	w, err := newWriter(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	src := newSource(w.raw)
	return &link{
		m: m, info: info, w: w, r: newReader(src, newSpinner(src), &m.chunks), ready: make(chan struct{}),
		peer: Peer{Node: info.Node, Cell: info.Cell, Local: info.Local},
	}, nil
}

// hello sends this side's settings, with the method table if it serves.
func (l *link) hello(table []wire.Service) error {
	b, err := wire.AppendSettings(nil, wire.Settings{
		Major: wire.Major, Calls: maxCalls, Budget: maxBudget, Message: l.m.maxMessage, Window: window, Services: table,
	})
	if err != nil {
		return err
	}
	return l.send(wire.Header{Kind: wire.KindSettings, Flags: wire.FlagJSON}, new(bytesMessage(b)), bound{})
}

// settings takes one frame of the other side's settings, before which nothing
// else may come.
func (l *link) settings(h wire.Header, body []byte) error {
	switch {
	case l.greeted():
		return errors.New("settings came twice")
	case l.greet == nil && h.Kind != wire.KindSettings, l.greet != nil && (h.Kind != wire.KindFragment || h.Call != 0):
		return fmt.Errorf("%s before settings", h.Kind)
	}
	limit := wire.MaxPayload // callers have no table to tell
	if l.info.Outgoing {
		limit = wire.MaxSettings
	}
	if len(l.greet)+len(body) > limit {
		return fmt.Errorf("settings of more than %d bytes", limit)
	}
	l.greet = append(l.greet, body...)
	if l.greet == nil {
		l.greet = []byte{}
	}
	if h.Flags&wire.FlagMore != 0 {
		return nil
	}
	s, err := wire.ParseSettings(l.greet)
	if err != nil {
		return err
	}
	l.theirs, l.greet = s, nil
	close(l.ready)
	return nil
}

// greeted reports whether the other side's settings have arrived.
func (l *link) greeted() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

var errLinkEnded = errors.New("other side closed the link")

// report says in the log why a link ended, and whose fault it was, unless one
// of the sides just left.
func (l *link) report() {
	var sys syscall.Errno
	switch err := l.w.reason(); {
	case err == errLinkClosed, err == errLinkEnded, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &sys), l.m.err() != nil:
	default:
		slog.Warn("link ended", "cell", l.peer.Cell, "node", l.peer.Node.Short(), "endpoint", l.info.Endpoint, "error", err)
	}
}

// control appends a frame without a message and writes it. The reader may call it.
func (l *link) control(h wire.Header, text string) {
	if l.w.lock() != nil {
		return // the link is ending: there is nobody to tell
	}
	l.w.buf = wire.AppendFrame(l.w.buf, h, []byte(text))
	l.w.unlock(alone)
}

// A bound limits how long a sender waits for room.
type bound struct {
	stop  <-chan struct{}
	until int64        // nanos; 0 is no limit
	who   *callContext // of the handler that sends, nil if it is none
}

// bytesMessage is a message that is encoded already.
type bytesMessage []byte

// AppendFlat implements flat.Message.
func (m *bytesMessage) AppendFlat(b []byte) []byte { return append(b, *m...) }

// ParseFlat implements flat.Message.
func (m *bytesMessage) ParseFlat([]byte) error { return errors.New("not a message to decode") }

// send is sendHow for senders that are alone.
func (l *link) send(h wire.Header, m flat.Message, b bound) error {
	_, err := l.sendHow(h, m, nil, b, alone)
	return err
}

// sendHow encodes m straight into the write buffer as a frame, or, if it
// turns out to be long, as a frame and fragments. A nil m sends no message.
// What how means is said in writer.go.
// sent reports whether, in spite of an error, a part may have been written.
func (l *link) sendHow(h wire.Header, m flat.Message, meta []wire.Meta, b bound, how company) (sent bool, err error) {
	long, err := l.sendShort(h, m, meta, b, how)
	if err != nil || long == nil {
		return err == nil, err
	}
	return l.sendLong(h, long, meta, b)
}

// sendShort is sendHow for a message that fits into a frame. It returns one
// that does not, encoded, for sendLong.
func (l *link) sendShort(h wire.Header, m flat.Message, meta []wire.Meta, b bound, how company) (long []byte, err error) {
	if err := l.w.lockRoom(b); err != nil {
		return nil, err
	}
	if long, err = l.encode(h, m, meta); err != nil {
		l.w.mu.Unlock()
		return nil, err
	}
	l.w.unlock(how)
	return long, nil
}

// encode appends the frame, or returns a copy of a message that is too long
// for one. The caller holds the writer's lock.
func (l *link) encode(h wire.Header, m flat.Message, meta []wire.Meta) (long []byte, err error) {
	ok := false
	defer func() {
		if !ok && err == nil {
			l.w.mu.Unlock() // a message panicked while it was encoded
		}
	}()
	at := len(l.w.buf)
	b := append(l.w.buf, make([]byte, wire.HeaderSize)...)
	if len(meta) > 0 {
		h.Flags |= wire.FlagMeta
		if b, err = wire.AppendMeta(b, meta); err != nil {
			return nil, &sdk.Error{Code: sdk.CodeInvalid, Executed: sdk.ExecutedNo, Text: err.Error()}
		}
	}
	body := len(b)
	if m == nil {
		h.Flags |= wire.FlagNone
	} else {
		b = m.AppendFlat(b)
	}
	ok = true
	if h.Flags&wire.FlagJSON == 0 && len(b)-body == 4 && binary.LittleEndian.Uint32(b[body:]) == 0 {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%v", flat.Finished(b[body:]))
	}
	if len(b)-body > wire.MaxPayload {
		if limit := l.limit(h); len(b)-body > limit {
			return nil, sdk.Errorf(sdk.CodeTooLarge, "send message of %d bytes: other side accepts %d", len(b)-body, limit)
		}
		return append([]byte(nil), b[body:]...), nil
	}
	h.Size = uint32(len(b) - at - wire.HeaderSize)
	wire.PutHeader(b[at:], h)
	l.w.buf = wire.AppendPad(b, int(h.Size))
	return nil, nil
}

// limit is the length of the longest message the other side takes.
func (l *link) limit(h wire.Header) int {
	if h.Kind == wire.KindSettings {
		return wire.MaxSettings
	}
	return l.theirs.Message
}

// sendLong sends a long message in fragments, between which others may send.
func (l *link) sendLong(h wire.Header, msg []byte, meta []wire.Meta, b bound) (sent bool, err error) {
	for len(msg) > 0 {
		n := min(len(msg), wire.FragmentLen)
		if n < len(msg) {
			h.Flags |= wire.FlagMore
		} else {
			h.Flags &^= wire.FlagMore
		}
		if err := l.w.lockRoom(b); err != nil {
			return sent, err
		}
		if _, err := l.encode(h, new(bytesMessage(msg[:n])), meta); err != nil {
			l.w.mu.Unlock()
			return sent, err
		}
		l.w.unlock(crowd)
		msg, meta, sent = msg[n:], nil, true
		h = wire.Header{Kind: wire.KindFragment, Call: h.Call}
	}
	return true, nil
}
