package membership

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/cellkernel/cellkernel/kernel/admin"
	"github.com/cellkernel/cellkernel/sdk"
)

// ReachableAt lists where other machines find doors that are at these
// addresses: what the user says first, then each door's address, or those of
// this machine where a door listens at all of them.
func ReachableAt(doors []sdk.Addr, said []string) ([]sdk.Addr, error) {
	if len(doors) == 0 {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "invite: nothing of this node listens for other machines")
	}
	var list []sdk.Addr
	add := func(a sdk.Addr) { // what is said twice, or is a door's own, is listed once
		if !slices.ContainsFunc(list, func(b sdk.Addr) bool { return a.String() == b.String() }) {
			list = append(list, a)
		}
	}
	for _, s := range said {
		a, err := addressOf(doors, s)
		if err != nil {
			return nil, err
		}
		add(a)
	}
	for _, d := range doors {
		hosts, err := hostsOf(d.Host)
		if err != nil {
			return nil, err
		}
		for _, h := range hosts {
			add(sdk.Addr{Scheme: d.Scheme, Host: h, Hint: d.Hint})
		}
	}
	return list[:min(len(list), admin.MaxAddresses)], nil
}

// addressOf completes "host", "host:port" or "scheme://host:port" by what the
// door that is meant says: the one with that scheme and port, else the first.
func addressOf(doors []sdk.Addr, s string) (sdk.Addr, error) {
	scheme, host, full := strings.Cut(s, "://")
	if !full {
		scheme, host = "", s
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), ""
	}
	if name == "" || strings.ContainsAny(name, "/ ") {
		return sdk.Addr{}, sdk.Errorf(sdk.CodeInvalid, "invite: address %.80q: want host, host:port or scheme://host:port", s)
	}
	fits := func(d sdk.Addr) bool { return !full || d.Scheme == scheme }
	i := slices.IndexFunc(doors, func(d sdk.Addr) bool { return fits(d) && portText(d) == port })
	if i < 0 {
		i = slices.IndexFunc(doors, fits)
	}
	if i < 0 {
		return sdk.Addr{}, sdk.Errorf(sdk.CodeInvalid, "invite: address %.80q: no listener of this node is for %q", s, scheme)
	}
	d := doors[i]
	return sdk.Addr{Scheme: d.Scheme, Host: net.JoinHostPort(name, cmp.Or(port, portText(d))), Hint: d.Hint}, nil
}

func portText(a sdk.Addr) string {
	_, port, _ := net.SplitHostPort(a.Host) // a transport without ports has none
	return port
}

// hostsOf returns at, or where it says "all addresses" those of this machine.
func hostsOf(at string) ([]string, error) {
	ap, err := netip.ParseAddrPort(at)
	if err != nil || !ap.Addr().IsUnspecified() {
		return []string{at}, nil
	}
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, ip := range own {
		if ip.Is4() || ap.Addr().Is6() {
			hosts = append(hosts, netip.AddrPortFrom(ip, ap.Port()).String())
		}
	}
	return hosts, nil
}

// ownAddresses lists the addresses of this machine that mean something on
// others, IPv4 first; without any, its loopback ones.
func ownAddresses() ([]netip.Addr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	var list []netip.Addr
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil || l.Flags&net.FlagUp == 0 {
			continue // it went away meanwhile, or carries nothing
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				ip, _ := netip.AddrFromSlice(n.IP)
				list = append(list, ip.Unmap())
			}
		}
	}
	if len(list) == 0 {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, nil
	}
	slices.SortStableFunc(list, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return list, nil
}
