package quictransport

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/cellkernel/cellkernel/sdk"
	"github.com/quic-go/quic-go"
)

// A link is one stream. Beyond net.Conn it has half-closes and Abort for the
// pump of package plugin.
type link struct {
	stream  *quic.Stream
	session *session
	greeted bool // version is read; guarded by the one reader
	written int  // until the session is proved; guarded by the one writer
	once    sync.Once
}

var _ sdk.Binder = (*link)(nil)

// newLink takes over a hold of the session.
func newLink(stream *quic.Stream, s *session, greeted bool) *link {
	return &link{stream: stream, session: s, greeted: greeted}
}

// Read reads what the other end wrote; not to be called concurrently.
func (l *link) Read(p []byte) (int, error) {
	if !l.greeted {
		if err := l.greet(); err != nil {
			return 0, err
		}
	}
	n, err := l.stream.Read(p)
	if !l.session.proved.Load() {
		l.session.taken.Add(int64(n))
	}
	if err != nil && err != io.EOF {
		return n, l.failed(err)
	}
	return n, err
}

// greet reads the byte in front of the link's own.
func (l *link) greet() error {
	var b [1]byte
	if _, err := io.ReadFull(l.stream, b[:]); err != nil {
		return l.failed(err)
	}
	if b[0] != version {
		l.Abort()
		return sdk.Errorf(sdk.CodeIncompatible, "the peer speaks version %d, not %d", b[0], version)
	}
	l.greeted = true
	return nil
}

// Write returns when all but a packet's worth is sent, or not accepted any
// more; not to be called concurrently.
func (l *link) Write(p []byte) (int, error) {
	n, err := l.stream.Write(p)
	if !l.session.proved.Load() {
		l.answered(n)
	}
	if err != nil {
		err = l.failed(err)
	}
	return n, err
}

// failed notices a listener that is gone: its connection is not dialled over again.
func (l *link) failed(err error) error {
	var e *quic.StreamError
	if errors.As(err, &e) && e.Remote && e.ErrorCode == codeGone {
		l.session.retire()
		return sdk.Errorf(sdk.CodeUnavailable, "the listener does not accept links any more")
	}
	return err
}

// CloseWrite ends the stream for the other end after all bytes before.
func (l *link) CloseWrite() error { return l.stream.Close() }

// CloseRead makes the other end's writes fail.
func (l *link) CloseRead() error {
	l.stream.CancelRead(codeDone)
	return nil
}

// Close delivers what was written and ends the link.
func (l *link) Close() error {
	l.once.Do(func() {
		l.stream.SetDeadline(time.Unix(1, 0)) // wakes readers and writers
		l.stream.Close()
		l.stream.CancelRead(codeDone)
		l.session.release()
	})
	return nil
}

// Abort ends the link without delivering what was written: a stuck reader
// gives back the windows it holds.
func (l *link) Abort() { l.abort(codeStall) }

func (l *link) abort(code quic.StreamErrorCode) {
	l.once.Do(func() {
		l.stream.CancelWrite(code)
		l.stream.CancelRead(code)
		l.session.release()
	})
}

// ChannelBinding returns that of the connection, which all its links share.
func (l *link) ChannelBinding() [32]byte { return l.session.binding }

func (l *link) LocalAddr() net.Addr                { return l.session.conn.LocalAddr() }
func (l *link) RemoteAddr() net.Addr               { return l.session.conn.RemoteAddr() }
func (l *link) SetDeadline(t time.Time) error      { return l.stream.SetDeadline(t) }
func (l *link) SetReadDeadline(t time.Time) error  { return l.stream.SetReadDeadline(t) }
func (l *link) SetWriteDeadline(t time.Time) error { return l.stream.SetWriteDeadline(t) }
