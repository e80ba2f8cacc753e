package netlab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// A Cable says how good the way between a host and the switch is, in one
// direction. Zero is perfect: as fast as the machine, and nothing is lost.
type Cable struct {
	// Delay is what each frame takes. With Jitter it wanders between Delay -
	// Jitter and Delay + Jitter, slowly enough that frames keep their order,
	// as the delay of a queue does. At most a second each.
	Delay, Jitter time.Duration
	// Reorder is the share of frames, 0 to 1, that are not delayed and so
	// overtake others.
	Reorder float64
	// Loss is the share of frames that are lost, 0 to 1.
	Loss float64
	// Rate is in bits a second; 0 for no limit. What is sent faster waits up to
	// 50 ms and is dropped then.
	Rate uint64
}

const (
	maxDelay = time.Second
	minRate  = 8_000                 // bits a second
	waits    = 50 * time.Millisecond // longest in the queue of a limited rate
	minBurst = 16 << 10              // bytes: some frames at once, or timers would set the rate
)

// slow reports whether frames have to wait for their time.
func (c Cable) slow() bool { return c.Delay > 0 || c.Jitter > 0 }

// check reports impossible values.
func (c Cable) check() error {
	switch {
	case c.Delay < 0 || c.Delay > maxDelay || c.Jitter < 0 || c.Jitter > maxDelay:
		return fmt.Errorf("delay %s ± %s: want 0 to %s each", c.Delay, c.Jitter, maxDelay)
	case !(c.Loss >= 0 && c.Loss <= 1) || !(c.Reorder >= 0 && c.Reorder <= 1):
		return fmt.Errorf("loss %v, reorder %v: want 0 to 1", c.Loss, c.Reorder)
	case c.Reorder > 0 && !c.slow():
		return errors.New("reorder without delay: nothing can be overtaken")
	case c.Rate > 0 && c.Rate < minRate:
		return fmt.Errorf("rate %d: want %d or more bits a second", c.Rate, minRate)
	}
	return nil
}

// Shape makes the host's cable so, in each direction, from the next frame on.
func (h *Host) Shape(both Cable) error { return h.ShapeEach(both, both) }

// ShapeEach is Shape with a difference between what the host sends, up, and
// what it receives, down. A few frames may be lost when delay begins, and those
// that wait for their time are when it ends in both directions: for a change
// that loses nothing, begin with a delay of a nanosecond.
func (h *Host) ShapeEach(up, down Cable) error {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if err := h.shape(up, down); err != nil {
		return fmt.Errorf("shape cable of %q: %w", h.Name, err)
	}
	return nil
}

// shape applies the parts one after the other: loss by a filter, rate by token
// buckets, delay by a box. h.lab.mu is locked.
func (h *Host) shape(up, down Cable) error {
	if err := errors.Join(up.check(), down.check()); err != nil {
		return err
	}
	if h.family == 0 || h.lab.closed {
		return errors.New("it has no cable")
	}
	oldUp, oldDown := h.up, h.down
	h.up, h.down = up, down
	if up.Loss != oldUp.Loss || down.Loss != oldDown.Loss {
		if err := h.lab.filter(); err != nil {
			h.up, h.down = oldUp, oldDown
			return err
		}
	}
	if up.Rate != oldUp.Rate {
		if err := h.space.do(func() error { return limit(cardName, up.Rate) }); err != nil {
			return err
		}
	}
	if down.Rate != oldDown.Rate {
		if err := h.lab.hub.do(func() error { return limit(h.port(), down.Rate) }); err != nil {
			return err
		}
	}
	return h.delay()
}

// limit bounds what leaves a card by a token bucket, tc-tbf(8).
func limit(card string, rate uint64) error {
	link, err := netlink.LinkByName(card)
	if err != nil {
		return fmt.Errorf("limit rate of %s: %w", card, err)
	}
	perSecond := rate / 8 // bytes
	burst := max(minBurst, perSecond/1000)
	bucket := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       perSecond,
		Limit:      uint32(min(burst+perSecond*uint64(waits)/uint64(time.Second), 64<<20)),
	}
	if rate == 0 {
		err = netlink.QdiscDel(bucket)
	} else {
		bucket.Buffer = netlink.Xmittime(perSecond, uint32(burst))
		err = netlink.QdiscReplace(bucket)
	}
	if err != nil {
		return fmt.Errorf("limit rate of %s: %w", card, err)
	}
	return nil
}

// delay puts the box into the cable, tells it what to do, or removes it.
func (h *Host) delay() error {
	if !h.up.slow() && !h.down.slow() {
		return h.lab.hub.do(h.straighten)
	}
	if h.box == nil {
		if err := h.lab.hub.do(h.insert); err != nil {
			return fmt.Errorf("delay: %w", err)
		}
	}
	up, down := h.up, h.down
	h.box.up.cable.Store(&up)
	h.box.down.cable.Store(&down)
	return nil
}
