package netlab

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readyWithin is how long a card or an address may take until it works.
const readyWithin = 10 * time.Second

// awaitUp waits until a card, which has been started, carries frames. Linux
// finds out in the background that a cable has two live ends, and drops what
// is sent before; lost questions for an address are repeated a second later.
func awaitUp(name string) error {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	defer func() {
		close(done)
		for range updates { // the watcher does not look at done while it sends
		}
	}()
	late := time.NewTimer(readyWithin)
	defer late.Stop()
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("watch %s: the watch ended", name)
			}
			if a := u.Attrs(); a.Name == name && a.OperState == netlink.OperUp {
				return nil
			}
		case <-late.C:
			return fmt.Errorf("await %s: not up within %s", name, readyWithin)
		}
	}
}

// addAddrs gives a card addresses and waits until they are in use: an IPv6
// address joins the group in which neighbours ask for it in the background.
func addAddrs(card netlink.Link, prefixes []netip.Prefix) error {
	updates, done := make(chan netlink.AddrUpdate), make(chan struct{})
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer func() {
		close(done)
		for range updates {
		}
	}()
	missing := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		a := &netlink.Addr{IPNet: ipnet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(card, a); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
		missing[p] = true
	}
	late := time.NewTimer(readyWithin)
	defer late.Stop()
	for len(missing) > 0 {
		select {
		case u, ok := <-updates:
			if !ok {
				return errors.New("watch addresses: the watch ended")
			}
			if u.NewAddr {
				ip, _ := netip.AddrFromSlice(u.LinkAddress.IP)
				bits, _ := u.LinkAddress.Mask.Size()
				delete(missing, netip.PrefixFrom(ip.Unmap(), bits))
			}
		case <-late.C:
			return fmt.Errorf("await addresses %v: not in use within %s", slices.Collect(maps.Keys(missing)), readyWithin)
		}
	}
	return nil
}
