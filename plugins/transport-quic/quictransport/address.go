package quictransport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cellkernel/cellkernel/sdk"
)

// maxAddresses is how many addresses of one name are tried.
const maxAddresses = 4

// A target is a parsed address: a name or an IP address, and a port.
type target struct {
	host string // empty for all addresses of this machine
	port uint16
}

// parseTarget splits "host:port". The scheme was checked by the adapter.
func parseTarget(addr sdk.Addr) (target, error) {
	host, text, err := net.SplitHostPort(addr.Host)
	if err != nil || addr.Scheme != "quic" || strings.ContainsAny(host, "\x00 /") {
		return target{}, sdk.Errorf(sdk.CodeInvalid, "address %q: want quic://host:port", addr)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return target{}, sdk.Errorf(sdk.CodeInvalid, "address %q: port %q: want a number up to 65535", addr, text)
	}
	return target{host, uint16(port)}, nil
}

// resolve returns the addresses of the target, at most maxAddresses.
func (g target) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(g.host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), g.port)}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", g.host)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil || len(ips) == 0 {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "resolve %q: %v", g.host, causeOf(err))
	}
	var all []netip.AddrPort
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), g.port))
	}
	return all, nil
}

// causeOf leaves out what net repeats: the operation and the address.
func causeOf(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New(dns.Err)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return causeOf(op.Err)
	}
	var inner interface{ Unwrap() error }
	if errors.As(err, &inner) && inner.Unwrap() != nil {
		return causeOf(inner.Unwrap())
	}
	return err
}

// source is what limits count by: an IPv4 address, or the IPv6 network that
// one customer usually gets.
func source(addr net.Addr) netip.Prefix {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := udp.AddrPort().Addr().Unmap().WithZone("")
	bits := 56
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}
