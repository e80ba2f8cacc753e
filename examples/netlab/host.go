package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"

	"github.com/vishvananda/netlink"
)

// A Family says which addresses a host gets. A host without any has no network
// card, only the loopback.
type Family int

// The families; a host may have both.
const (
	V4 Family = 1 << iota // an IPv4 address
	V6                    // an IPv6 address, and one of link-local scope
)

// cardName is what a host calls its network card.
const cardName = "eth0"

// A Host is a machine of the lab.
type Host struct {
	Name string

	lab    *Lab
	space  *space
	number int // 1 to maxHosts; names, addresses and the hardware address follow from it
	family Family

	// Guarded by lab.mu.
	moves    int // changes of address so far
	up, down Cable
	box      *box // nil while neither direction delays
}

// Host makes a host and connects it to the switch.
func (l *Lab) Host(name string, family Family) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.hosts) == maxHosts {
		return nil, fmt.Errorf("make host %q: the lab is closed or has %d hosts", name, maxHosts)
	}
	s, err := newSpace()
	if err != nil {
		return nil, fmt.Errorf("make host %q: %w", name, err)
	}
	h := &Host{Name: name, lab: l, space: s, number: len(l.hosts) + 1, family: family}
	if err := h.wire(); err != nil {
		return nil, errors.Join(fmt.Errorf("make host %q: %w", name, err), s.close())
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

// port is the switch's end of the cable, as the switch calls it.
func (h *Host) port() string { return fmt.Sprintf("port%d", h.number) }

// wire sets the host up, and the cable if it has one.
func (h *Host) wire() error {
	if err := h.space.do(h.prepare); err != nil || h.family == 0 {
		return err
	}
	if err := h.lab.hub.do(h.plug); err != nil {
		return err
	}
	if err := h.space.do(h.address); err != nil {
		return err
	}
	return h.lab.hub.do(func() error { return awaitUp(h.port()) })
}

// prepare gives the host its loopback and says how its card is to behave.
func (h *Host) prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("start loopback: %w", err)
	}
	settings := map[string]string{
		"ipv4/conf/all/promote_secondaries": "1", // the new address outlives the one it was added beside
		"ipv6/conf/default/addr_gen_mode":   "1", // no addresses but ours,
		"ipv6/conf/default/accept_dad":      "0", // which are usable at once
		"ipv6/conf/default/accept_ra":       "0",
	}
	if h.family&V6 == 0 {
		settings["ipv6/conf/default/disable_ipv6"] = "1"
	}
	for name, value := range settings {
		if err := sysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

// plug lays the cable; it runs where the switch is.
func (h *Host) plug() error {
	cable := netlink.NewVeth(netlink.NewLinkAttrs())
	cable.Name, cable.PeerName, cable.PeerNamespace = h.port(), cardName, netlink.NsFd(h.space.fd)
	cable.PeerHardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 0, byte(h.number)}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("lay cable: %w", err)
	}
	return attach(cable, h.lab.bridge)
}

// attach makes a card, which is started, a port of a bridge.
func attach(card, bridge netlink.Link) error {
	if err := netlink.LinkSetMaster(card, bridge); err != nil {
		return fmt.Errorf("attach %s to %s: %w", card.Attrs().Name, bridge.Attrs().Name, err)
	}
	if err := netlink.LinkSetUp(card); err != nil {
		return fmt.Errorf("start %s: %w", card.Attrs().Name, err)
	}
	return nil
}

// address starts the card and gives it its addresses and the IPv4 multicast
// route; IPv6 has one by itself.
func (h *Host) address() error {
	card, err := netlink.LinkByName(cardName)
	if err != nil {
		return fmt.Errorf("find card: %w", err)
	}
	if err := netlink.LinkSetUp(card); err != nil {
		return fmt.Errorf("start card: %w", err)
	}
	if err := awaitUp(cardName); err != nil {
		return err
	}
	addrs := h.prefixes()
	if h.family&V6 != 0 {
		addrs = append(addrs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(h.number)}), 64))
	}
	if err := addAddrs(card, addrs); err != nil {
		return err
	}
	if h.family&V4 == 0 {
		return nil
	}
	route := &netlink.Route{LinkIndex: card.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(224, 0, 0, 0), Mask: net.CIDRMask(4, 32)}, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add multicast route: %w", err)
	}
	return nil
}

// prefixes are the host's addresses with the size of their network:
// 10.77.MOVES.NUMBER/16 and fd00:77::MOVES:NUMBER/64.
func (h *Host) prefixes() []netip.Prefix {
	var list []netip.Prefix
	if h.family&V4 != 0 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(h.moves), byte(h.number)}), 16))
	}
	if h.family&V6 != 0 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x77, 13: byte(h.moves), 15: byte(h.number)}), 64))
	}
	return list
}

// ipnet is a prefix as netlink has it.
func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Addrs returns the host's present addresses, IPv4 before IPv6, without that
// of link-local scope.
func (h *Host) Addrs() []netip.Addr {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	var list []netip.Addr
	for _, p := range h.prefixes() {
		list = append(list, p.Addr())
	}
	return list
}

// Addr returns the host's present address of one family. It panics if the host
// has none, which is a mistake in the program.
func (h *Host) Addr(family Family) netip.Addr {
	list := h.Addrs()
	i := slices.IndexFunc(list, func(a netip.Addr) bool { return a.Is4() == (family == V4) })
	if i < 0 {
		panic(fmt.Sprintf("netlab: host %q has no address of that family", h.Name))
	}
	return list[i]
}

// ChangeAddress gives the host a new address of each of its families and then
// takes the old ones away, as a network does that a host roams into.
func (h *Host) ChangeAddress() error {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.moves == 255 {
		return fmt.Errorf("change address of %q: it has had %d", h.Name, h.moves)
	}
	err := h.space.do(func() error {
		card, err := netlink.LinkByName(cardName)
		if err != nil {
			return err
		}
		old := h.prefixes()
		h.moves++
		if err := addAddrs(card, h.prefixes()); err != nil {
			return err
		}
		for _, p := range old {
			if err := netlink.AddrDel(card, &netlink.Addr{IPNet: ipnet(p)}); err != nil {
				return fmt.Errorf("take address %s away: %w", p, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("change address of %q: %w", h.Name, err)
	}
	return nil
}

// Do calls f on a thread that is on the host meanwhile: sockets that it opens
// belong to the host for as long as they are open, whoever uses them.
// Goroutines that f starts are not on the host.
func (h *Host) Do(f func() error) error { return h.space.do(f) }

// Start starts a program on the host, as cmd.Start does; cmd.Run, Output and
// CombinedOutput would start it outside. It is killed when this process or the
// lab ends; the caller waits for it with cmd.Wait.
func (h *Host) Start(cmd *exec.Cmd) error {
	if err := h.space.start(cmd); err != nil {
		return fmt.Errorf("start program on %q: %w", h.Name, err)
	}
	return nil
}

// Run starts a program on the host and waits for its end.
func (h *Host) Run(cmd *exec.Cmd) error {
	if err := h.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Dial is the function of package net, on the host. The address is to be a
// literal: names are not resolved on hosts.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen is the function of package net, on the host.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket is the function of package net, on the host.
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}
