package multicastdiscovery

import (
	"fmt"
	"net/netip"
	"path"
	"time"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Limits of the configuration.
const (
	minBeat       = 100 * time.Millisecond
	maxBeat       = 10 * time.Second
	maxInterfaces = 64 // patterns, and interfaces joined
)

// Config is the section of the genome. Nodes meet if group and port, or group6
// and port, are the same: the defaults are a promise of compatibility.
type Config struct {
	Group      string          `json:"group"`      // of IPv4; empty to do without
	Group6     string          `json:"group6"`     // of IPv6, link-local scope; empty to do without
	Port       int             `json:"port"`       // UDP
	Interfaces []string        `json:"interfaces"` // names or patterns as of path.Match; empty for all
	Beat       plugin.Duration `json:"beat"`       // between two repetitions
}

// DefaultConfig is what an empty section means. The IPv6 group is of
// link-local scope and marked as not assigned by IANA (RFC 4291 section 2.7),
// with a group id of the range for that (RFC 3307 section 4.3).
func DefaultConfig() Config {
	return Config{Group: "239.255.0.1", Group6: "ff12::8000:ce11", Port: 9099, Interfaces: []string{}, Beat: plugin.Duration(3 * time.Second)}
}

// Validate reports impossible values.
func (c Config) Validate() error {
	if g, err := netip.ParseAddr(c.Group); c.Group != "" && (err != nil || !g.Is4() || !g.IsMulticast()) {
		return fmt.Errorf("key \"group\": %q: want an IPv4 multicast address, 224.0.0.0 to 239.255.255.255", c.Group)
	}
	if g, err := netip.ParseAddr(c.Group6); c.Group6 != "" && (err != nil || !g.Is6() || g.Zone() != "" || !g.IsLinkLocalMulticast()) {
		return fmt.Errorf("key \"group6\": %q: want an IPv6 multicast address of link-local scope, such as ff12::1", c.Group6)
	}
	if c.Group == "" && c.Group6 == "" {
		return fmt.Errorf("keys \"group\" and \"group6\": both are empty: want at least one")
	}
	if c.Port < 1 || c.Port > 65535 {
		return fmt.Errorf("key \"port\": %d: want 1 to 65535", c.Port)
	}
	if len(c.Interfaces) > maxInterfaces {
		return fmt.Errorf("key \"interfaces\": %d patterns: at most %d", len(c.Interfaces), maxInterfaces)
	}
	for _, p := range c.Interfaces {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return fmt.Errorf("key \"interfaces\": %q: want a name or a pattern such as \"eth*\"", p)
		}
	}
	if beat := time.Duration(c.Beat); beat < minBeat || beat > maxBeat {
		return fmt.Errorf("key \"beat\": %v: want %v to %v", beat, minBeat, maxBeat)
	}
	return nil
}

// groups returns the addresses to meet at: of IPv4 and of IPv6, each the zero
// value if there is none.
func (c Config) groups() (four, six netip.AddrPort) {
	if c.Group != "" {
		four = netip.AddrPortFrom(netip.MustParseAddr(c.Group), uint16(c.Port))
	}
	if c.Group6 != "" {
		six = netip.AddrPortFrom(netip.MustParseAddr(c.Group6), uint16(c.Port))
	}
	return four, six
}

// wants reports whether an interface of that name is to be used.
func (c Config) wants(name string) bool {
	for _, p := range c.Interfaces {
		if ok, _ := path.Match(p, name); ok { // Validate has looked for errors
			return true
		}
	}
	return len(c.Interfaces) == 0
}
