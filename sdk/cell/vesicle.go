package cell

import (
	"sync"
	"sync/atomic"
)

// A Vesicle is a message on lease: bytes in a receive buffer that others will
// use again. Its bytes begin at a multiple of 8 in memory and stay as they are
// until Release, which is called exactly once; views into them die with it.
// The zero Vesicle is an empty message that needs no release.
//
// Built with -race or the tag vesiclepoison, released bytes are overwritten,
// so that a view that outlived its message is seen in tests.
type Vesicle struct {
	b     []byte
	lease lease
}

// A lease takes back the buffer behind a Vesicle.
type lease interface{ release(b []byte) }

// Bytes returns the message. The slice must not be changed or kept.
func (v Vesicle) Bytes() []byte { return v.b }

// Release ends the lease.
func (v Vesicle) Release() {
	if v.lease != nil {
		v.lease.release(v.b)
	}
}

// A chunk is a receive buffer that several messages share. The reader that
// fills it holds one reference, every message leased from it another.
type chunk struct {
	buf  []byte
	refs atomic.Int32
	pool *chunkPools
	live *atomic.Int32 // chunks of the reader that fills this one
}

// The sizes of chunks: an idle link holds the smallest.
const (
	smallChunk = 4 << 10
	largeChunk = 256 << 10
	keepLarge  = 32 // large chunks kept for later: 8 MiB
)

// chunkPools holds chunks that nobody refers to. Large ones are kept in a list
// of their own: the garbage collector, which empties pools, would otherwise be
// woken by the very chunks that it makes necessary.
type chunkPools struct {
	small sync.Pool
	mu    sync.Mutex // guards large
	large []*chunk
}

func (p *chunkPools) get(size int) *chunk {
	c, n := (*chunk)(nil), smallChunk
	if size > smallChunk {
		n = largeChunk
		p.mu.Lock()
		if last := len(p.large) - 1; last >= 0 {
			c, p.large = p.large[last], p.large[:last]
		}
		p.mu.Unlock()
	} else {
		c, _ = p.small.Get().(*chunk)
	}
	if c == nil {
		c = &chunk{buf: make([]byte, n), pool: p}
	}
	c.refs.Store(1)
	return c
}

func (p *chunkPools) put(c *chunk) {
	if len(c.buf) == smallChunk {
		p.small.Put(c)
		return
	}
	p.mu.Lock()
	if len(p.large) < keepLarge {
		p.large = append(p.large, c)
	}
	p.mu.Unlock()
}

func (c *chunk) retain() { c.refs.Add(1) }

// release implements lease.
func (c *chunk) release(b []byte) {
	poison(b)
	c.drop()
}

func (c *chunk) drop() {
	switch n := c.refs.Add(-1); {
	case n == 0:
		c.live.Add(-1)
		c.pool.put(c)
	case n < 0:
		panic("cell: vesicle released twice")
	}
}
