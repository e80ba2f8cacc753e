package cell

import (
	"io"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/sdk/wire"
)

// A reader cuts a stream into frames. It reads into chunks, so that a frame's
// body can be leased where it lies; only the part of a frame that does not fit
// into the rest of a chunk is moved, once.
type reader struct {
	src   io.Reader
	pools *chunkPools
	c     *chunk
	r, w  int // c.buf[r:w] is read but not yet parsed; r is a multiple of 8
	calm  int // reads in a row that would have fitted a small chunk
	bytes atomic.Uint64
	now   int64        // nanos of the last read
	spin  *spinner     // nil where what is read must be opened first
	eager bool         // spin before sleeping
	live  atomic.Int32 // chunks in use: c and those that leases keep
}

const calmReads = 64 // small reads before a large chunk is given back

func newReader(src io.Reader, spin *spinner, pools *chunkPools) *reader {
	r := &reader{src: src, spin: spin, pools: pools}
	r.c = r.chunk(smallChunk)
	return r
}

func (r *reader) chunk(size int) *chunk {
	c := r.pools.get(size)
	c.live = &r.live
	r.live.Add(1)
	return c
}

// lease returns body, which lies in r.c, as a message. It is copied when too
// many chunks are leased: a few bytes that are kept for long keep all of theirs.
func (r *reader) lease(body []byte) Vesicle {
	if r.live.Load() > maxPinned {
		return Vesicle{b: append([]byte(nil), body...)}
	}
	r.c.retain()
	return Vesicle{body, r.c}
}

// next returns the next frame. The body lies in r.c and stays there until the
// following call of next, or as long as r.c is retained.
func (r *reader) next() (wire.Header, []byte, error) {
	for {
		h, body, n, err := wire.ParseFrame(r.c.buf[r.r:r.w])
		if err == nil {
			r.r += n
			return h, body, nil
		}
		if err != wire.ErrShort {
			return h, nil, err
		}
		if err := r.fill(); err != nil {
			return h, nil, err
		}
	}
}

// buffered reports whether a whole frame is there without reading.
func (r *reader) buffered() bool {
	h, err := wire.ParseHeader(r.c.buf[r.r:r.w])
	return err == nil && h.Len() <= r.w-r.r
}

// fill reads more, after it made room for the frame that has begun.
func (r *reader) fill() error {
	if r.eager && r.glance() {
		return nil
	}
	r.prepare()
	n, err := r.src.Read(r.c.buf[r.w:])
	r.got(n)
	if n > 0 {
		return nil
	}
	if err == io.EOF && r.r != r.w {
		return io.ErrUnexpectedEOF
	}
	return err
}

// glance reads what comes within spinFor, and reports whether anything did.
func (r *reader) glance() bool {
	if r.spin == nil {
		return false
	}
	r.prepare()
	n := r.spin.read(r.c.buf[r.w:])
	if n > 0 {
		r.got(n)
	}
	return n > 0
}

// prepare makes room for the rest of the frame that has begun.
func (r *reader) prepare() {
	need := wire.HeaderSize
	if h, err := wire.ParseHeader(r.c.buf[r.r:r.w]); err == nil {
		need = h.Len()
	}
	r.makeRoom(need)
}

// got counts n more bytes as read.
func (r *reader) got(n int) {
	r.w += n
	r.now = nanos()
	r.bytes.Add(uint64(n))
	if n >= smallChunk/2 {
		r.calm = 0
	} else {
		r.calm++
	}
}

func (r *reader) makeRoom(need int) {
	unread := r.w - r.r
	if unread == 0 && r.c.refs.Load() == 1 {
		r.r, r.w = 0, 0 // nobody else looks at this chunk
		if len(r.c.buf) > smallChunk && r.calm > calmReads {
			r.move(smallChunk)
		}
	}
	free := len(r.c.buf) - r.w
	switch {
	case r.r+need > len(r.c.buf), free == 0:
		r.move(max(need, r.size()))
	case free < need-unread:
		r.move(max(need, r.size()))
	case free < smallChunk/2 && len(r.c.buf) > smallChunk:
		r.move(r.size())
	}
}

// size chooses the next chunk: large when the last reads were.
func (r *reader) size() int {
	if r.calm > calmReads {
		return smallChunk
	}
	return largeChunk
}

// move goes on in another chunk.
func (r *reader) move(size int) {
	c := r.chunk(size)
	n := copy(c.buf, r.c.buf[r.r:r.w])
	r.c.drop()
	r.c, r.r, r.w = c, 0, n
}

// close gives the last chunk back.
func (r *reader) close() { r.c.drop() }
