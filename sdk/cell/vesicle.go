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
	pool *sync.Pool
}

// The sizes of chunks: an idle link holds the smallest.
const (
	smallChunk = 4 << 10
	largeChunk = 256 << 10
)

// chunkPools holds chunks that nobody refers to.
type chunkPools struct{ small, large sync.Pool }

func (p *chunkPools) get(size int) *chunk {
	pool, n := &p.small, smallChunk
	if size > smallChunk {
		pool, n = &p.large, largeChunk
	}
	c, _ := pool.Get().(*chunk)
	if c == nil {
		c = &chunk{buf: make([]byte, n), pool: pool}
	}
	c.refs.Store(1)
	return c
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
		c.pool.Put(c)
	case n < 0:
		panic("cell: vesicle released twice")
	}
}
