package cell

import (
	"sync"

	"github.com/cellkernel/cellkernel/sdk"
)

// What all links of a cell hold together of messages that are not yet whole,
// of long requests, and of stream messages that wait for their handler.
const (
	fullLinks    = 8        // links that may use up their own budgets at once
	longMessages = 64       // or so many messages of the greatest length, if that is less
	partCost     = 4 << 10  // bytes that a request in part costs besides its own
	streamFree   = 4 << 10  // bytes of a stream that wait and are not counted
	streamStep   = 16 << 10 // in steps of so many the others are
)

// A longRoom is what strangers can make a cell hold, however many links they
// open: a limit on all links together, of which no node takes more than half.
// Requests in one frame are not counted, and take no lock: what they hold is
// bounded by each link's buffers, and by the calls that may wait.
type longRoom struct {
	size int // bytes

	mu    sync.Mutex // guards all below; nothing is locked under it
	used  int
	nodes map[sdk.NodeID]int // used by links of each node; "" is this one
}

func newLongRoom(maxMessage int) longRoom {
	return longRoom{size: min(fullLinks*maxBudget, longMessages*maxMessage), nodes: make(map[sdk.NodeID]int)}
}

// take counts n more bytes, or says why they are too many.
func (r *longRoom) take(node sdk.NodeID, n int) *sdk.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.nodes[node]+n > r.size/2:
		return sdk.Errorf(sdk.CodeOverloaded, "take long message: its node holds %d bytes of them, at most %d", r.nodes[node], r.size/2)
	case r.used+n > r.size:
		return sdk.Errorf(sdk.CodeOverloaded, "take long message: all nodes hold %d bytes of them, at most %d", r.used, r.size)
	}
	r.used += n
	r.nodes[node] += n
	return nil
}

// give takes back n bytes.
func (r *longRoom) give(node sdk.NodeID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	if r.nodes[node] -= n; r.nodes[node] == 0 {
		delete(r.nodes, node)
	}
}

// appendTight appends to a message of which nobody knows how long it gets. An
// eighth is what it reserves ahead: doubling would hold twice what is counted.
func appendTight(b, more []byte) []byte {
	if need := len(b) + len(more); need > cap(b) {
		b = append(make([]byte, 0, need+need/8), b...)
	}
	return append(b, more...)
}
