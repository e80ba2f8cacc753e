package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/examples/bench/load"
)

// The raw baseline is what a Unix socket gives without any protocol: frames
// of a fixed size, so that nothing has to be parsed.
//
//	hello    u32 kind (countHello, or of the workload), u32 payload bytes
//	request  u64 id, payload
//	reply    u64 id, then the payload (echo) or u64 checksum (work)
//
// All integers are big endian. The reply to countHello is u64 calls.

const (
	countHello = 99
	maxPayload = 1 << 20
	maxWindow  = 64 << 10 // bytes in flight on one connection: what its socket buffers take
	idBytes    = 8
)

// sizes returns the lengths of a request and of its reply.
func sizes(k kind, payload int) (request, reply int) {
	if k == work {
		return idBytes + payload, 2 * idBytes
	}
	return idBytes + payload, idBytes + payload
}

// serveRaw serves until l is closed.
func serveRaw(l net.Listener) error {
	var calls atomic.Uint64
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		conns.Go(func() {
			defer c.Close()
			if err := answer(c, &calls); err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "answer raw:", err)
			}
		})
	}
}

// answer serves one connection.
func answer(c io.ReadWriter, calls *atomic.Uint64) error {
	var hello [8]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return err
	}
	k, payload := kind(binary.BigEndian.Uint32(hello[:])), binary.BigEndian.Uint32(hello[4:])
	if k == countHello {
		_, err := c.Write(binary.BigEndian.AppendUint64(nil, calls.Load()))
		return err
	}
	if payload > maxPayload {
		return fmt.Errorf("payload of %d bytes", payload)
	}
	request, _ := sizes(k, int(payload))
	in, have := make([]byte, max(maxWindow, request)+request), 0
	var out []byte
	for {
		n, err := c.Read(in[have:])
		if err != nil {
			return err
		}
		have += n
		whole := have / request * request
		if whole == 0 {
			continue
		}
		out = appendReplies(out[:0], in[:whole], k, request)
		have = copy(in, in[whole:have])
		calls.Add(uint64(whole / request))
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

func appendReplies(out, in []byte, k kind, request int) []byte {
	if k == echo {
		return append(out, in...)
	}
	for ; len(in) > 0; in = in[request:] {
		out = append(out, in[:idBytes]...)
		out = binary.BigEndian.AppendUint64(out, uint64(load.Checksum(in[idBytes:request])))
	}
	return out
}

// rawServer is the raw server as the callers see it.
type rawServer struct{ socket string }

func (r *rawServer) dial(ctx context.Context, k kind, payload int) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", r.socket)
	if err == nil {
		if err = sayHello(c, k, payload); err == nil {
			return c, nil
		}
		c.Close()
	}
	return nil, fmt.Errorf("dial raw server: %w", err)
}

func sayHello(w io.Writer, k kind, payload int) error {
	hello := binary.BigEndian.AppendUint32(nil, uint32(k))
	_, err := w.Write(binary.BigEndian.AppendUint32(hello, uint32(payload)))
	return err
}

// countOf reads the reply to countHello.
func countOf(r io.Reader) (uint64, error) {
	var n [8]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return 0, fmt.Errorf("count calls of raw: %w", err)
	}
	return binary.BigEndian.Uint64(n[:]), nil
}

// count implements server.
func (r *rawServer) count(ctx context.Context) (uint64, error) {
	c, err := r.dial(ctx, countHello, 0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return countOf(c)
}

// open implements server. Requests that fit into a socket's buffer together
// go over one connection, in one write: no system that has to parse could be
// faster. Larger ones get a connection each.
func (r *rawServer) open(ctx context.Context, w workload) (cs []caller, _ func(), err error) {
	request, _ := sizes(w.kind, w.payload)
	count, width := 1, w.inFlight
	if request*width > maxWindow {
		count, width = w.inFlight, 1
	}
	var conns []net.Conn
	closeAll := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range count {
		c, err := r.dial(ctx, w.kind, w.payload)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		conns = append(conns, c)
		cs = append(cs, caller{newWindow(c, w, width).call, width})
	}
	return cs, closeAll, nil
}

// A window is the requests that travel together on one connection.
type window struct {
	conn           io.ReadWriter
	kind           kind
	request, reply int // bytes
	checksum       uint64
	out, in        []byte
}

func newWindow(c io.ReadWriter, w workload, width int) *window {
	v := &window{conn: c, kind: w.kind}
	v.request, v.reply = sizes(w.kind, w.payload)
	v.out, v.in = make([]byte, width*v.request), make([]byte, width*v.reply)
	payload := sevens(w.payload)
	v.checksum = uint64(load.Checksum(payload))
	for i := range width {
		binary.BigEndian.PutUint64(v.out[i*v.request:], uint64(i)<<32)
		copy(v.out[i*v.request+idBytes:], payload)
	}
	return v
}

// exchange writes the requests and reads the replies. Where one of the two
// could wait for the other, because buffers on the way do not take all, they
// go on at once.
func (v *window) exchange() error {
	var err error
	if len(v.out) <= maxWindow {
		_, err = v.conn.Write(v.out)
	} else {
		var written sync.WaitGroup
		written.Go(func() { _, _ = v.conn.Write(v.out) }) // if it fails, so does the read
		defer written.Wait()
	}
	if err == nil {
		_, err = io.ReadFull(v.conn, v.in)
	}
	return err
}

// call sends the window and checks all replies.
func (v *window) call(context.Context) error {
	for at := 0; at < len(v.out); at += v.request {
		binary.BigEndian.PutUint64(v.out[at:], binary.BigEndian.Uint64(v.out[at:])+1)
	}
	if err := v.exchange(); err != nil {
		return err
	}
	if v.kind == echo {
		if string(v.in) != string(v.out) {
			return errReply
		}
		return nil
	}
	for i, n := 0, len(v.in)/v.reply; i < n; i++ {
		id, sum := v.in[i*v.reply:], v.in[i*v.reply+idBytes:]
		if string(id[:idBytes]) != string(v.out[i*v.request:][:idBytes]) || binary.BigEndian.Uint64(sum) != v.checksum {
			return errReply
		}
	}
	return nil
}
