package netlab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	maxCaptured = 256 << 20 // bytes a capture keeps
	captureRoom = 32 << 20  // bytes the kernel of the machine keeps until they are read
	maxSegment  = 1 << 17   // bytes: a frame that a card would have to split is up to 64 KiB
)

// A Frame is what was seen on a cable. Several packets of one connection may
// be one frame of up to 64 KiB, as they are for a card that splits them.
type Frame struct {
	Sent bool   // by the host; else received
	Data []byte // from the Ethernet header on
}

// A Capture records all that passes a host's cable at the switch: what the
// host sends before the cable loses or delays any of it, and what it receives
// after that.
type Capture struct {
	fd, stop int
	ended    chan struct{}

	mu     sync.Mutex
	frames []Frame
	bytes  int
	err    error         // why the record is not complete
	more   chan struct{} // closed when a frame is added or the capture ends
}

// Capture begins a capture; the caller ends it with Stop. It keeps up to 256
// MiB.
func (h *Host) Capture() (*Capture, error) {
	if h.family == 0 {
		return nil, fmt.Errorf("capture on %q: it has no cable", h.Name)
	}
	c := &Capture{ended: make(chan struct{}), more: make(chan struct{})}
	if err := h.lab.hub.do(func() error { return c.open(h.port()) }); err != nil {
		return nil, fmt.Errorf("capture on %q: %w", h.Name, err)
	}
	go c.read()
	return c, nil
}

// open makes the socket, packet(7).
func (c *Capture) open(card string) (err error) {
	if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	if c.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return errors.Join(fmt.Errorf("make event: %w", err), unix.Close(c.fd))
	}
	err = func() error {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureRoom); err != nil {
			return err
		}
		link, err := netlink.LinkByName(card)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // htons
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	}()
	if err != nil {
		return errors.Join(fmt.Errorf("bind packet socket: %w", err), unix.Close(c.fd), unix.Close(c.stop))
	}
	return nil
}

// read records frames until the capture is stopped, and what came before.
func (c *Capture) read() {
	defer close(c.ended)
	buf := make([]byte, maxSegment)
	for stopped := false; !stopped; {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.stop), Events: unix.POLLIN}}
		if _, err := unix.Ppoll(fds, nil, nil); err != nil && !errors.Is(err, unix.EINTR) {
			c.end(fmt.Errorf("wait for frames: %w", err))
			return
		}
		stopped = fds[1].Revents != 0
		for {
			n, from, err := unix.Recvfrom(c.fd, buf, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				c.end(fmt.Errorf("read frame: %w", err))
				return
			}
			if at, ok := from.(*unix.SockaddrLinklayer); ok {
				c.add(Frame{Sent: at.Pkttype != unix.PACKET_OUTGOING, Data: bytes.Clone(buf[:n])})
			}
		}
	}
	c.end(c.dropped())
}

// dropped is an error if the reader was too slow.
func (c *Capture) dropped() error {
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("count lost frames: %w", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("%d frames were not recorded", stats.Drops)
	}
	return nil
}

func (c *Capture) add(f Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bytes += len(f.Data); c.bytes > maxCaptured {
		c.err = fmt.Errorf("there were more than %d bytes", maxCaptured)
		return
	}
	c.frames = append(c.frames, f)
	close(c.more)
	c.more = make(chan struct{})
}

func (c *Capture) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.Join(c.err, err)
	close(c.more)
	c.more = nil // no more
}

// Await returns the first frame, of those seen and those to come, that ok
// accepts.
func (c *Capture) Await(ctx context.Context, ok func(Frame) bool) (Frame, error) {
	for seen := 0; ; {
		c.mu.Lock()
		fresh, more := c.frames[seen:], c.more
		c.mu.Unlock()
		if i := slices.IndexFunc(fresh, ok); i >= 0 {
			return fresh[i], nil
		}
		seen += len(fresh)
		if more == nil {
			return Frame{}, errors.New("await frame: the capture has ended")
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("await frame: %w, %d others were seen", ctx.Err(), seen)
		}
	}
}

// Stop ends the capture and returns what it saw. An error says that this is
// not all there was. Stop is called once.
func (c *Capture) Stop() ([]Frame, error) {
	_, err := unix.Write(c.stop, []byte{0: 1, 7: 0})
	<-c.ended
	c.err = errors.Join(c.err, err, unix.Close(c.fd), unix.Close(c.stop))
	if c.err != nil {
		return c.frames, fmt.Errorf("capture frames: %w", c.err)
	}
	return c.frames, nil
}

// Holding returns the frames that hold the bytes.
func Holding(frames []Frame, what []byte) []Frame {
	return slices.Collect(func(yield func(Frame) bool) {
		for _, f := range frames {
			if bytes.Contains(f.Data, what) && !yield(f) {
				return
			}
		}
	})
}
