package cell

import "sync"

// A replyBudget keeps the long replies of a link within what the other side has
// said it takes: in all that have begun and not ended it collects fragments.
// A reply may begin while the others take less than the budget, so one of any
// length is never too long for it. Short replies need no room: the other
// side has them as soon as they have come. The zero replyBudget has all of it.
type replyBudget struct {
	mu   sync.Mutex    // guards all below
	used int           // bytes of replies that have begun
	room chan struct{} // closed when one has ended; nil: nobody waits
}

// try begins a reply of n bytes, if that may be done now. Then the caller owes
// a give.
func (r *replyBudget) try(n, budget int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begin(n, budget)
}

// begin is try for who holds mu.
func (r *replyBudget) begin(n, budget int) bool {
	if r.used > 0 && r.used >= budget {
		return false
	}
	r.used += n
	return true
}

// take waits until a reply of n bytes may begin, as far as b allows and as long
// as w lives. Only without an error the caller owes a give.
func (r *replyBudget) take(n, budget int, w *writer, b bound) error {
	for {
		r.mu.Lock()
		if r.begin(n, budget) {
			r.mu.Unlock()
			return nil
		}
		if r.room == nil {
			r.room = make(chan struct{})
		}
		room := r.room
		r.mu.Unlock()
		h := b.who.wait()
		err := await(room, b.stop, w.done, timeAt(b.until))
		h.resume()
		if err == nil {
			err = w.reason()
		}
		if err != nil {
			return err
		}
	}
}

// give ends a reply of n bytes, the frame that ends its call included.
func (r *replyBudget) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	if r.room != nil {
		close(r.room)
		r.room = nil
	}
}
