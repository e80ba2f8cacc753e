package lighthousediscovery

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cellkernel/cellkernel/sdk/plugin"
)

// Limits of the configuration.
const (
	maxServers = 16
	minBeat    = 500 * time.Millisecond
	maxBeat    = 10 * time.Second // a lighthouse grants leases of three
	minTimeout = 100 * time.Millisecond
	maxTimeout = 8 * time.Second // the kernel waits 10 s for an announcement
)

// Config is the section of the genome.
type Config struct {
	// Servers are the lighthouses, "203.0.113.7:9443", "[2001:db8::7]:9443" or
	// "lighthouse.example:9443". All of them are used at once.
	Servers []string `json:"servers"`
	// Beat is how often the node is registered anew. Others see that it is
	// gone three beats after its last one.
	Beat plugin.Duration `json:"beat"`
	// Timeout is how long a lighthouse may not answer before it counts as
	// unreachable.
	Timeout plugin.Duration `json:"timeout"`
}

// DefaultConfig is what an empty section means. It names no lighthouse, so it
// does not do by itself.
func DefaultConfig() Config {
	return Config{Servers: []string{}, Beat: plugin.Duration(3 * time.Second), Timeout: plugin.Duration(2 * time.Second)}
}

// Validate reports impossible values.
func (c Config) Validate() error {
	if n := len(c.Servers); n < 1 || n > maxServers {
		return fmt.Errorf("key \"servers\": %d lighthouses: want 1 to %d, such as \"203.0.113.7:9443\"", n, maxServers)
	}
	for i, s := range c.Servers {
		if err := checkServer(s); err != nil {
			return fmt.Errorf("key \"servers[%d]\": %.300q: %v", i, s, err)
		}
		if slices.Contains(c.Servers[:i], s) {
			return fmt.Errorf("key \"servers[%d]\": %q is there twice", i, s)
		}
	}
	if b := time.Duration(c.Beat); b < minBeat || b > maxBeat {
		return fmt.Errorf("key \"beat\": %v: want %v to %v", b, minBeat, maxBeat)
	}
	if t := time.Duration(c.Timeout); t < minTimeout || t > maxTimeout {
		return fmt.Errorf("key \"timeout\": %v: want %v to %v", t, minTimeout, maxTimeout)
	}
	return nil
}

func checkServer(s string) error {
	host, port, err := net.SplitHostPort(s)
	switch n, perr := strconv.ParseUint(port, 10, 16); {
	case err != nil || perr != nil || n == 0 || host == "":
		return fmt.Errorf("want \"host:port\"")
	case len(host) > 253 || strings.ContainsAny(host, " \t\r\n/#@?\x00"):
		return fmt.Errorf("no name of a host")
	}
	return nil
}
