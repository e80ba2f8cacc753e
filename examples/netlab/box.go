package netlab

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tapQueue is how many frames a tap keeps for the box to fetch. One write of
// an application is up to 64 of them.
const tapQueue = 4096

// A box is the middle of a cable whose frames take their time. The host's end
// of the cable is moved to a bridge of its own; between that and the switch
// the frames pass through this process, by a tap on either side. What is in
// the box does not care for addresses or protocols: multicast, ARP and IPv6
// pass like everything else, and neither host nor switch notices.
type box struct {
	up, down *pipe
	side     netlink.Link // the bridge on the host's side
	taps     [2]int
	stop     int // an event that ends the pipes
	running  sync.WaitGroup
}

// near and far are the taps on the host's side and on that of the switch,
// where far is the port while the cable has a box.
func (h *Host) near() string { return fmt.Sprintf("near%d", h.number) }
func (h *Host) far() string  { return fmt.Sprintf("far%d", h.number) }

// insert puts a box without delay into the cable; it runs where the switch is.
func (h *Host) insert() (err error) {
	b := &box{taps: [2]int{-1, -1}, stop: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.side, err = addBridge(fmt.Sprintf("side%d", h.number)); err != nil {
		return err
	}
	if b.taps[0], err = tap(h.near(), b.side); err != nil {
		return err
	}
	if b.taps[1], err = tap(h.far(), h.lab.bridge); err != nil {
		return err
	}
	if b.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make event: %w", err)
	}
	b.up, b.down = newPipe(b.taps[0], b.taps[1], b.stop), newPipe(b.taps[1], b.taps[0], b.stop)
	b.running.Go(b.up.run)
	b.running.Go(b.down.run)
	port, err := netlink.LinkByName(h.port())
	if err != nil {
		return fmt.Errorf("find port: %w", err)
	}
	if err := attach(port, b.side); err != nil {
		return err
	}
	h.box = b
	return nil
}

// straighten takes the box out again; it runs where the switch is.
func (h *Host) straighten() error {
	if h.box == nil {
		return nil
	}
	port, err := netlink.LinkByName(h.port())
	if err != nil {
		return fmt.Errorf("find port: %w", err)
	}
	if err := attach(port, h.lab.bridge); err != nil {
		return err
	}
	err = h.box.close()
	h.box = nil
	return err
}

// close ends the pipes and removes taps and bridge.
func (b *box) close() error {
	err := b.halt()
	if b.side != nil {
		err = errors.Join(err, netlink.LinkDel(b.side))
	}
	return err
}

// halt ends the pipes and closes their descriptors, with which the taps go.
func (b *box) halt() error {
	var errs []error
	if b.stop >= 0 {
		_, err := unix.Write(b.stop, []byte{0: 1, 7: 0})
		errs = append(errs, err)
		b.running.Wait()
	}
	for _, fd := range []int{b.taps[0], b.taps[1], b.stop} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// tap makes a card whose cable is a descriptor, and attaches it to a bridge.
// The card is gone when the descriptor is closed.
func tap(name string, bridge netlink.Link) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: open /dev/net/tun: %w", ErrUnavailable, err)
	}
	err = func() error {
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return os.NewSyscallError("TUNSETIFF", err)
		}
		card, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetTxQLen(card, tapQueue); err != nil {
			return err
		}
		return attach(card, bridge)
	}()
	if err != nil {
		return -1, errors.Join(fmt.Errorf("make tap %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// Overrun returns how many frames were lost since the box was put into the
// cable because this process did not move them fast enough: 0, or the machine
// has no time for the delay, and what a test measures is not what it shaped. A
// cable without delay has none.
func (h *Host) Overrun() (frames uint64, err error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.box == nil || h.lab.closed {
		return 0, nil
	}
	err = h.lab.hub.do(func() error {
		for _, name := range []string{h.near(), h.far()} {
			card, err := netlink.LinkByName(name)
			if err != nil {
				return fmt.Errorf("count frames lost at %s: %w", name, err)
			}
			if stats := card.Attrs().Statistics; stats != nil {
				frames += stats.TxDropped
			}
		}
		return nil
	})
	return frames + h.box.up.lost.Load() + h.box.down.lost.Load(), err
}
