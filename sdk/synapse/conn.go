package synapse

import (
	"net"
	"sync"
	"time"
)

// endWait is how long a Conn tries to write the end of its stream.
const endWait = time.Second

// A Conn is a connection that encrypts. Its deadlines, addresses and
// concurrency are those of the connection below.
type Conn struct {
	net.Conn
	s  *Session
	rd struct {
		sync.Mutex // guards Reader
		*Reader
	}
	wr struct {
		sync.Mutex // guards all below
		buf        []byte
		closed     bool
		err        error
	}
}

// NewConn returns a Conn that speaks for s on c, both of which it owns.
func NewConn(c net.Conn, s *Session) *Conn {
	conn := &Conn{Conn: c, s: s}
	conn.rd.Reader = NewReader(c, s)
	return conn
}

// Read implements net.Conn; see [Reader.Read] for what it says at the end.
func (c *Conn) Read(p []byte) (int, error) {
	c.rd.Lock()
	defer c.rd.Unlock()
	return c.rd.Reader.Read(p)
}

// Write implements net.Conn. After an error, a deadline that passed included,
// the stream can not go on: the other side may have part of a message.
func (c *Conn) Write(p []byte) (int, error) {
	c.wr.Lock()
	defer c.wr.Unlock()
	done := 0
	for done < len(p) {
		if c.wr.closed {
			return done, net.ErrClosed
		}
		if c.wr.err != nil {
			return done, c.wr.err
		}
		n := min(len(p)-done, MaxPlain)
		c.wr.buf = c.s.Seal(c.wr.buf[:0], p[done:done+n])
		if _, c.wr.err = c.Conn.Write(c.wr.buf); c.wr.err != nil {
			return done, c.wr.err
		}
		done += n
	}
	return done, nil
}

// Close writes the end of the stream, for which it waits at most a second,
// and closes the connection. A Write that is blocked fails instead, and the
// other side sees a stream that was cut.
func (c *Conn) Close() error {
	if c.wr.TryLock() {
		if !c.wr.closed && c.wr.err == nil {
			_ = c.SetWriteDeadline(time.Now().Add(endWait))
			_, _ = c.Conn.Write(c.s.SealEnd(c.wr.buf[:0])) // who does not get it sees a cut
		}
		c.wr.closed = true
		c.wr.Unlock()
	}
	return c.Conn.Close()
}
