package multicastdiscovery

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An iface is a network interface at one moment.
type iface struct {
	index     int
	name      string
	loopback  bool
	up        bool // and running: it has a carrier
	multicast bool
	port      bool // of a bridge, bond or team: that one is used in its place
	four, six bool // it has an address of the family to send from
}

// links tell what interfaces there are. The real ones are those of the kernel
// of the machine; tests have others.
type links interface {
	// watch calls changed once it will miss no change, and at every change
	// from then on, with the index of an interface that was removed or 0. It
	// returns when ctx is done, and with an error when changes may have been
	// missed.
	watch(ctx context.Context, changed func(removed int)) error
	scan() ([]iface, error)
}

// netlinks are the interfaces of this network namespace.
type netlinks struct {
	buffer int // bytes of updates not read yet; 0 for the system's default
}

// watch listens to route netlink. Package netlink ends a subscription at the
// first error, and that a burst of updates did not fit into the socket is one
// (ENOBUFS): then the channel is closed.
func (n netlinks) watch(ctx context.Context, changed func(removed int)) error {
	var mu sync.Mutex // guards cause
	cause := errors.New("the subscription ended")
	failed := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		cause = err
	}
	done := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: failed, ReceiveBufferSize: n.buffer})
	if err != nil {
		close(done)
		return err
	}
	// Its goroutine does not look at done while it has an update to deliver.
	defer drain(links)
	err = netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: failed, ReceiveBufferSize: n.buffer})
	if err != nil {
		close(done)
		return err
	}
	defer drain(addrs)
	defer close(done) // before the drains
	changed(0)
	for {
		var ok bool
		select {
		case <-ctx.Done():
			return nil
		case _, ok = <-addrs:
			if ok {
				changed(0)
			}
		case u, more := <-links:
			ok = more
			if ok && u.Header.Type == unix.RTM_DELLINK {
				changed(int(u.Index))
			} else if ok {
				changed(0)
			}
		}
		if !ok {
			mu.Lock()
			defer mu.Unlock()
			return cause
		}
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}

// scan asks for everything there is.
func (netlinks) scan() ([]iface, error) {
	all, err := complete(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	list := make([]iface, len(all))
	for i, link := range all {
		list[i] = ifaceOf(link.Attrs(), masterKind(all, link.Attrs().MasterIndex))
		for _, a := range addrs {
			if a.LinkIndex == list[i].index {
				list[i].has(a)
			}
		}
	}
	return list, nil
}

// complete asks again if the answer was overtaken by a change.
func complete[T any](list func() ([]T, error)) ([]T, error) {
	for range 4 {
		if all, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}

func ifaceOf(a *netlink.LinkAttrs, master string) iface {
	return iface{
		index: a.Index, name: a.Name,
		loopback: a.Flags&net.FlagLoopback != 0,
		up:       a.Flags&net.FlagUp != 0 && a.Flags&net.FlagRunning != 0,
		// The loopback interface can, and does not say so.
		multicast: a.Flags&(net.FlagMulticast|net.FlagLoopback) != 0,
		port:      slices.Contains([]string{"bridge", "bond", "team", "openvswitch"}, master),
	}
}

func masterKind(all []netlink.Link, index int) string {
	for _, link := range all {
		if index != 0 && link.Attrs().Index == index {
			return link.Type()
		}
	}
	return ""
}

// has takes note of an address. One that is not known to be unique yet can not
// be sent from; there will be an update when it can.
func (i *iface) has(a netlink.Addr) {
	switch {
	case a.IP.To4() != nil:
		i.four = true
	case a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 || a.Flags&unix.IFA_F_OPTIMISTIC != 0:
		// The loopback interface has no route for IPv6 multicast; processes
		// of one machine meet there over IPv4.
		i.six = !i.loopback
	}
}
