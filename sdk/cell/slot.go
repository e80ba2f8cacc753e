package cell

import (
	"sync"
	"sync/atomic"

	"github.com/cellkernel/cellkernel/sdk"
)

// The states of a slot. A call has two parties, the caller and the link's
// reader; each moves the state by compare-and-swap, and the one who finds the
// other gone frees the slot. An id is never used again before the other side
// has ended its call.
const (
	slotFree    = iota
	slotWaiting // the request is sent or about to be
	slotDone    // the call ended; the caller has been or will be woken
	slotExpired // the deadline passed; the caller will be woken, the other side has not answered
	slotLeft    // the caller is gone, the other side has not answered
	slotLate    // expired, and the answer came before the caller woke
)

// A slot is a call in flight on an outgoing link.
type slot struct {
	id       uint32
	link     *outLink
	next     atomic.Uint32 // in the free list: id+1 of the next, 0 at the end
	state    atomic.Uint32
	deadline atomic.Int64 // nanos; 0 is none
	begun    int64        // nanos; of the moment that its call began with
	done     chan struct{}
	stream   *Stream // of a streaming call

	// The result, written by the reader before done.
	reply Vesicle
	err   *sdk.Error
	small []byte // holds short replies; belongs to the reply until released
	parts []byte // a reply that comes in fragments
}

// release implements lease for short replies, which live in the slot.
func (s *slot) release(b []byte) {
	poison(b)
	s.link.slots.put(s)
}

const (
	slotBlock  = 32 // slots made at once
	slotBlocks = maxCalls / slotBlock
)

// A slotTable holds the slots of a link. It grows by blocks, so that an idle
// link is cheap, and is read without a lock.
type slotTable struct {
	link   *outLink
	blocks [slotBlocks]atomic.Pointer[[slotBlock]slot]
	head   atomic.Uint64 // free list: tag<<32 | id+1; the tag defeats reuse between load and swap
	mu     sync.Mutex    // guards growing
	n      int           // blocks made
	freed  chan struct{} // capacity 1: a slot came back
}

// get returns a free slot, or nil when limit slots are in use.
func (t *slotTable) get(limit int) *slot {
	for {
		head := t.head.Load()
		id := uint32(head)
		if id == 0 {
			if !t.grow(limit) {
				return nil
			}
			continue
		}
		s := t.at(id - 1)
		if t.head.CompareAndSwap(head, (head>>32+1)<<32|uint64(s.next.Load())) {
			return s
		}
	}
}

// put makes s free.
func (t *slotTable) put(s *slot) {
	s.state.Store(slotFree)
	for {
		head := t.head.Load()
		s.next.Store(uint32(head))
		if t.head.CompareAndSwap(head, (head>>32+1)<<32|uint64(s.id+1)) {
			break
		}
	}
	select {
	case t.freed <- struct{}{}:
	default:
	}
}

// grow adds a block, if the limit allows one more slot.
func (t *slotTable) grow(limit int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if uint32(t.head.Load()) != 0 {
		return true // somebody else was faster
	}
	if t.n*slotBlock >= min(limit, maxCalls) {
		return false
	}
	block := new([slotBlock]slot)
	first := uint32(t.n * slotBlock)
	for i := range block {
		s := &block[i]
		s.id, s.link, s.done = first+uint32(i), t.link, make(chan struct{}, 1)
	}
	t.blocks[t.n].Store(block)
	t.n++
	for i := range block {
		if int(block[i].id) < limit {
			t.put(&block[i])
		}
	}
	return true
}

// at returns the slot with the given id, or nil if there is none.
func (t *slotTable) at(id uint32) *slot {
	if id >= maxCalls {
		return nil
	}
	b := t.blocks[id/slotBlock].Load()
	if b == nil {
		return nil
	}
	return &b[id%slotBlock]
}

// each calls f for every slot that was ever used.
func (t *slotTable) each(f func(*slot)) {
	for i := range t.blocks {
		b := t.blocks[i].Load()
		if b == nil {
			return
		}
		for j := range b {
			f(&b[j])
		}
	}
}
